"""Running a suite: for each task index, answer, measure; the same call goes on after an interruption.

`OUTPUT/TASK/` gets `questions.jsonl` (those that are asked), `predictions.jsonl` and `report/`; `OUTPUT/` gets
`suite.json` and `suite.md`, written last. Tasks with the same list of passages share one `index/`, in the folder of the
first of them that is answered (one with a `pool` has its own), and one corpus is held at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosup.data.reading import check_references, evenly, read_all, read_answers, read_passages, read_questions
from cosup.data.writing import write_json, write_jsonl, write_text
from cosup.errors import CosupError, InputError
from cosup.evaluation.html import write_html
from cosup.evaluation.judging.base import Judge
from cosup.evaluation.report import evaluate
from cosup.evaluation.report_text import write_report
from cosup.evaluation.retrieval import CUTOFFS, usable_cutoffs
from cosup.evaluation.suite_checks import why_unjudged
from cosup.evaluation.suite_table import TaskRow, average_intervals, averages, suite_markdown, task_row
from cosup.evaluation.suites import Suite, Task
from cosup.index.base import LiveIndex
from cosup.records import Answer, Passage, Question
from cosup.version import __version__

if TYPE_CHECKING:
    from cosup.generation.retrieval import Retriever
    from cosup.generation.retrievers.opening import Texts
    from cosup.modeling import CoSupervisedModel

Progress = Callable[[int, int, str], None]
Bars = Callable[[str, str], AbstractContextManager[Progress]]
"""What draws a bar: called with a description and a unit."""
_Load = Callable[[Path], "CoSupervisedModel"]
_Groups = dict[tuple[tuple[str, ...], str | None], list[Task]]
"""Tasks by their corpus: its paths, and the task's name where it has a pool of its own."""


@dataclass(frozen=True)
class Means:
    """What a suite runs with.

    Attributes:
        load: returns a model on its device; called once for each, and only if something is to be answered.
        bars: draws progress.
        judge: for the measures that need one.
        indexes: folder of indexes that other suites share; None keeps each in its task's folder.
    """

    load: Callable[[Path], CoSupervisedModel]
    bars: Bars
    judge: Judge | None = None
    indexes: Path | None = None


@dataclass(frozen=True)
class _Ready:
    """A task that was checked: what is asked, and the predictions that it names instead of answering."""

    task: Task
    questions: list[Question]
    answers: list[Answer] | None


@dataclass(frozen=True)
class _Source:
    """What finds passages among which (`corpus` names them), and what is told of it."""

    corpus: str
    retriever: LiveIndex | Retriever
    identity: Mapping[str, Any]


class _Corpora:
    """Reads a corpus; the last one stays in memory, no other."""

    def __init__(self) -> None:
        self._last: tuple[tuple[str, ...], dict[str, Passage]] | None = None

    def read(self, paths: tuple[str, ...]) -> dict[str, Passage]:
        """Return passages by id."""
        if self._last is None or self._last[0] != paths:
            self._last = None  # gone before the next is read
            self._last = paths, {passage.id: passage for passage in read_all(read_passages, paths)}
        return self._last[1]


def run_suite(suite: Suite, output: Path, means: Means) -> list[TaskRow]:
    """Run every task and write the suite's files.

    Args:
        suite: what to run.
        output: folder of results.

    Returns:
        A row for each task, in their order.

    Raises:
        InputError: a file cannot be used, or a measure of a task can judge none of its questions; before anything is
            answered.
        UsageError: the model or a folder cannot be used, or answers of another run wait there.
    """
    groups, corpora = _groups(suite), _Corpora()
    ready = _prepared(suite, groups, corpora, means.judge is not None)
    load = cache(means.load)
    _check_lengths(suite, ready.values(), load)
    for name, checked in ready.items():
        write_jsonl(output / name / "questions.jsonl", checked.questions)
    rows: dict[str, TaskRow] = {}
    for (paths, _), tasks in groups.items():
        asked = [ready[task.name] for task in tasks]
        found = _run_group(suite, asked, _pool(corpora.read(paths), asked[0]), output, means, load)
        rows |= {row.task: row for row in found}
    ordered = [rows[task.name] for task in suite.tasks]
    _write(suite, output, ordered)
    return ordered


