"""How sure a figure is: bootstrap intervals of averages, and paired tests between two systems.

A measure that cannot judge a question has no value there; averages, resamples and differences are over the questions
that it judges. Everything is drawn from a fixed seed: the same scores give the same intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
FLIPS = 10_000
CONFIDENCE = 0.95
_DRAWS = 200_000_000  # random signs at most for one comparison
_SIGNS = 16_000_000  # random signs drawn at once; fewer would read all scores more often
_CELLS = 4_000_000  # numbers drawn at once
_SEED = 20240311

Scores = Mapping[str, float]
Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two systems under one measure, over the questions that it judges for both.

    Attributes:
        ours: average of the first, percent.
        theirs: average of the second, percent.
        difference: ours minus theirs, percentage points, with the ends `low` and `high` of its 95% bootstrap interval.
        p_value: of a two-sided paired randomisation test: how often differences as large come about where the two
            systems' scores are exchanged at random, question by question.
        count: questions compared.
    """

    name: str
    ours: float
    theirs: float
    difference: float
    low: float
    high: float
    p_value: float
    count: int

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {name: getattr(self, name) for name in self.__slots__}


def intervals(
    scores: Sequence[Scores], names: Sequence[str], resamples: int = RESAMPLES
) -> dict[str, tuple[float, float]]:
    """Return the 95% percentile bootstrap interval of each measure's average (Efron 1979), over questions.

    Args:
        scores: one mapping a question, values in 0..1; a measure that cannot judge the question is absent.
        names: measures; one that judges no question is left out of the result.
        resamples: how often as many questions are drawn, with replacement.

    Returns:
        Name -> (low, high), percent.
    """
    values, judged = _matrices(scores, names)
    if not values.size:
        return {}
    known = [column for column in range(len(names)) if judged[:, column].any()]
    means = _resampled_means(values[:, known], judged[:, known], resamples)
    return {names[column]: ends for column, ends in zip(known, _ends(means), strict=True)}


