"""How a question came out, in one word, so that failures can be put first.

The outcome is the first of these that holds: there is no prediction; the answer is wrong; no retrieved passage is
right; a citation is wrong (against the gold sentences, or because its sentence is not supported: the judge finds so, or
a passage that it cites is not there), or nothing is cited though citations are judged; something was left undecided. A
question of which none holds has nothing wrong with it, as far as it was judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING

from cosup.evaluation.retrieval import retrieval_right

if TYPE_CHECKING:
    from cosup.evaluation.report import QuestionResult

# The first of these that a question has says whether its answer is right: below 1 it is wrong.
YES_OR_NO = ("accuracy", "str_hit", "contains_answer", "exact_match")
# Without one of those, the first of these does: only 0 is wrong.
GRADED = ("claim_recall", "str_em", "qampari_f1", "text_f1", "f1", "rouge_l")


class Outcome(Enum):
    """What went wrong first; members stand in the order of the report, worst first."""

    MISSING = "missing"
    ANSWER = "answer"
    RETRIEVAL = "retrieval"
    CITATION = "citation"
    UNDECIDED = "undecided"
    GOOD = "good"

    @property
    def label(self) -> str:
        """The outcome in words."""
        return _LABELS[self]

    @property
    def failed(self) -> bool:
        """Whether the question counts as a failure: something is wrong with it, not only undecided."""
        return self not in (Outcome.UNDECIDED, Outcome.GOOD)


_LABELS = {
    Outcome.MISSING: "No prediction",
    Outcome.ANSWER: "Answer wrong",
    Outcome.RETRIEVAL: "Retrieval wrong",
    Outcome.CITATION: "Citation wrong",
    Outcome.UNDECIDED: "Undecided",
    Outcome.GOOD: "Nothing wrong",
}


def answer_right(scores: Mapping[str, float]) -> bool | None:
    """Whether the answer is right; None where no measure judges it."""
    measure = next((name for name in YES_OR_NO if name in scores), None)
    if measure:
        return scores[measure] >= 1
    graded = next((name for name in GRADED if name in scores), None)
    return scores[graded] > 0 if graded else None


def outcome_of(result: QuestionResult) -> Outcome:
    """Return what went wrong first."""
    if result.missing:
        return Outcome.MISSING
    if answer_right(result.scores) is False:
        return Outcome.ANSWER
    if retrieval_right(result.scores) is False:
        return Outcome.RETRIEVAL
    if _cites_nothing(result) or any(right is False for right in _citations_right(result)):
        return Outcome.CITATION
    return Outcome.UNDECIDED if left_undecided(result) else Outcome.GOOD


def left_undecided(result: QuestionResult) -> bool:
    """Whether a citation, a sentence or a claim of the question could not be decided."""
    return None in _citations_right(result) or any(verdict.entailed is None for verdict in result.claims)


def _cites_nothing(result: QuestionResult) -> bool:
    """Whether nothing is cited though citations are judged: by gold sentences, or by a judge, who reads the text."""
    if "citation_recall" in result.scores and not result.answer.citations:
        return True
    by_judge = bool(result.sentences) or "nli_citation_recall" in result.scores
    return by_judge and not any(sentence.citations for sentence in result.sentences)


def _citations_right(result: QuestionResult) -> list[bool | None]:
    """Return the verdicts on citations, and the judge's on the sentences that cite, be it what is not there."""
    return [v.right for v in result.verdicts] + [s.supported for s in result.sentences if s.citations]


def failures_first(results: Sequence[QuestionResult]) -> list[tuple[QuestionResult, Outcome]]:
    """Return the questions with their outcomes, worst outcome first; their own order is kept within an outcome."""
    ranks = {outcome: rank for rank, outcome in enumerate(Outcome)}
    pairs = [(result, outcome_of(result)) for result in results]
    return sorted(pairs, key=lambda pair: ranks[pair[1]])