def check_suite(suite: Suite, has_judge: bool = False) -> None:
    """Find out early what `run_suite` would find out before it answers anything; no model is needed.

    Raises:
        InputError: a file cannot be used, or a measure of a task can judge none of its questions.
    """
    _prepared(suite, _groups(suite), _Corpora(), has_judge)


def _groups(suite: Suite) -> _Groups:
    groups: _Groups = {}
    for task in suite.tasks:
        groups.setdefault((task.passages, None if task.pool is None else task.name), []).append(task)
    return groups


def _prepared(suite: Suite, groups: _Groups, corpora: _Corpora, has_judge: bool) -> dict[str, _Ready]:
    ready = {}
    for paths, own in reversed(groups):  # the first one is then at hand when the work begins
        for task in groups[paths, own]:
            ready[task.name] = _prepare(suite, task, corpora.read(paths), has_judge)
    return ready


def _prepare(suite: Suite, task: Task, corpus: Mapping[str, Passage], has_judge: bool) -> _Ready:
    questions = read_questions(task.questions)
    check_references(questions, corpus, task.questions)
    known = {question.id for question in questions}
    if task.limit is not None:
        questions = evenly(questions, task.limit)
    deepest = min(suite.settings[task.name].top_k, len(_pool(corpus, _Ready(task, questions, None))))
    answers = None
    cutoffs: Sequence[int] = [k for k in CUTOFFS if k == 1 or k <= deepest]
    if task.predictions is not None:
        answers = read_answers(task.predictions)
        check_references(answers, corpus, task.predictions)
        asked = {question.id for question in questions}
        own = [answer for answer in answers if answer.id in asked]
        if not own:
            raise InputError(f"task {task.name}: no prediction for any of its {len(asked)} questions", task.predictions)
        answers = [answer for answer in answers if answer.id in asked or answer.id not in known]  # within the limit
        cutoffs = usable_cutoffs(own)
    problem = why_unjudged(task.measures.values(), questions, corpus, cutoffs, has_judge)
    if problem is not None:
        raise InputError(f"task {task.name}: {problem}", suite.path)
    return _Ready(task, questions, answers)


def _pool(corpus: Mapping[str, Passage], ready: _Ready) -> Mapping[str, Passage]:
    """Return the passages that a task searches, in the order of the corpus; see `Task.pool`."""
    if ready.task.pool is None or ready.task.pool >= len(corpus):
        return corpus
    kept = {evidence.passage_id for question in ready.questions for evidence in question.evidence}
    for question in ready.questions:
        kept.update(question.candidates or (), *question.evidence_sets)
    kept &= corpus.keys()
    others = [name for name in corpus if name not in kept]
    kept.update(evenly(others, max(0, ready.task.pool - len(kept))))
    return {name: passage for name, passage in corpus.items() if name in kept}


def _check_lengths(suite: Suite, tasks: Iterable[_Ready], load: _Load) -> None:
    """Find out before hours of answering which questions do not fit into the model's context."""
    from cosup.generation.prompts import check_lengths

    for ready in tasks:
        if ready.answers is None:
            settings = suite.settings[ready.task.name]
            check_lengths(load(suite.model_folder), settings, ready.questions, Path(ready.task.questions))


def _run_group(
    suite: Suite,
    tasks: Sequence[_Ready],
    corpus: Mapping[str, Passage],
    output: Path,
    means: Means,
    load: _Load,
) -> list[TaskRow]:
    """Run the tasks of one corpus."""
    source: _Source | None = None
    rows = []
    for ready in tasks:
        name, answers = ready.task.name, ready.answers
        folder = output / name
        if answers is None:
            source = source or _source(suite, name, list(corpus.values()), output, means, load)
            answers = _answer(load(suite.model_folder), source, suite, ready, folder, means.bars)
        report = evaluate(answers, ready.questions, corpus.values(), _settings(suite, ready.task), judge=means.judge)
        write_report(report, folder / "report")
        write_html(report, corpus, folder / "report" / "report.html")
        rows.append(task_row(ready.task, report))
    return rows


