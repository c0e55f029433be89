"""What can be known of a suite's measures before anything is answered: whether they can judge the questions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from cosup.errors import needs_extra
from cosup.evaluation.scoring import IF_RETRIEVED, JUDGED_METRICS, KILT, Context, metric_names, recounts, score
from cosup.evaluation.wanted import LONG_METRICS, has_rouge
from cosup.records import Answer, Passage, Question


def why_unjudged(
    names: Iterable[str],
    questions: Sequence[Question],
    passages: Mapping[str, Passage],
    cutoffs: Sequence[int],
    has_judge: bool,
) -> str | None:
    """Say which of the measures judges none of the questions, whatever is answered, and what to do.

    Args:
        names: measures, recounts too.
        passages: by id, at least those that are evidence.
        cutoffs: of recall@k, that the answers can tell.
        has_judge: whether there is a judge of entailment.

    Returns:
        One line, or None where each of them judges a question.
    """
    context = Context(passages, cutoffs, sorted({q.label for q in questions if q.label is not None}))
    left = dict.fromkeys(names)
    for question in questions:
        if not left:
            return None
        judged = _judged(question, context, has_judge)
        left = {name: None for name in left if name not in judged}
    absent = next(iter(left), None)
    return None if absent is None else f"{absent} judges none of its questions; {_hint(absent, cutoffs, has_judge)}"


def _judged(question: Question, context: Context, has_judge: bool) -> Collection[str]:
    """Return the measures that judge a question: those that have a score for an empty answer."""
    empty = Answer(question.id, question.question, "", "")
    scores, _ = score(empty, question, context)
    if has_judge:
        scores |= {name: 0.0 for name in JUDGED_METRICS if name != "claim_recall" or question.claims}
    return {*scores, *recounts(scores)}


def _hint(name: str, cutoffs: Sequence[int], has_judge: bool) -> str:
    single = name.removeprefix(KILT).removesuffix(IF_RETRIEVED)
    if single in JUDGED_METRICS and not has_judge:
        return "give --judge"
    if single in LONG_METRICS[1:] and not has_rouge():
        return needs_extra("it", "eval", "rouge")
    if single in set(metric_names()) - set(metric_names(cutoffs)):
        return f"its searches keep fewer than {name.split('@')[1]} hits"
    return "choose another, or see in docs/evaluation.md what a question must have for it"
