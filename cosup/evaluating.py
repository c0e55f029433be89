"""What `cosup evaluate` does: our predictions, files in the formats of KILT and ALCE, and suites of tasks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosup.data.writing import check_apart
from cosup.errors import UsageError
from cosup.shell import Shell
from cosup.version import __version__

if TYPE_CHECKING:
    from cosup.evaluation.judging.base import Judge
    from cosup.evaluation.report import Report
    from cosup.modeling import CoSupervisedModel
    from cosup.records import Answer, Passage, Question

_FILES = (".json", ".jsonl", ".md", ".html")
_WRITTEN = ("report.json", "report.md", "report.html", "per_question.jsonl")
_PROBE = ("It rains.", "It rains.")


@dataclass(frozen=True)
class Inputs:
    """Files that are compared.

    Attributes:
        questions: each file is a task of its own where there are several.
        against: predictions of another system for the same questions.
    """

    predictions: Sequence[Path] = ()
    questions: Sequence[Path] = ()
    passages: Sequence[Path] = ()
    against: Sequence[Path] = ()


@dataclass(frozen=True)
class _Data:
    """What the files hold, passages by id; `tasks` has the name of each question's task."""

    corpus: dict[str, Passage]
    asked: list[Question]
    answers: list[Answer]
    against: list[Answer] | None
    tasks: dict[str, str] = field(default_factory=dict)


def evaluate_predictions(shell: Shell, inputs: Inputs, output: Path, judging: Mapping[str, Any]) -> None:
    """Measure predictions and write `report.json`, `report.md`, `report.html` and `per_question.jsonl`.

    Raises:
        UsageError: an option is missing, the judge cannot be used, or `output` is named like a file.
        InputError: a file is wrong.
    """
    from cosup.evaluation.html import write_html
    from cosup.evaluation.report import evaluate
    from cosup.evaluation.report_text import write_report

    for name in ("predictions", "questions", "passages"):
        if not getattr(inputs, name):
            raise UsageError(f"--{name} is missing; run 'cosup evaluate --help'")
    _check_folder(output)
    check_apart([output / name for name in _WRITTEN], [path for paths in vars(inputs).values() for path in paths])
    data = _read(inputs)
    settings: dict[str, Any] = {"cosup_version": __version__}
    settings |= {name: [str(p) for p in paths] for name, paths in vars(inputs).items() if paths}
    by_task = (lambda question: data.tasks[question.id]) if len(inputs.questions) > 1 else None
    with _judge(shell, judging) as judge:
        report = evaluate(data.answers, data.asked, data.corpus.values(), settings, by_task, data.against, judge)
    written = write_report(report, output)
    write_html(report, data.corpus, output / "report.html")
    _show(shell, report)
    shell.note(f"written: {written}, {', '.join(_WRITTEN[1:])}")


def evaluate_official(
    shell: Shell,
    name: str,
    files: tuple[Sequence[Path], Path],
    official: Mapping[str, Any],
    judging: Mapping[str, Any],
) -> None:
    """Score one file in an official format and write a JSON file with the official names and scales.

    Beside it, in `NAME.per_question.jsonl`, goes a line for each question: its scores, and what a judge found.

    Args:
        name: `kilt` or `alce`.
        files: what to score, and the file to write; a folder gets a `report.json`.
        official: the options of `commands.evaluate.OFFICIAL`.
        judging: those of `commands.evaluate.JUDGING`.

    Raises:
        UsageError: an option is missing or does not fit.
        InputError: a file is wrong.
    """
    predictions, output = files
    if len(predictions) != 1:
        raise UsageError(f"--format {name} scores one file; found {len(predictions)} --predictions")
    target = output if output.suffix.lower() == ".json" else output / "report.json"
    if target != output and output.suffix.lower() in _FILES and not output.is_dir():
        raise UsageError(f"--output is {output}; --format {name} writes a .json file, or report.json into a folder")
    if target.is_dir():
        raise UsageError(f"cannot write {target}: it is a folder; expected a file name")
    from cosup.data.writing import write_json, write_jsonl
    from cosup.evaluation.official import score_alce_file, score_kilt_file

    single = target.with_suffix(".per_question.jsonl")
    check_apart((target, single), (predictions[0], official["gold"]))
    with _judge(shell, judging) as judge:
        if name == "kilt":
            scored = score_kilt_file(predictions[0], official)
        else:
            scored = score_alce_file(predictions[0], official, judge)
    metrics = scored.metrics
    settings = {"cosup_version": __version__, "format": name, "predictions": str(predictions[0])}
    settings |= {"gold": str(official["gold"])} if name == "kilt" else {}
    whole = {"metrics": metrics, "intervals": scored.intervals, **scored.record, "settings": settings}
    write_jsonl(single, scored.questions)
    write_json(target, whole)
    shell.tell(whole, _score_lines(metrics, scored.intervals))
    for line in _counted(scored.record):
        shell.note(line)
    shell.note(f"written: {target}, {single.name}")