def _source(suite: Suite, task: str, corpus: Sequence[Passage], output: Path, means: Means, load: _Load) -> _Source:
    """Make what finds passages in a corpus: the index of the model, or of who retrieves in its place."""
    from cosup.generation.retrievers.opening import Texts, open_retriever

    choice, writer = suite.retriever, load(suite.model_folder)
    separate = None if choice is None or choice.separate is None else load(choice.separate)
    bar, place = partial(means.bars, f"{task}: indexing", "passages"), output / task / "index"
    index: LiveIndex | Texts = Texts(corpus)
    if choice is None or separate is not None:
        maker = separate or writer
        if means.indexes is not None:
            place = means.indexes / f"{task}-{str(maker.fingerprint)[:16]}"
        index = _index(maker, corpus, place, bar)
        if choice is None:
            return _Source(index.identity, index, {})
    elif means.indexes is not None:
        place = means.indexes / task
    with bar() as report:
        tell = lambda done, n: report(done, n, "")  # noqa: E731
        opened = open_retriever(choice, writer, index, str(place), tell, separate)
    return _Source(index.identity, opened.retriever, opened.identity)


def _answer(
    model: CoSupervisedModel, source: _Source, suite: Suite, ready: _Ready, folder: Path, bars: Bars
) -> list[Answer]:
    from cosup.generation import predict
    from cosup.generation.engine import Engine

    task, questions = ready.task, ready.questions
    settings, asked = suite.settings[task.name], folder / "questions.jsonl"
    engine = Engine(model, source.retriever, settings)
    predict.check_questions(engine, questions, asked)
    precision = str(model.generator.dtype)
    identity = predict.identity_of(suite.model_folder, source.corpus, asked, settings, precision)
    identity |= source.identity
    maker = json.dumps(identity, indent=2) + "\n"
    done, made = folder / "predictions.jsonl", folder / "predictions.json"
    if done.is_file() and made.is_file() and made.read_bytes() == maker.encode():
        return read_answers(done)
    made.unlink(missing_ok=True)  # it must never stand beside answers that it did not make
    with bars(f"{task.name}: answering", "questions") as report:
        answers = predict.predict(engine, questions, done, identity, suite.batch_sizes[task.name], report)
    write_text(made, maker)
    return answers


def _index(
    model: CoSupervisedModel,
    corpus: Sequence[Passage],
    place: Path,
    bar: Callable[[], AbstractContextManager[Progress]],
) -> LiveIndex:
    """Open the index of an earlier run if it is this model's over this corpus, else build it."""
    from cosup.index.build import build_index
    from cosup.index.embed import EmbedOptions, tokens_for
    from cosup.index.open import open_index

    if (place / "index.json").is_file():
        try:
            found = open_index(place, model.fingerprint)
        except CosupError:
            found = None
        if found is not None and len(found) == len(corpus) and all(a == b for a, b in zip(found, corpus, strict=True)):
            return found
    options = EmbedOptions(tokens_for(model.device), computed_in=str(model.embedder.dtype))
    with bar() as report:
        tell = lambda done, n: report(done, n, "")  # noqa: E731
        return build_index(model, corpus, place, tell, None, options)


def _settings(suite: Suite, task: Task) -> dict[str, Any]:
    """Return what a task's report keeps beside its figures."""
    own = {"task": task.name, "passages": list(task.passages), "questions": task.questions, "limit": task.limit}
    return _about(suite) | own | ({} if task.pool is None else {"pool": task.pool})


def _about(suite: Suite) -> dict[str, Any]:
    found: dict[str, Any] = {"cosup_version": __version__, "suite": str(suite.path), "model": suite.model}
    return found | ({"retriever": suite.retriever.name} if suite.retriever else {})


def _write(suite: Suite, output: Path, rows: Sequence[TaskRow]) -> None:
    record = {
        "settings": _about(suite),
        "tasks": {row.task: row.to_dict() for row in rows},
        "averages": averages(rows),
        "intervals": average_intervals(rows),
    }
    write_text(output / "suite.md", suite_markdown(rows))
    write_json(output / "suite.json", record)
