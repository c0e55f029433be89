"""All measures of one question, and the names of all measures in the order of the tables."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from cosup.evaluation import retrieval, wanted
from cosup.evaluation.answers import ANSWER_METRICS, answer_scores
from cosup.evaluation.attribution import CITATION_METRICS, Verdict, citation_scores, judge_citations
from cosup.records import Answer, Passage, Question

JUDGED_METRICS = ("claim_recall", "nli_citation_recall", "nli_citation_precision")
CORRECTNESS = (
    *ANSWER_METRICS,
    *wanted.LABEL_METRICS,
    *wanted.SET_METRICS,
    *wanted.LIST_METRICS,
    *wanted.LONG_METRICS,
    "claim_recall",
)
_OF_SOME_TASKS = {
    *wanted.LABEL_METRICS,
    *wanted.SET_METRICS,
    *wanted.LIST_METRICS,
    *wanted.LONG_METRICS,
    *JUDGED_METRICS,
}
KILT = "kilt_"
IF_RETRIEVED = "_if_retrieved"


@dataclass(frozen=True, slots=True)
class Context:
    """What the measures need beside a question and its prediction.

    Attributes:
        passages: by id.
        cutoffs: of recall@k, see `retrieval.usable_cutoffs`.
        labels: all that occur among the questions.
    """

    passages: Mapping[str, Passage]
    cutoffs: Sequence[int]
    labels: Collection[str]


def score(answer: Answer, question: Question, context: Context) -> tuple[dict[str, float], tuple[Verdict, ...]]:
    """Return every score of one prediction that needs no judge, in 0..1, and a verdict for each citation."""
    verdicts = judge_citations(answer, question, context.passages)
    scores = answer_scores(answer, question)
    scores |= wanted.label_scores(answer, question, context.labels)
    scores |= wanted.set_scores(answer, question)
    scores |= wanted.list_scores(answer, question)
    scores |= wanted.long_scores(answer, question)
    scores |= retrieval.search_scores(answer)
    scores |= retrieval.rank_scores(answer, question, context.cutoffs)
    scores |= retrieval.answer_passage_scores(answer, question, context.passages)
    scores |= retrieval.passage_scores(answer, question)
    scores |= retrieval.page_scores(answer, question, context.passages)
    scores |= citation_scores(verdicts, question)
    return scores, verdicts


def recounts(scores: Mapping[str, float]) -> dict[str, float]:
    """Return the correctness of one prediction, counted only where what it rests on was retrieved.

    `kilt_NAME` counts a score only if the page-level R-precision is 1 (KILT's rule); `NAME_if_retrieved` only if any
    retrieved passage was right (`retrieval.retrieval_right`; the paper's Figure 3). What is lost between a measure
    and its recount came from what the model knew by itself.
    """
    own = {name: scores[name] for name in CORRECTNESS if name in scores}
    found: dict[str, float] = {}
    if "page_r_precision" in scores:
        whole = scores["page_r_precision"] == 1
        found |= {KILT + name: value if whole else 0.0 for name, value in own.items()}
    right = retrieval.retrieval_right(scores)
    if right is not None:
        found |= {name + IF_RETRIEVED: value if right else 0.0 for name, value in own.items()}
    return found


def metric_names(cutoffs: Sequence[int] = retrieval.CUTOFFS) -> tuple[str, ...]:
    """Return every measure that stands by itself, in the order of the tables."""
    found = retrieval.SEARCH_METRICS + retrieval.rank_metrics(cutoffs)
    held = retrieval.ANSWER_PASSAGE_METRICS + retrieval.PASSAGE_METRICS + retrieval.PAGE_METRICS
    return CORRECTNESS + found + held + CITATION_METRICS + JUDGED_METRICS[1:]


def is_missed(name: str) -> bool:
    """Whether it is worth telling that a measure could judge no question: not if it is one of a few tasks alone."""
    return name not in _OF_SOME_TASKS and name not in recount_names()


def recount_names() -> tuple[str, ...]:
    """Return the names of `recounts`."""
    return tuple(KILT + name for name in CORRECTNESS) + tuple(name + IF_RETRIEVED for name in CORRECTNESS)
