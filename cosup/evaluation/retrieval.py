"""Were the right passages retrieved: recall@k, reciprocal rank, and the paper's two retrieval measures.

Two views of one prediction:

- its *searches*: the ranked hits of each `[Ret]`;
- its *retrieved passages*: the distinct passages that it was given or cites, that is, the top hit of each `[Ret]`
  (the one that is spliced) and every cited passage.

Scores lie in 0..1; percentages are made in `report`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from cosup.evaluation.answers import contains, gold_answers, share
from cosup.records import Answer, Passage, Question

CUTOFFS = (1, 5, 10)
SEARCH_METRICS = ("retrieved", "retrieved_first")
ANSWER_PASSAGE_METRICS = ("answer_passage_precision", "answer_passage_hit")
PASSAGE_METRICS = ("passage_hit", "passage_precision", "passage_recall", "passage_f1", "passage_set_match")
PAGE_METRICS = ("r_precision", "page_r_precision", "page_recall@5")
NDCG_DEPTH = 10
PAGE_DEPTH = 5


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
    deep = (f"ndcg@{NDCG_DEPTH}",) if NDCG_DEPTH in cutoffs else ()
    return (*(f"recall@{k}" for k in cutoffs), "mrr", *deep, *(f"gold_recall@{k}" for k in cutoffs if k > 1))


def search_scores(answer: Answer) -> dict[str, float]:
    """Say whether the prediction retrieved at all (`retrieved`) and before any text (`retrieved_first`)."""
    searches = [r for r in answer.retrievals if r.hits]
    first = bool(searches) and not answer.text[: max(0, searches[0].position)].strip()
    return {"retrieved": float(bool(searches)), "retrieved_first": float(first)}


def rank_scores(answer: Answer, question: Question, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, float]:
    """Score the searches against the gold passages.

    `recall@k`: 1 where the first `[Ret]` has a gold passage, whichever, among its k best hits, else 0.
    `mrr`: 1 / rank of the first gold passage among the hits of the first `[Ret]`; 0 where none is kept.
    `ndcg@10`: normalised discounted cumulative gain of the first `[Ret]`'s ten best hits, a gold passage worth 1.
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
    if NDCG_DEPTH in cutoffs:
        scores[f"ndcg@{NDCG_DEPTH}"] = _ndcg(first[:NDCG_DEPTH], gold)
    for k in cutoffs:
        if k > 1:
            found = {passage_id for hits in searches for passage_id in hits[:k]}
            scores[f"gold_recall@{k}"] = max(share([g in found for g in wanted]) for wanted in gold_sets(question))
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

    `passage_hit`: whether any of them is gold; `passage_precision`, `passage_recall`, their harmonic mean
    `passage_f1`, and `passage_set_match`: 1 where both sets are the same. All are 0 where nothing was retrieved.
    Of several `evidence_sets`, any passage counts for precision, and the best one for recall and the match.

    Returns:
        The scores, or nothing where the question has no evidence.
    """
    found = set(retrieved_ids(answer))
    if not question.gold_ids:
        return {}
    right = len(found.intersection(question.gold_ids))
    precision = right / len(found) if found else 0.0
    recall = max(share([g in found for g in wanted]) for wanted in gold_sets(question))
    return {
        "passage_hit": float(right > 0),
        "passage_precision": precision,
        "passage_recall": recall,
        "passage_f1": 2 * precision * recall / (precision + recall) if right else 0.0,
        "passage_set_match": float(any(found == set(wanted) for wanted in gold_sets(question))),
    }


def page_scores(answer: Answer, question: Question, passages: Mapping[str, Passage]) -> dict[str, float]:
    """Score the order of the retrieved passages, and of the pages that they are from (KILT's level).

    `r_precision`: the share of the question's R gold passages that are among the first R retrieved;
    `page_r_precision`: the same of pages; `page_recall@5`: the share of the gold pages among the first five retrieved.
    A passage's page is its `wikipedia_id` in the metadata, else its title, else itself. Of several `evidence_sets` the
    one that gives most counts, as in KILT.

    Args:
        passages: by id, at least those that are gold or retrieved.

    Returns:
        The scores, or nothing where the question has no evidence.
    """
    sets = gold_sets(question)
    if not sets:
        return {}
    found = retrieved_ids(answer)
    pages = tuple(dict.fromkeys(page_of(passages[i]) for i in found))
    wanted = [tuple(dict.fromkeys(page_of(passages[i]) for i in ids)) for ids in sets]
    return {
        "r_precision": max(share([g in found[: len(ids)] for g in ids]) for ids in sets),
        "page_r_precision": max(share([page in pages[: len(own)] for page in own]) for own in wanted),
        f"page_recall@{PAGE_DEPTH}": max(share([page in pages[:PAGE_DEPTH] for page in own]) for own in wanted),
    }


def gold_sets(question: Question) -> tuple[tuple[str, ...], ...]:
    """Return the alternatives of which one is enough, distinct ids each: those that it names, else all its evidence."""
    if question.evidence_sets:
        return tuple(tuple(dict.fromkeys(ids)) for ids in question.evidence_sets)
    return (question.gold_ids,) if question.gold_ids else ()


def page_of(passage: Passage) -> str:
    """Return what names a passage's page: its `wikipedia_id`, else its title, else its own id."""
    return str(passage.metadata.get("wikipedia_id") or passage.title or passage.id)


def retrieval_right(scores: Mapping[str, float]) -> bool | None:
    """Whether any retrieved passage is gold; where the question has no evidence, whether any contains an answer.

    The paper's Figure 3 counts an answer only there.

    Args:
        scores: of the question, those of `passage_scores` and `answer_passage_scores` among them.

    Returns:
        None where the question has neither evidence nor an answer.
    """
    measure = next((name for name in ("passage_precision", "answer_passage_precision") if name in scores), None)
    return scores[measure] > 0 if measure else None


def _ndcg(hits: Sequence[str], gold: Sequence[str]) -> float:
    """Return DCG over the best DCG possible, with gains of 0 and 1 (Järvelin and Kekäläinen 2002, discount log2)."""
    distinct = dict.fromkeys(hits)
    gain = sum(1 / math.log2(rank + 1) for rank, hit in enumerate(distinct, start=1) if hit in gold)
    return gain / sum(1 / math.log2(rank + 1) for rank in range(1, min(len(gold), NDCG_DEPTH) + 1))
