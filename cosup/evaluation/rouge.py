"""ROUGE as the official scorers call it: KILT by the package `rouge`, ALCE by `rouge-score`; both in 0..1."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from cosup.errors import UsageError, needs_extra

BOOTSTRAP_SAMPLES = 1000


def rouge_l(prediction: str, gold: str) -> float:
    """Return KILT's ROUGE-L: the F of summary-level ROUGE-L over sets of words, nothing normalised.

    0 where one of the two has no character but full stops.

    Raises:
        UsageError: the package `rouge` is not installed.
    """
    scorer = _rouge()
    try:
        with _deep_enough(prediction, gold):
            scores = scorer.get_scores(prediction, gold, avg=True)
    except ValueError:  # nothing between the full stops of one of them
        return 0.0
    return float(scores["rouge-l"]["f"])


def rouge_lsum() -> Callable[[str, Sequence[str]], float]:
    """Return ALCE's ROUGE-Lsum: `(prediction, references) -> best F`, with stemming; one sentence a line.

    Raises:
        UsageError: the package `rouge-score` is not installed.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise UsageError(needs_extra("ROUGE-Lsum", "eval", "rouge-score")) from None
    scorer = RougeScorer(["rougeLsum"], use_stemmer=True)

    def best(prediction: str, references: Sequence[str]) -> float:
        return max(float(scorer.score(reference, prediction)["rougeLsum"].fmeasure) for reference in references)

    return best


def bootstrap_median(scores: Sequence[float], seed: int = 0) -> float:
    """Return the median of the means of 1,000 bootstrap samples: what `rouge_score` reports as its `mid`.

    The official scorer draws its samples without a seed, so that its last digits differ from run to run. This one
    draws as it does after `numpy.random.seed(seed)`.
    """
    import numpy as np

    values, generator = np.asarray(scores, dtype=np.float64), np.random.RandomState(seed)
    means = [values[generator.choice(len(values), size=len(values))].mean() for _ in range(BOOTSTRAP_SAMPLES)]
    return float(np.percentile(means, 50))


@lru_cache(maxsize=1)
def _rouge() -> Any:
    try:
        from rouge import Rouge
    except ImportError:
        raise UsageError(needs_extra("ROUGE-L", "eval", "rouge")) from None
    return Rouge(metrics=["rouge-l"], stats=["f"])


@contextmanager
def _deep_enough(*texts: str) -> Iterator[None]:
    """Let `rouge` walk back through long texts: it calls itself once for each of their words."""
    before = sys.getrecursionlimit()
    words = sum(len(text.split()) for text in texts)
    if words < before // 2:
        yield
        return
    sys.setrecursionlimit(before + words)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)
