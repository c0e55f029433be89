"""One report over all measures: averages over questions in percent, what was left out and why.

Nothing is dropped silently: a question without a prediction scores 0 in every measure that applies to it, a question
that a measure cannot judge (no gold answer, no evidence, no gold sentence) is counted apart for that measure, and
predictions that belong to no question, come twice or are empty are listed (`left_out`), those of a second file too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from cosup.errors import InputError
from cosup.evaluation import retrieval
from cosup.evaluation.alce_citations import ClaimVerdict, SentenceVerdict
from cosup.evaluation.attribution import Verdict
from cosup.evaluation.judged import judge_answers
from cosup.evaluation.judging.base import Judge
from cosup.evaluation.left_out import LeftOut, left_out, shown_ids
from cosup.evaluation.scoring import (
    Context,
    is_missed,
    metric_names,
    recount_names,
    recounts,
    score,
)
from cosup.evaluation.statistics import Comparison, compare, intervals
from cosup.records import Answer, Passage, Question

T = TypeVar("T", Question, Passage)


@dataclass(frozen=True, slots=True)
class QuestionResult:
    """One question's scores: one line of `per_question.jsonl`.

    Attributes:
        answer: the prediction, an empty one where it is missing.
        scores: in 0..1; a measure that cannot judge the question is absent.
        verdicts: one for each citation, where the question has gold sentences.
        sentences: a judge's verdict on each sentence of the output; empty without a judge.
        claims: a judge's verdict on each of the question's claims.
    """

    question: Question
    answer: Answer
    task: str | None
    missing: bool
    scores: Mapping[str, float]
    verdicts: tuple[Verdict, ...]
    sentences: tuple[SentenceVerdict, ...] = ()
    claims: tuple[ClaimVerdict, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        judged: dict[str, list[dict[str, Any]]] = {
            "sentences": [verdict.to_dict() for verdict in self.sentences],
            "claims": [verdict.to_dict() for verdict in self.claims],
        }
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
        } | {name: verdicts for name, verdicts in judged.items() if verdicts}


@dataclass(frozen=True, slots=True)
class TaskScores:
    """Averages over one group of questions.

    Attributes:
        metrics: name -> percent; a measure that could judge none of the questions is absent.
        apart: name -> number of questions that the measure could not judge, where there are any; what belongs to a
            few tasks alone is left out where none of them is here.
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
        intervals: name -> 95% bootstrap interval, percent; the names of `metrics`, those of tasks included.
        comparison: with the predictions that these were compared with, measure by measure.
        judged: the judge's name and how many sentences and claims it judged, supported, left undecided; empty without.
        empty: ids of questions that were answered with a blank text; it is scored as it is.
        against: what the predictions that these were compared with lack or have too much; None without any.
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
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    comparison: tuple[Comparison, ...] = ()
    judged: dict[str, Any] = field(default_factory=dict)
    empty: tuple[str, ...] = ()
    against: LeftOut | None = None

    @property
    def left_out(self) -> LeftOut:
        """What the predictions lack or have too much."""
        return LeftOut(self.missing, self.extra, self.duplicate, self.empty)

    def to_dict(self) -> dict[str, Any]:
        """Return the form of `report.json`: all but the results of single questions."""
        compared: dict[str, Any] = {"comparison": [c.to_dict() for c in self.comparison]} if self.comparison else {}
        compared |= {"against": self.against.to_dict()} if self.against else {}
        compared |= {"judged": self.judged} if self.judged else {}
        return (
            {
                "metrics": self.metrics,
                "intervals": {name: list(ends) for name, ends in self.intervals.items()},
                "count": self.count,
                "per_task": {task: scores.to_dict() for task, scores in self.per_task.items()},
                "settings": self.settings,
                "apart": self.apart,
            }
            | compared
            | self.left_out.to_dict()
        )


