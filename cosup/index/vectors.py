"""Vectors on disk, memory-mapped, and the exact search over them.

A score never depends on which queries are searched together, nor on which other vectors are looked at: every score
comes from one kernel, query by query, and of float16 vectors from their float32 values.

Shapes: Q queries, N vectors, D dimensions, R rows.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import faiss
import numpy as np
from numpy.typing import NDArray

from cosup.errors import CosupError
from cosup.index.base import NOT_FINITE, Vectors, check_shape, check_values

Rows: TypeAlias = NDArray[np.int64]
Found: TypeAlias = tuple[Vectors, Rows]
"""Scores of one query, best first, and the rows they belong to."""

DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
BLOCK = 16_384  # vectors that are looked at together

# FAISS changes to a matrix product, whose rounding depends on the batch, from 20 queries on.
QUERIES_AT_ONCE = 16
_READ_ONE_BY_ONE = 1024  # rows; more are taken through the map


class VectorFile:
    """N vectors of D dimensions in a file.

    Single rows are read from the file, not through the map: a map would keep what lies around each of them resident.

    Args:
        path: what `write_vectors` wrote.
        dimension: D.
        dtype: `float32` or `float16`.
    """

    def __init__(self, path: Path, dimension: int, dtype: str) -> None:
        self.path = path
        self.dimension = dimension
        self._dtype = DTYPES[dtype]
        self._width = dimension * self._dtype.itemsize
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        self._map = np.asarray(np.memmap(path, self._dtype, "r").reshape(-1, dimension))

    def __len__(self) -> int:
        return len(self._map)

    def rows(self, rows: Rows) -> Vectors:
        """Return the vectors of R rows: [R, D] float32."""
        if len(rows) > _READ_ONE_BY_ONE:
            return np.ascontiguousarray(self._map[rows], dtype=np.float32)
        data = b"".join([os.pread(self._descriptor, self._width, row * self._width) for row in rows.tolist()])
        return np.frombuffer(data, self._dtype).reshape(-1, self.dimension).astype(np.float32, copy=False)

    def blocks(self, rows: Rows | None = None) -> Iterator[tuple[Rows, Vectors]]:
        """Yield the rows, or those among `rows` (ascending), in blocks with their vectors: [B], [B, D] float32."""
        for start in range(0, len(self), BLOCK):
            end = min(start + BLOCK, len(self))
            if rows is None:
                some = np.arange(start, end, dtype=np.int64)
            else:
                some = rows[np.searchsorted(rows, start) : np.searchsorted(rows, end)]
            if len(some) == end - start:
                yield some, np.ascontiguousarray(self._map[start:end], dtype=np.float32)
            elif len(some):
                yield some, self.rows(some)

    def top(self, queries: Vectors, k: int, rows: Rows | None = None) -> list[Found]:
        """Return for each query its `k` nearest among all rows, or among `rows` (ascending); equal scores by row."""
        best: list[Found] = [(np.empty(0, np.float32), np.empty(0, np.int64))] * len(queries)
        for some, vectors in self.blocks(rows):
            for start in range(0, len(queries), QUERIES_AT_ONCE):
                found = _top(queries[start : start + QUERIES_AT_ONCE], vectors, k)
                for number, (scores, places) in enumerate(found, start):
                    best[number] = merged([best[number], (scores, some[places])], k)
        return best


def merged(parts: Sequence[Found], k: int) -> Found:
    """Return the `k` best of several findings of one query; equal scores by row."""
    scores, rows = np.concatenate([s for s, _ in parts]), np.concatenate([r for _, r in parts])
    order = np.lexsort((rows, -scores))[:k]
    return scores[order], rows[order]


def _top(queries: Vectors, vectors: Vectors, k: int) -> list[Found]:
    """Return for each query the scores and places of its `k` nearest vectors, equal scores by place.

    One vector more than `k` is asked for: where it ties with the last, more are, until the tie is whole.
    """
    k, asked = min(k, len(vectors)), min(k + 1, len(vectors))
    scores, rows = faiss.knn(queries, vectors, asked, faiss.METRIC_INNER_PRODUCT)
    results = []
    for number in range(len(queries)):
        if asked > k and scores[number, k] == scores[number, k - 1] and asked < len(vectors):
            more_scores, more_rows = _top(queries[[number]], vectors, 2 * k + 1)[0]
            results.append((more_scores[:k], more_rows[:k]))
        else:
            order = np.lexsort((rows[number], -scores[number]))[:k]
            results.append((scores[number, order], rows[number, order]))
    return results


def write_vectors(path: Path, blocks: Iterable[Vectors], dtype: str) -> None:
    """Write blocks of [B, D] vectors, one after another.

    Raises:
        CosupError: a vector is not finite, or too large for float16.
    """
    with path.open("wb") as stream:
        for block in blocks:
            with np.errstate(over="ignore"):
                stored = np.ascontiguousarray(block, dtype=DTYPES[dtype])
            if not np.isfinite(stored).all():
                raise CosupError(_not_finite(block))
            stream.write(stored.data)


def _not_finite(block: Vectors) -> str:
    if np.isfinite(block).all():
        return "a vector is too large for float16; store the vectors as float32"
    return NOT_FINITE


def blocks_of(vectors: Vectors) -> Iterator[Vectors]:
    """Yield an array of [N, D] in blocks; of a memory-mapped one only a block is in memory."""
    return (vectors[start : start + BLOCK] for start in range(0, len(vectors), BLOCK))


def check_vectors(vectors: Vectors, count: int, similarity: str, dimension: int | None = None) -> None:
    """Make sure that vectors fit a corpus, all of them; for the arguments see `check_shape`.

    Raises:
        UsageError: they don't fit, or are not of unit length where `similarity` needs it.
        CosupError: one is not finite.
    """
    check_shape(vectors, count, similarity, dimension)
    for block in blocks_of(vectors):
        check_values(block, similarity)
