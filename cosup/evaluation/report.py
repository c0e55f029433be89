"""One report over all measures: averages over questions in percent, what was left out and why, and its files.

Nothing is dropped silently: a question without a prediction scores 0 in every measure that applies to it, a question
that a measure cannot judge (no gold answer, no evidence, no gold sentence) is counted apart for that measure, and
predictions that belong to no question or come twice are listed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from cosup.data.writing import atomic_open, write_jsonl
from cosup.errors import InputError, UsageError
from cosup.evaluation import retrieval
from cosup.evaluation.answers import ANSWER_METRICS, answer_scores
from cosup.evaluation.attribution import CITATION_METRICS, Verdict, citation_scores, judge_citations
from cosup.records import Answer, Passage, Question

T = TypeVar("T", Question, Passage)


@dataclass(frozen=True, slots=True)
class QuestionResult:
    """One question's scores: one line of `per_question.jsonl`.

    Attributes:
        answer: the prediction, an empty one where it is missing.
        scores: in 0..1; a measure that cannot judge the question is absent.
        verdicts: one for each citation, where the question has gold sentences.
    """

    question: Question
    answer: Answer
    task: str | None
    missing: bool
    scores: Mapping[str, float]
    verdicts: tuple[Verdict, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "id": self.question.id,
            "task": self.task,
            "question": self.question.question,
            "answers": list(self.question.answers),
            "gold_ids": list(self.question.gold_ids),
            "missing": self.missing,
            "answer": self.answer.answer,
            "text": self.answer.text,
            "retrieved_ids": list(retrieval.retrieved_ids(self.answer)),
            "scores": dict(self.scores),
            "citations": [v.to_dict() for v in self.verdicts],
            "finish_reason": None if self.missing else self.answer.finish_reason,
        }


@dataclass(frozen=True, slots=True)
class TaskScores:
    """Averages over one group of questions.

    Attributes:
        metrics: name -> percent; a measure that could judge none of the questions is absent.
        apart: name -> number of questions that the measure could not judge, where there are any.
    """

    metrics: dict[str, float]
    count: int
    apart: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"metrics": self.metrics, "count": self.count, "apart": self.apart}


@dataclass(frozen=True, slots=True)
class Report:
    """What `evaluate` found.

    Attributes:
        metrics: name -> percent over all questions and, with tasks, `task.name` -> percent over each.
        count: questions scored, missing predictions included.
        per_task: the averages of each task, in order of first appearance; empty without tasks.
        settings: whatever the caller wants kept beside the figures.
        apart: name -> number of questions that the measure could not judge.
        missing: ids of questions without a prediction.
        extra: ids of predictions without a question; they are not scored.
        duplicate: ids predicted more than once; the first prediction is scored.
        results: one for each question, in their order.
    """

    metrics: dict[str, float]
    count: int
    per_task: dict[str, TaskScores]
    settings: dict[str, Any]
    apart: dict[str, int]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    duplicate: tuple[str, ...]
    results: tuple[QuestionResult, ...] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the form of `report.json`: all but the results of single questions."""
        listed = {"missing": self.missing, "extra": self.extra, "duplicate": self.duplicate}
        return {
            "metrics": self.metrics,
            "count": self.count,
            "per_task": {task: scores.to_dict() for task, scores in self.per_task.items()},
            "settings": self.settings,
            "apart": self.apart,
        } | {name: {"count": len(ids), "ids": list(ids)} for name, ids in listed.items()}