def evaluate(
    answers: Iterable[Answer],
    questions: Iterable[Question],
    passages: Iterable[Passage],
    settings: Mapping[str, Any] | None = None,
    task_of: Callable[[Question], str] | None = None,
    against: Iterable[Answer] | None = None,
    judge: Judge | None = None,
) -> Report:
    """Measure predictions against questions; docs/evaluation.md defines every measure.

    Args:
        answers: predictions, in any order.
        questions: all that should have been answered, with distinct ids.
        passages: the corpus; holds every gold, spliced and cited passage.
        settings: kept in the report as it is; JSON values.
        task_of: names the group of a question, for averages by group; none by default.
        against: another system's predictions for the same questions, to compare with.
        judge: decides whether passages entail what cites them, and outputs the questions' claims.

    Raises:
        InputError: there are no questions, none of them was answered, an id comes twice among questions or
            passages, or a passage id is unknown.
        UsageError: the judge cannot be asked.
    """
    wanted, corpus = _by_id(questions, "question"), _by_id(passages, "passage")
    given, lacking = _matched(list(answers), wanted, corpus)
    others, others_lacking = (None, None) if against is None else _matched(list(against), wanted, corpus)
    labels = sorted({q.label for q in wanted.values() if q.label is not None})
    context = Context(corpus, _cutoffs(given, wanted), labels)
    results, judged = _results(wanted, given, context, task_of, judge)
    names = (*metric_names(context.cutoffs), *recount_names())
    groups = _by_task(results)
    overall, per_task = _average(results, names), {task: _average(group, names) for task, group in groups.items()}
    by_task = {f"{task}.{name}": value for task, part in per_task.items() for name, value in part.metrics.items()}
    scores = [r.scores for r in results]
    compared: tuple[Comparison, ...] = ()
    if others is not None:
        own_context = replace(context, cutoffs=_cutoffs(others, wanted))
        theirs, _ = _results(wanted, others, own_context, None, judge)
        shared = _comparable(context.cutoffs, own_context.cutoffs)
        compared = compare(scores, [r.scores for r in theirs], shared)
    return Report(
        metrics=overall.metrics | by_task,
        count=overall.count,
        per_task=per_task,
        settings=dict(settings or {}),
        apart=overall.apart,
        missing=lacking.missing,
        extra=lacking.extra,
        duplicate=lacking.duplicate,
        results=results,
        intervals=intervals(scores, list(overall.metrics)) | _task_intervals(groups, per_task),
        comparison=compared,
        judged=judged,
        empty=lacking.empty,
        against=others_lacking,
    )


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
        received = f"{len(given)} predictions ({shown_ids(tuple(given))})" if given else "no predictions"
        raise InputError(f"found {received}, none for the {len(wanted)} questions ({shown_ids(tuple(wanted))})")


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


def _matched(
    predictions: Sequence[Answer], wanted: Mapping[str, Question], corpus: Mapping[str, Passage]
) -> tuple[dict[str, Answer], LeftOut]:
    """Return predictions by id, of several with one id the first, and what they lack or have too much."""
    given: dict[str, Answer] = {}
    for prediction in predictions:
        given.setdefault(prediction.id, prediction)
    _check_matching(given, wanted)
    _check_passages(given, wanted, corpus)
    return given, left_out(predictions, given, wanted)


def _cutoffs(given: Mapping[str, Answer], wanted: Mapping[str, Question]) -> tuple[int, ...]:
    """Return the cutoffs that one file's scored predictions can tell."""
    return retrieval.usable_cutoffs([answer for i, answer in given.items() if i in wanted])


def _comparable(ours: Sequence[int], theirs: Sequence[int]) -> tuple[str, ...]:
    """Return the measures that say the same of two files: cutoffs that both can tell, mrr if they are as deep."""
    names = (*metric_names([k for k in ours if k in theirs]), *recount_names())
    return tuple(name for name in names if name != "mrr" or tuple(ours) == tuple(theirs))


def _results(
    wanted: Mapping[str, Question],
    given: Mapping[str, Answer],
    context: Context,
    task_of: Callable[[Question], str] | None,
    judge: Judge | None,
) -> tuple[tuple[QuestionResult, ...], dict[str, Any]]:
    """Score every question; with a judge, also return what `Report.judged` says of it."""
    questions = list(wanted.values())
    answers = [given.get(q.id) or Answer(q.id, q.question, "", "") for q in questions]
    found = None if judge is None else judge_answers(answers, questions, context.passages, judge)
    results = []
    for i, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        scores, verdicts = score(answer, question, context)
        scores |= {} if found is None else found.scores[i]
        scores |= recounts(scores)
        task = task_of(question) if task_of else None
        judged = ((), ()) if found is None else (found.sentences[i], found.claims[i])
        results.append(QuestionResult(question, answer, task, question.id not in given, scores, verdicts, *judged))
    told = {} if found is None or judge is None else {"judge": judge.name, **found.counts}
    return tuple(results), told


def _by_task(results: Sequence[QuestionResult]) -> dict[str, list[QuestionResult]]:
    groups: dict[str, list[QuestionResult]] = {}
    for result in results:
        if result.task is not None:
            groups.setdefault(result.task, []).append(result)
    return groups


def _task_intervals(
    groups: Mapping[str, Sequence[QuestionResult]], per_task: Mapping[str, TaskScores]
) -> dict[str, tuple[float, float]]:
    """Return the interval of each `task.name`, over the questions of that task."""
    found = {}
    for task, group in groups.items():
        own = intervals([result.scores for result in group], list(per_task[task].metrics))
        found.update({f"{task}.{name}": ends for name, ends in own.items()})
    return found


def _average(results: Sequence[QuestionResult], names: Sequence[str]) -> TaskScores:
    """Average over the questions that each measure judges; exact sums, so that their order never matters."""
    judged = {name: [r.scores[name] for r in results if name in r.scores] for name in names}
    metrics = {name: 100 * math.fsum(values) / len(values) for name, values in judged.items() if values}
    told = {name: values for name, values in judged.items() if values or is_missed(name)}
    apart = {name: len(results) - len(values) for name, values in told.items() if len(values) < len(results)}
    return TaskScores(metrics, len(results), apart)