def evaluate_suite(
    shell: Shell,
    path: Path,
    places: tuple[Path | None, Path | None],
    load: Callable[[Path], CoSupervisedModel],
    judging: Mapping[str, Any],
) -> None:
    """Run a suite of tasks and print its table.

    Args:
        places: the model and the output folder, each in place of the suite's own.
        load: checks a model folder and loads it.

    Raises:
        UsageError: the suite has no output folder, or an option does not fit.
        InputError: the suite or a file that it names is wrong.
    """
    from cosup.console import draw_table
    from cosup.evaluation.suite_run import Means, run_suite
    from cosup.evaluation.suite_table import suite_markdown, suite_notes, suite_rows
    from cosup.evaluation.suites import load_suite

    model, output = places
    suite = load_suite(path, None if model is None else str(model))
    folder = output or (Path(suite.output) if suite.output else None)
    if folder is None:
        raise UsageError(f"{path} names no 'output'; give --output FOLDER")
    _check_folder(folder)
    with _judge(shell, judging) as judge:
        if judge is not None:
            judge.decide([_PROBE])  # a judge that cannot be asked is found out before hours of answering
        rows = run_suite(suite, folder, Means(load, shell.progress, judge))
    if shell.as_json:
        shell.record(json.loads((folder / "suite.json").read_text(encoding="utf-8")))
    elif shell.out.is_terminal:
        draw_table(shell.out, suite_rows(rows))
    else:
        shell.result(suite_markdown(rows).rstrip())
    for line in suite_notes(rows):
        shell.note(line)
    shell.note(f"written: {folder / 'suite.json'}, suite.md, and a report in each task's folder")


def task_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Name the task of each question file: its stem, with as many folders before it as tell them apart."""
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = {path: "/".join(path.with_suffix("").parts[-depth:]) for path in paths}
        if len(set(names.values())) == len(names):
            break
    return names


def _check_folder(output: Path) -> None:
    """Refuse a place for several files that is named like one file, unless it is a folder already."""
    if output.suffix.lower() in _FILES and not output.is_dir():
        raise UsageError(f"--output {output} is named like a file; expected a folder, which gets several files")


def _read(inputs: Inputs) -> _Data:
    from cosup.data.reading import check_references, read_all, read_answers, read_passages, read_questions

    corpus = {passage.id: passage for passage in read_all(read_passages, inputs.passages)}
    tasks: dict[str, str] = {}
    names = task_names(inputs.questions)

    def read_task(path: str) -> list[Question]:
        batch = read_questions(path)
        check_references(batch, corpus, path)
        tasks.update({question.id: names[Path(path)] for question in batch})
        return batch

    def read_given(path: str) -> list[Answer]:
        batch = read_answers(path)
        check_references((answer for answer in batch if answer.id in tasks), corpus, path)
        return batch

    asked = read_all(read_task, inputs.questions)
    answers = read_all(read_given, inputs.predictions)
    against = read_all(read_given, inputs.against) if inputs.against else None
    return _Data(corpus, asked, answers, against, tasks)


def _show(shell: Shell, report: Report) -> None:
    from cosup.console import draw_table
    from cosup.evaluation.report_text import comparison_rows, markdown, notes, recount_rows, table_rows

    if shell.as_json:
        shell.record(report.to_dict())
    elif shell.out.is_terminal:
        for rows in (table_rows(report), recount_rows(report), comparison_rows(report)):
            if len(rows) > 1:
                draw_table(shell.out, rows)
    else:
        shell.result(markdown(report).rstrip())
    for line in notes(report):
        shell.note(line)


@contextmanager
def _judge(shell: Shell, judging: Mapping[str, Any]) -> Iterator[Judge | None]:
    """Open the judge that the options ask for, with a bar for what it is asked; None where they ask for none."""
    options = {name: value for name, value in judging.items() if name not in ("judge", "cache")}
    spec, cache = judging.get("judge"), judging.get("cache")
    if spec is None:
        given = next((name for name, value in {**options, "cache": cache}.items() if value is not None), None)
        if given is not None:
            raise UsageError("the options that begin with --judge- go with --judge")
        yield None
        return
    from cosup.evaluation.judging.cache import default_folder
    from cosup.evaluation.judging.opening import JudgeOptions, open_judge

    with shell.progress("judging", "pairs") as report:
        tell = lambda done, total: report(done, total, "")  # noqa: E731
        yield open_judge(spec, JudgeOptions(**options), cache or default_folder(), tell)


def _score_lines(metrics: Mapping[str, float], intervals: Mapping[str, Sequence[float]]) -> Iterator[str]:
    """Say each metric with its interval, if it has one, in a line."""
    width = max(map(len, metrics))
    for metric, value in metrics.items():
        ends = intervals.get(metric)
        yield f"{metric:<{width}}  {value:.4f}" + (f"  [{ends[0]:.4f}, {ends[1]:.4f}]" if ends else "")


def _counted(record: Mapping[str, Any]) -> Iterator[str]:
    """Say what was out of the ordinary, a line each."""
    for name, count in record.get("counts", {}).items():
        if count:
            yield f"{name.replace('_', ' ')}: {count:,}"