def evaluate(
    answers: Iterable[Answer],
    questions: Iterable[Question],
    passages: Iterable[Passage],
    settings: Mapping[str, Any] | None = None,
    task_of: Callable[[Question], str] | None = None,
) -> Report:
    """Measure predictions against questions; docs/evaluation.md defines every measure.

    Args:
        answers: predictions, in any order.
        questions: all that should have been answered, with distinct ids.
        passages: the corpus; holds every gold, spliced and cited passage.
        settings: kept in the report as it is; JSON values.
        task_of: names the group of a question, for averages by group; none by default.

    Raises:
        InputError: there are no questions, none of them was answered, an id comes twice among questions or
            passages, or a passage id is unknown.
    """
    wanted, corpus = _by_id(questions, "question"), _by_id(passages, "passage")
    predictions = list(answers)
    given: dict[str, Answer] = {}
    for prediction in predictions:
        given.setdefault(prediction.id, prediction)
    _check_matching(given, wanted)
    _check_passages(given, wanted, corpus)
    cutoffs = retrieval.usable_cutoffs([given[i] for i in given if i in wanted])
    results = tuple(_result(q, given.get(i), corpus, task_of, cutoffs) for i, q in wanted.items())
    overall, per_task = _averages(results, _metric_names(cutoffs))
    by_task = {f"{task}.{name}": value for task, part in per_task.items() for name, value in part.metrics.items()}
    return Report(
        metrics=overall.metrics | by_task,
        count=overall.count,
        per_task=per_task,
        settings=dict(settings or {}),
        apart=overall.apart,
        missing=tuple(i for i in wanted if i not in given),
        extra=tuple(i for i in given if i not in wanted),
        duplicate=_repeated(predictions),
        results=results,
    )


def table_rows(report: Report) -> list[list[str]]:
    """Return the report as a table of text, its header first: measure, all questions, each task, counted apart.

    Percentages have one decimal; `-` stands where no question could be judged.
    """
    tasks = report.per_task
    names = [name for name in _metric_names(retrieval.CUTOFFS) if name in report.metrics]
    rows = [["measure", "all", *tasks, "counted apart"]]
    for name in names:
        cells = [report.metrics[name], *(scores.metrics.get(name) for scores in tasks.values())]
        shown = ["-" if value is None else f"{value:.1f}" for value in cells]
        rows.append([name, *shown, str(report.apart.get(name, 0))])
    counts = [report.count, *(scores.count for scores in tasks.values())]
    return [*rows, ["questions", *map(str, counts), ""]]


def markdown(report: Report) -> str:
    """Return the report as a Markdown table with notes on what was left out."""
    rows = [[cell.replace("|", r"\|") for cell in row] for row in table_rows(report)]
    rows.insert(1, ["---", *("---:" for _ in rows[0][1:])])
    lines = ["# Evaluation", "", *("| " + " | ".join(row) + " |" for row in rows), ""]
    lines += ["Averages over questions, in percent. *Counted apart*: questions that a measure cannot judge.", ""]
    lines += [f"- {note}" for note in notes(report)]
    return "\n".join(lines).rstrip() + "\n"


def notes(report: Report) -> list[str]:
    """Return one line for each kind of prediction that was missing or left out; empty where all is well."""
    kinds = [
        (report.missing, "without a prediction, scored 0"),
        (report.extra, "predicted but not asked, not scored"),
        (report.duplicate, "predicted more than once, the first one scored"),
    ]
    return [f"{len(ids)} {what}: {_shown(ids)}" for ids, what in kinds if ids]


def write_report(report: Report, folder: str | Path) -> Path:
    """Write `report.json`, `report.md` and `per_question.jsonl` into a folder, each whole or not at all.

    Returns:
        The path of `report.json`, which is written last.

    Raises:
        UsageError: the folder cannot be written to.
        InputError: the settings hold something that is not JSON.
    """
    place = Path(folder)
    path = place / "report.json"
    if place.exists() and not place.is_dir():
        raise UsageError(f"cannot write a report to {place}: it is a file; expected a folder")
    try:
        text = json.dumps(report.to_dict(), ensure_ascii=False, allow_nan=False, indent=2)
    except (TypeError, ValueError) as error:
        raise InputError(f"the report's settings cannot be written as JSON: {error}", path) from error
    write_jsonl(place / "per_question.jsonl", report.results)
    for target, content in ((place / "report.md", markdown(report)), (path, text + "\n")):
        with atomic_open(target) as stream:
            stream.write(content)
    return path


