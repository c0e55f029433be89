"""KILT's measures of one question: answers, page-level retrieval, and ranks of evidence sets; all in 0..1.

Definitions: Petroni et al. 2021 and the official scorer (facebookresearch/KILT, `eval_downstream.py` and
`eval_retrieval.py`), whose treatment of empty and repeated things is followed to the letter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache

from cosup.evaluation.answers import normalise
from cosup.evaluation.kilt_records import Gold

ANSWER_MEASURES = ("accuracy", "em", "f1", "rougel")
CUTOFFS = (1, 5, 10, 20)


def answer_scores(answer: str, golds: Sequence[str], rouge: Callable[[str, str], float] | None) -> dict[str, float]:
    """Score a final answer by the best of the gold answers; a blank one scores 0 in every measure.

    `accuracy`: the text equals a gold answer as it stands. `em`: both are the same once normalised (SQuAD's form);
    where nothing is left of either ("The" and "a"), they are the same. `f1`: of normalised tokens, repeats counted.
    `rougel`: only with `rouge`.

    Args:
        answer: stripped.
        golds: stripped, not blank; at least one unless the answer is blank.
        rouge: ROUGE-L of (answer, gold), or None to leave it out.
    """
    if not answer:
        return dict.fromkeys(ANSWER_MEASURES[: 3 + (rouge is not None)], 0.0)
    form = normalise(answer)
    scores = {
        "accuracy": float(answer in golds),
        "em": float(any(form == normalise(gold) for gold in golds)),
        "f1": max(_f1(form, normalise(gold)) for gold in golds),
    }
    return scores if rouge is None else scores | {"rougel": max(rouge(answer, gold) for gold in golds)}


def r_precision(pages: Sequence[str], gold: Gold) -> float:
    """Return the best, over the gold outputs, share of an output's R pages that are among the first R predicted.

    An output without pages gives 0.

    Args:
        pages: ids of predicted pages, distinct, best first.
    """
    shares = (len(wanted & set(pages[: len(wanted)])) / len(wanted) if wanted else 0.0 for wanted in gold.pages)
    return max(shares)


def ranking_scores(pages: Sequence[str], gold: Gold) -> dict[str, float]:
    """Return precision@k, recall@k and success_rate@k, a set of evidence counting as one place in the rank.

    recall@k divides by the distinct sets of evidence, an empty one included; a question without any scores 0.
    As in the official scorer, k = 1 has precision alone.
    """
    rank = evidence_rank(pages, gold.evidence)
    scores: dict[str, float] = {}
    for k in CUTOFFS:
        found = sum(rank[:k])
        scores[f"precision@{k}"] = found / k
        if k > 1:
            scores[f"recall@{k}"] = found / len(gold.evidence) if gold.evidence else 0.0
            scores[f"success_rate@{k}"] = float(found > 0)
    return scores


def evidence_rank(pages: Sequence[str], evidence: Sequence[frozenset[str]]) -> list[bool]:
    """Return the rank, best first: whether each place holds a complete set of evidence.

    A page of no set has a place of its own. A set has one place, that of the last of its pages that was predicted,
    and holds only if all were; the places of its earlier pages close up. A page of several sets counts for each.

    >>> evidence_rank(["a", "x", "b"], [frozenset("ab")])
    [False, True]
    """
    predicted = set(pages)
    complete = [wanted <= predicted for wanted in evidence]
    last: dict[int, str] = {}
    holding = {page: [i for i, wanted in enumerate(evidence) if page in wanted] for page in pages}
    for page in pages:
        last |= dict.fromkeys(holding[page], page)
    rank: list[bool] = []
    for page in pages:
        rank += [complete[i] for i in holding[page] if last[i] == page] if holding[page] else [False]
    return rank


@lru_cache(maxsize=16384)
def _tokens(form: str) -> Counter[str]:
    return Counter(form.split())


def _f1(ours: str, theirs: str) -> float:
    a, b = _tokens(ours), _tokens(theirs)
    common = sum((a & b).values())
    return 2 * common / (a.total() + b.total()) if common else 0.0
