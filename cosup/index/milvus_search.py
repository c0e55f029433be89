"""Searching a collection of Milvus: its neighbours with scores of our own, ties whole as far as Milvus tells of them.

Shapes: Q queries, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from cosup.index.base import Vectors
from cosup.index.milvus_client import IDS_AT_ONCE, MOST_HITS, SearchSettings, Table
from cosup.index.milvus_expressions import Row, ids_expression

COMPARED_UP_TO = 1000  # passages that a filter leaves; more are searched by the index
_MARGIN = 8  # hits asked for beyond k, so that ties are mostly seen at once
_NOISE = 1e-5  # of Milvus's own scores, over the product of the norms
_ANSWER_BYTES = 16 * 2**20  # of vectors in one answer of Milvus


class Found(NamedTuple):
    """A hit; sorts best first, equal scores by number."""

    minus_score: float
    number: int
    passage_id: str


class MilvusSearch:
    """Searches a collection.

    Args:
        table: of passages.
        settings: of its index.
    """

    def __init__(self, table: Table, settings: SearchSettings) -> None:
        self._table = table
        self._settings = settings

    def among(self, queries: Vectors, k: int, ids: Sequence[str] | None, condition: str) -> list[list[Found]]:
        """Find each query's `k` best.

        Args:
            queries: [Q, D] float32.
            k: hits a query, at most.
            ids: what the search is limited to, distinct; they are compared one by one, whatever the type of index. None
                for the whole collection.
            condition: an expression that must hold as well, or an empty text.
        """
        if ids is None:
            return self._meeting(queries, k, condition)
        found: list[list[Found]] = [[] for _ in queries]
        for start in range(0, len(ids), IDS_AT_ONCE):
            own = ids_expression(ids[start : start + IDS_AT_ONCE])
            part = self._compared(queries, k, f"{own} and {condition}" if condition else own)
            found = [sorted(a + b)[:k] for a, b in zip(found, part, strict=True)]
        return found

    def _meeting(self, queries: Vectors, k: int, condition: str) -> list[list[Found]]:
        """Find the `k` best of those that meet a condition; few of them are compared one by one."""
        if condition and not self._settings.exact:
            count = self._table.count(condition)
            if count <= COMPARED_UP_TO:
                return self._compared(queries, k, condition)
            k = min(k, count)
        return self.nearest(queries, k, condition)

    def _compared(self, queries: Vectors, k: int, expression: str) -> list[list[Found]]:
        """Find the `k` best of few rows, without the index."""
        rows = self._table.where(expression, ["id", "number", "vector"])
        return [_scored(query, rows)[0][:k] for query in queries]

    def nearest(self, queries: Vectors, k: int, expression: str) -> list[list[Found]]:
        """Find each query's `k` best by the index; it looks farther where it finds fewer than `k`."""
        best = self._searched(queries, k, expression, thorough=False)
        short = [number for number, found in enumerate(best) if len(found) < k]
        if short and self._settings.search(k, thorough=True) != self._settings.search(k):
            for number, found in zip(short, self._searched(queries[short], k, expression, thorough=True), strict=True):
                best[number] = found
        return best

    def _searched(self, queries: Vectors, k: int, expression: str, thorough: bool) -> list[list[Found]]:
        """Search the index; ask for more where the last hit may have equals that were not returned."""
        best: list[list[Found]] = [[]] * len(queries)
        unsettled, limit = list(range(len(queries))), min(k + _MARGIN, MOST_HITS)
        while unsettled:
            again, params = [], self._settings.search(limit, thorough)
            for numbers in self._portions(unsettled, limit, queries.shape[1]):
                answers = self._table.search(queries[numbers], limit, expression, params)
                for number, answer in zip(numbers, answers, strict=True):
                    found, noise = _scored(queries[number], answer)
                    best[number] = found[:k]
                    if len(answer) == limit < MOST_HITS and -found[k - 1].minus_score - noise <= answer[-1]["distance"]:
                        again.append(number)
            unsettled, limit = again, min(4 * limit, MOST_HITS)
        return best

    def _portions(self, numbers: Sequence[int], limit: int, dimension: int) -> Iterator[list[int]]:
        """Yield as many queries at a time as one answer can serve."""
        size = max(1, _ANSWER_BYTES // (4 * dimension * limit))
        return (list(numbers[start : start + size]) for start in range(0, len(numbers), size))


def _scored(query: Vectors, rows: Sequence[Row]) -> tuple[list[Found], float]:
    """Return what Milvus found with scores of our own, best first, and how far Milvus's may be off."""
    if not rows:
        return [], 0.0
    vectors = np.array([row["vector"] for row in rows], dtype=np.float64)
    own = query.astype(np.float64)
    scores = (vectors * own).sum(axis=1).astype(np.float32).tolist()
    noise = _NOISE * float(np.linalg.norm(own) * np.linalg.norm(vectors, axis=1).max())
    hits = zip(scores, rows, strict=True)
    return sorted(Found(-score, int(row["number"]), str(row["id"])) for score, row in hits), noise