def resampled_averages(values: Sequence[float], task: str) -> NDArray[np.float64]:
    """Return the averages of bootstrap resamples, [RESAMPLES]: for what is made of several averages.

    Args:
        values: of the questions that a measure judges, at least one.
        task: whose average it is; the draws of different names are independent, those of one name always the same.
    """
    known, random = np.asarray(values, dtype=np.float64), np.random.default_rng(crc32(task.encode()))
    rows = max(1, _CELLS // len(known))
    sizes = [min(rows, RESAMPLES - start) for start in range(0, RESAMPLES, rows)]
    return np.concatenate([known[random.integers(0, len(known), (size, len(known)))].mean(axis=1) for size in sizes])


def interval_of(draws: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95% interval of resampled averages in 0..1, percent."""
    return _ends(draws[:, None])[0]


def compare(ours: Sequence[Scores], theirs: Sequence[Scores], names: Sequence[str]) -> tuple[Comparison, ...]:
    """Compare two systems that answered the same questions.

    All measures share their resamples and their random signs, which is what takes long.

    Args:
        ours: scores of each question, as for `intervals`.
        theirs: those of the other system, in the same order.
        names: measures; one without a question that it judges for both is left out of the result.
    """
    first, judged_first = _matrices(ours, names)
    second, judged_second = _matrices(theirs, names)
    both = judged_first * judged_second
    known = [column for column in range(len(names)) if both[:, column].any()]
    if not known:
        return ()
    both = both[:, known]
    counts = both.sum(axis=0)
    first, second = first[:, known] * both, second[:, known] * both  # 0 where one of the two is not judged
    differences = first - second
    own, other, gain = (100 * values.sum(axis=0) / counts for values in (first, second, differences))
    ends = _ends(_resampled_means(differences, both, RESAMPLES))
    p_values = _p_values(differences, FLIPS)
    return tuple(
        Comparison(
            names[column],
            float(own[i]),
            float(other[i]),
            float(gain[i]),
            *ends[i],
            float(p_values[i]),
            int(counts[i]),
        )
        for i, column in enumerate(known)
    )


def randomisation_test(differences: NDArray[np.float64], flips: int = FLIPS) -> float:
    """Return the two-sided p-value of a paired randomisation test: (1 + as extreme draws) / (1 + draws).

    Args:
        differences: one a pair, [N].
        flips: draws of random signs; fewer where N is so large that they would take minutes.
    """
    return float(_p_values(differences[:, None], flips)[0])


def _p_values(differences: Matrix, flips: int) -> NDArray[np.float64]:
    """Return the p-value of each column of [pairs, measures], as `randomisation_test`; all see the same signs."""
    moved = differences[differences.any(axis=1)]  # what is equal is so whoever wrote it
    if not len(moved):
        return np.ones(differences.shape[1])
    flips = max(1, min(flips, _DRAWS // len(moved)))
    random = np.random.default_rng(_SEED)
    total = moved.sum(axis=0)
    least = np.abs(total) - 1e-9 * np.maximum(1.0, np.abs(moved).sum(axis=0))  # rounding makes no draw less extreme
    extreme = np.zeros(moved.shape[1], dtype=np.int64)
    rows = max(1, _SIGNS // len(moved))
    for start in range(0, flips, rows):
        turned = _draw_coins(random, min(rows, flips - start), len(moved)) @ moved
        extreme += (np.abs(total - 2.0 * turned) >= least).sum(axis=0)
    return np.asarray((1 + extreme) / (1 + flips), dtype=np.float64)


def _draw_coins(random: np.random.Generator, rows: int, count: int) -> Matrix:
    """Return 0 or 1, each as likely, [rows, count]."""
    drawn = np.frombuffer(random.bytes(rows * -(-count // 8)), dtype=np.uint8).reshape(rows, -1)
    return np.unpackbits(drawn, axis=1, count=count).astype(np.float64)


def _resampled_means(values: Matrix, judged: Matrix, resamples: int) -> Matrix:
    """Return the average of each measure in every resample of the questions, [resamples, measures].

    Args:
        values: [questions, measures], 0 where there is none.
        judged: the same shape, 1 where there is one. A resample without any gives nan.
    """
    columns: dict[bytes, int] = {}  # many measures judge the same questions: those are counted once
    places = [columns.setdefault(judged[:, i].tobytes(), len(columns)) for i in range(judged.shape[1])]
    masks = judged[:, [places.index(place) for place in range(len(columns))]]
    together = np.hstack([values, masks])
    means = np.full((resamples, values.shape[1]), np.nan)
    random = np.random.default_rng(_SEED)
    rows = max(1, _CELLS // len(values))
    for start in range(0, resamples, rows):
        sums = _draw_counts(random, min(rows, resamples - start), len(values)) @ together
        counts = sums[:, values.shape[1] :][:, places]
        np.divide(sums[:, : values.shape[1]], counts, out=means[start : start + rows], where=counts > 0)
    return means


def _draw_counts(random: np.random.Generator, rows: int, count: int) -> Matrix:
    """Return how often each of `count` things is drawn in `rows` resamples: [rows, count]."""
    drawn = random.integers(0, count, (rows, count)) + np.arange(0, rows * count, count)[:, None]
    return np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)


def _matrices(scores: Sequence[Scores], names: Sequence[str]) -> tuple[Matrix, Matrix]:
    """Return values (0 where there is none) and 1 where there is one, both [questions, measures]."""
    found = np.array([[own.get(name, np.nan) for name in names] for own in scores], dtype=np.float64)
    found = found.reshape(len(scores), len(names))
    judged = ~np.isnan(found)
    return np.where(judged, found, 0.0), judged.astype(np.float64)


def _ends(means: Matrix) -> list[tuple[float, float]]:
    """Return the ends of each column's interval, percent; resamples that say nothing of it (nan) do not count."""
    tail = 100 * (1 - CONFIDENCE) / 2
    ends = 100 * np.percentile(means, [tail, 100 - tail], axis=0)
    for column in np.flatnonzero(np.isnan(ends[0])):
        known = means[~np.isnan(means[:, column]), column]
        ends[:, column] = 100 * np.percentile(known, [tail, 100 - tail])
    return [(float(low), float(high)) for low, high in ends.T]
