"""Were the right passages retrieved: recall@k, reciprocal rank, and the paper's two retrieval measures.

Two views of one prediction:

- its *searches*: the ranked hits of each `[Ret]`;
- its *retrieved passages*: the distinct passages that it was given or cites, that is, the top hit of each `[Ret]`
  (the one that is spliced) and every cited passage.

Scores lie in 0..1; percentages are made in `report`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cosup.evaluation.answers import contains, gold_answers, share
from cosup.records import Answer, Passage, Question

CUTOFFS = (1, 5, 10)
SEARCH_METRICS = ("retrieved", "retrieved_first")
ANSWER_PASSAGE_METRICS = ("answer_passage_precision", "answer_passage_hit")
PASSAGE_METRICS = ("passage_precision", "passage_recall", "passage_f1", "passage_set_match")


def retrieved_ids(answer: Answer) -> tuple[str, ...]:
    """Return the distinct passages that were spliced (each `[Ret]`'s top hit), then those only cited."""
    spliced = [hit.passage_id for r in answer.retrievals for hit in r.hits[: r.read]]
    return tuple(dict.fromkeys(spliced + [c.passage_id for c in answer.citations]))


def usable_cutoffs(answers: Sequence[Answer]) -> tuple[int, ...]:
    """Return the cutoffs of recall@k that these predictions can tell: no deeper than the longest list of hits kept.

    A file that keeps one hit a search says nothing of recall@10; 1 is always among them.
    """
    deepest = max((len(r.hits) for a in answers for r in a.retrievals), default=0)
    return tuple(k for k in CUTOFFS if k == 1 or k <= deepest)


def rank_metrics(cutoffs: Sequence[int] = CUTOFFS) -> tuple[str, ...]:
    """Return the names of the scores of `rank_scores`."""
    return (*(f"recall@{k}" for k in cutoffs), "mrr", *(f"gold_recall@{k}" for k in cutoffs if k > 1))


def search_scores(answer: Answer) -> dict[str, float]:
    """Say whether the prediction retrieved at all (`retrieved`) and before any text (`retrieved_first`)."""
    searches = [r for r in answer.retrievals if r.hits]
    first = bool(searches) and not answer.text[: max(0, searches[0].position)].strip()
    return {"retrieved": float(bool(searches)), "retrieved_first": float(first)}


def rank_scores(answer: Answer, question: Question, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, float]:
    """Score the searches against the gold passages.

    `recall@k`: 1 where the first `[Ret]` has a gold passage, whichever, among its k best hits, else 0.
    `mrr`: 1 / rank of the first gold passage among the hits of the first `[Ret]`; 0 where none is kept.
    `gold_recall@k` (k > 1): the share of the gold passages that are among the k best hits of at least one `[Ret]`.

    Returns:
        The scores, or nothing where the question has no evidence.
    """
    gold = question.gold_ids
    if not gold:
        return {}
    searches = [[hit.passage_id for hit in r.hits] for r in answer.retrievals]
    first = searches[0] if searches else []
    rank = next((i for i, passage_id in enumerate(first, start=1) if passage_id in gold), None)
    scores = {f"recall@{k}": float(rank is not None and rank <= k) for k in cutoffs}
    scores["mrr"] = 1 / rank if rank else 0.0
    for k in cutoffs:
        if k > 1:
            found = {passage_id for hits in searches for passage_id in hits[:k]}
            scores[f"gold_recall@{k}"] = share([g in found for g in gold])
    return scores


def answer_passage_scores(answer: Answer, question: Question, passages: Mapping[str, Passage]) -> dict[str, float]:
    """Score the retrieved passages by whether they contain a gold answer (the paper's measure for short answers).

    `answer_passage_precision`: the share of the retrieved passages whose `title :: text` contains one, as whole
    normalised tokens; `answer_passage_hit`: whether any does. Both are 0 where nothing was retrieved.

    Returns:
        The scores, or nothing where the question has no gold answer.
    """
    golds = gold_answers(question)
    if not golds:
        return {}
    texts = [passages[passage_id].rendered for passage_id in retrieved_ids(answer)]
    holds = [any(contains(text, gold) for gold in golds) for text in texts]
    return {"answer_passage_precision": share(holds), "answer_passage_hit": float(any(holds))}


def passage_scores(answer: Answer, question: Question) -> dict[str, float]:
    """Score the retrieved passages against the gold passages (the paper's measure where passages are annotated).

    `passage_precision`, `passage_recall`, their harmonic mean `passage_f1`, and `passage_set_match`: 1 where both
    sets are the same. All are 0 where nothing was retrieved.

    Returns:
        The scores, or nothing where the question has no evidence.
    """
    gold, found = set(question.gold_ids), set(retrieved_ids(answer))
    if not gold:
        return {}
    right = len(gold & found)
    return {
        "passage_precision": right / len(found) if found else 0.0,
        "passage_recall": right / len(gold),
        "passage_f1": 2 * right / (len(gold) + len(found)),
        "passage_set_match": float(gold == found),
    }