def _by_id(records: Iterable[T], kind: str) -> dict[str, T]:
    found: dict[str, T] = {}
    for record in records:
        if record.id in found:
            raise InputError(f"{kind} id {record.id!r} comes twice; expected distinct ids")
        found[record.id] = record
    return found


def _check_matching(given: Mapping[str, Answer], wanted: Mapping[str, Question]) -> None:
    if not wanted:
        raise InputError("found no questions to evaluate; expected at least one")
    if given.keys().isdisjoint(wanted):
        received = f"{len(given)} predictions ({_shown(tuple(given))})" if given else "no predictions"
        raise InputError(f"found {received}, none for the {len(wanted)} questions ({_shown(tuple(wanted))})")


def _check_passages(given: Mapping[str, Answer], wanted: Mapping[str, Question], corpus: Mapping[str, Passage]) -> None:
    for question in wanted.values():
        answer = given.get(question.id)
        uses = {"has evidence in": question.gold_ids}
        uses["retrieved or cites"] = retrieval.retrieved_ids(answer) if answer else ()
        for verb, ids in uses.items():
            unknown = next((i for i in ids if i not in corpus), None)
            if unknown is not None:
                subject = "question" if verb.startswith("has") else "prediction"
                raise InputError(f"{subject} {question.id!r} {verb} passage {unknown!r}, which is not in the corpus")


def _result(
    question: Question,
    prediction: Answer | None,
    corpus: Mapping[str, Passage],
    task_of: Callable[[Question], str] | None,
    cutoffs: Sequence[int],
) -> QuestionResult:
    answer = prediction or Answer(question.id, question.question, "", "")
    verdicts = judge_citations(answer, question, corpus)
    scores = answer_scores(answer, question)
    scores |= retrieval.search_scores(answer)
    scores |= retrieval.rank_scores(answer, question, cutoffs)
    scores |= retrieval.answer_passage_scores(answer, question, corpus)
    scores |= retrieval.passage_scores(answer, question)
    scores |= citation_scores(verdicts, question)
    task = task_of(question) if task_of else None
    return QuestionResult(question, answer, task, prediction is None, scores, verdicts)


def _metric_names(cutoffs: Sequence[int]) -> tuple[str, ...]:
    """Return every measure in the order of the tables."""
    found = retrieval.SEARCH_METRICS + retrieval.rank_metrics(cutoffs)
    held = retrieval.ANSWER_PASSAGE_METRICS + retrieval.PASSAGE_METRICS
    return ANSWER_METRICS + found + held + CITATION_METRICS


def _averages(results: Sequence[QuestionResult], names: Sequence[str]) -> tuple[TaskScores, dict[str, TaskScores]]:
    groups: dict[str, list[QuestionResult]] = {}
    for result in results:
        if result.task is not None:
            groups.setdefault(result.task, []).append(result)
    return _average(results, names), {task: _average(group, names) for task, group in groups.items()}


def _average(results: Sequence[QuestionResult], names: Sequence[str]) -> TaskScores:
    """Average over the questions that each measure judges; exact sums, so that their order never matters."""
    judged = {name: [r.scores[name] for r in results if name in r.scores] for name in names}
    metrics = {name: 100 * math.fsum(values) / len(values) for name, values in judged.items() if values}
    apart = {name: len(results) - len(values) for name, values in judged.items() if len(values) < len(results)}
    return TaskScores(metrics, len(results), apart)


def _repeated(predictions: Sequence[Answer]) -> tuple[str, ...]:
    seen: set[str] = set()
    again: dict[str, None] = {}
    for prediction in predictions:
        if prediction.id in seen:
            again[prediction.id] = None
        seen.add(prediction.id)
    return tuple(again)


def _shown(ids: Sequence[str], most: int = 3) -> str:
    return ", ".join(map(repr, ids[:most])) + (", ..." if len(ids) > most else "")
