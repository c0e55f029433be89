"""Searching a collection of Milvus: its neighbours with scores of our own, ties whole as far as Milvus tells of them.

Shapes: Q queries, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from cosup.index.base import Vectors
from cosup.index.milvus_client import IDS_AT_ONCE, MOST_HITS, SearchSettings, Table
from cosup.index.milvus_expressions import ids_expression

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
            ids: what the search is limited to, distinct; more than one expression can hold are searched in parts. None
                for the whole collection.
            condition: an expression that must hold as well, or an empty text.
        """
        if ids is None:
            return self.nearest(queries, k, condition)
        found: list[list[Found]] = [[] for _ in queries]
        for start in range(0, len(ids), IDS_AT_ONCE):
            own = ids_expression(ids[start : start + IDS_AT_ONCE])
            part = self.nearest(queries, k, f"{own} and {condition}" if condition else own)
            found = [sorted(a + b)[:k] for a, b in zip(found, part, strict=True)]
        return found

    def nearest(self, queries: Vectors, k: int, expression: str) -> list[list[Found]]:
        """Find each query's `k` best; asks for more where the last may have equals that were not returned."""
        best: list[list[Found]] = [[]] * len(queries)
        unsettled, limit = list(range(len(queries))), min(k + _MARGIN, MOST_HITS)
        while unsettled:
            again = []
            for numbers in self._portions(unsettled, limit, queries.shape[1]):
                answers = self._table.search(queries[numbers], limit, expression, self._settings)
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


def _scored(query: Vectors, answer: Sequence[Any]) -> tuple[list[Found], float]:
    """Return what Milvus found with scores of our own, best first, and how far Milvus's may be off."""
    if not answer:
        return [], 0.0
    vectors = np.array([hit["entity"]["vector"] for hit in answer], dtype=np.float64)
    own = query.astype(np.float64)
    scores = (vectors * own).sum(axis=1).astype(np.float32).tolist()
    noise = _NOISE * float(np.linalg.norm(own) * np.linalg.norm(vectors, axis=1).max())
    hits = zip(scores, answer, strict=True)
    return sorted(Found(-score, int(hit["entity"]["number"]), str(hit["id"])) for score, hit in hits), noise
