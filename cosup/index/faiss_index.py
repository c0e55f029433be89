"""The exact index: a FAISS flat inner-product index, the passages, and a manifest, in one folder.

    vectors.faiss     vectors in the order of the corpus
    passages.jsonl    the passages in the same order
    index.json        count, dimension, similarity, the embedder's fingerprint, a checksum of each file

A hit's score never depends on which queries are searched together, nor on candidates: every search goes through one
kernel, query by query.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from cosup.data.reading import read_passages
from cosup.data.writing import write_jsonl
from cosup.errors import CosupError, InputError, UsageError
from cosup.index.base import (
    MANIFEST,
    Candidates,
    IndexManifest,
    Vectors,
    check_target,
    checked_corpus,
    damaged,
    file_checksum,
)
from cosup.index.embed import PARTIAL
from cosup.index.filters import Filter
from cosup.records import Hit, Passage

TYPE = "faiss-flat"
VECTORS, PASSAGES = "vectors.faiss", "passages.jsonl"
OWN_NAMES = frozenset({VECTORS, PASSAGES, MANIFEST, PARTIAL})

# FAISS changes to a matrix product, whose rounding depends on the batch, from 20 queries on.
_QUERIES_AT_ONCE = 16
_UNIT_TOLERANCE = 1e-3


class FaissIndex:
    """An exact index of N passages with D dimensions, held in memory.

    Made by `build` or `load`; searched as `VectorIndex` says.
    """

    def __init__(self, passages: Sequence[Passage], vectors: Vectors, manifest: IndexManifest) -> None:
        self.manifest = manifest
        self._passages = list(passages)
        self._rows = checked_corpus(self._passages)
        self._vectors = vectors

    @classmethod
    def build(
        cls,
        folder: str | Path,
        passages: Sequence[Passage],
        vectors: Vectors,
        embedder_fingerprint: str,
        similarity: str,
    ) -> FaissIndex:
        """Write an index folder, whole or not at all; an index that was there before stays until the new one is done.

        Args:
            folder: where to; may hold an older index, nothing else.
            passages: N passages.
            vectors: [N, D] float32, of unit length where `similarity` is `cosine`.
            embedder_fingerprint: of the embedder that made the vectors.
            similarity: `cosine` or `inner_product`.

        Raises:
            InputError: no passages, or two with one id.
            UsageError: the vectors don't fit the passages or the similarity, or `folder` cannot be used.
            CosupError: a vector is not finite.
        """
        folder = Path(folder)
        checked_corpus(passages)
        _check_vectors(vectors, len(passages), similarity)
        check_target(folder, OWN_NAMES)
        draft = folder.absolute().with_name(f".{folder.absolute().name}.{secrets.token_hex(4)}.tmp")
        try:
            _write_files(draft, passages, vectors, embedder_fingerprint, similarity)
            _swap(draft, folder)
        except OSError as error:
            raise UsageError(f"cannot write an index to {folder}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return cls.load(folder, embedder_fingerprint)

    @classmethod
    def load(cls, folder: str | Path, expected_fingerprint: str | None) -> FaissIndex:
        """Load an index folder and check that it is whole.

        Args:
            folder: what `build` wrote.
            expected_fingerprint: of the embedder whose pair will ask; None accepts any.

        Raises:
            InputError: it was made by another embedder, or a file is missing, damaged or of another format.
        """
        folder = Path(folder)
        manifest = IndexManifest.read(folder)
        if manifest.type != TYPE:
            raise InputError(f"an index of type {manifest.type!r}; expected {TYPE!r}", folder)
        if expected_fingerprint is not None:
            manifest.check_embedder(expected_fingerprint, folder)
        manifest.check_files(folder)
        passages = read_passages(folder / PASSAGES)
        vectors = _read_vectors(folder / VECTORS)
        if vectors.shape != (manifest.count, manifest.dimension) or len(passages) != manifest.count:
            raise damaged(folder / MANIFEST)
        return cls(passages, vectors, manifest)

    @property
    def embedder_fingerprint(self) -> str:
        """Names the embedder that made the vectors."""
        return self.manifest.embedder_fingerprint

    @property
    def dimension(self) -> int:
        """D."""
        return self.manifest.dimension

    def __len__(self) -> int:
        return len(self._passages)

    def __iter__(self) -> Iterator[Passage]:
        return iter(self._passages)

    def passage(self, passage_id: str) -> Passage:
        """Return a passage. Raises `InputError` where no passage has this id."""
        return self._passages[self._row(passage_id)]

    def search(
        self, queries: Vectors, k: int, candidates: Candidates | None = None, where: Filter | None = None
    ) -> list[list[Hit]]:
        """Find the passages with the highest inner products: see `VectorIndex.search`."""
        queries = self._checked_queries(queries, k)
        if where is not None:
            matching = [p.id for p in self._passages if where.holds(p.metadata)]
            limits = [None] * len(queries) if candidates is None else candidates
            candidates = [matching if c is None else sorted(set(c) & set(matching)) for c in limits]
        if candidates is None:
            return self._search_all(queries, k)
        if len(candidates) != len(queries):
            raise UsageError(f"{len(candidates)} candidate lists for {len(queries)} queries; expected one a query")
        return [self._search_one(query, k, ids) for query, ids in zip(queries, candidates, strict=True)]

    def _search_all(self, queries: Vectors, k: int) -> list[list[Hit]]:
        chunks = (queries[i : i + _QUERIES_AT_ONCE] for i in range(0, len(queries), _QUERIES_AT_ONCE))
        return [self._hits(*found) for chunk in chunks for found in _top(chunk, self._vectors, k)]

    def _search_one(self, query: Vectors, k: int, ids: Sequence[str] | None) -> list[Hit]:
        if ids is None:
            return self._search_all(query[None], k)[0]
        rows = np.array(sorted({self._row(passage_id) for passage_id in ids}), dtype=np.int64)
        if not rows.size:
            return []
        scores, found = _top(query[None], np.ascontiguousarray(self._vectors[rows]), k)[0]
        return self._hits(scores, rows[found])

    def _hits(self, scores: Vectors, rows: NDArray[np.int64]) -> list[Hit]:
        return [Hit(self._passages[row].id, float(score)) for score, row in zip(scores, rows, strict=True)]

    def _row(self, passage_id: str) -> int:
        row = self._rows.get(passage_id)
        if row is None:
            raise InputError(f"no passage {passage_id!r} among the {len(self):,} of the index")
        return row

    def _checked_queries(self, queries: Vectors, k: int) -> Vectors:
        if queries.ndim != 2 or queries.shape[1] != self.dimension:
            raise UsageError(f"queries have the shape {queries.shape}; expected [Q, {self.dimension}]")
        if k < 1:
            raise UsageError(f"k is {k}; expected at least 1")
        wrong = np.flatnonzero(~np.isfinite(queries).all(axis=1))
        if wrong.size:
            raise CosupError(f"query {wrong[0]} is not finite; the generator's training may have diverged")
        return np.ascontiguousarray(queries, dtype=np.float32)


def _top(queries: Vectors, vectors: Vectors, k: int) -> list[tuple[Vectors, NDArray[np.int64]]]:
    """Return for each query the scores and rows of its `k` nearest vectors, equal scores by row.

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


def _check_vectors(vectors: Vectors, count: int, similarity: str) -> None:
    if similarity not in ("cosine", "inner_product"):
        raise UsageError(f"similarity is '{similarity}'; expected cosine or inner_product")
    if vectors.ndim != 2 or len(vectors) != count or vectors.dtype != np.float32:
        raise UsageError(f"vectors are {vectors.dtype} {list(vectors.shape)}; expected float32 [{count}, D]")
    if not np.isfinite(vectors).all():
        raise CosupError("a vector is not finite; the embedder's training may have diverged")
    if similarity == "cosine" and np.abs(np.linalg.norm(vectors, axis=1) - 1).max() > _UNIT_TOLERANCE:
        raise UsageError("vectors are not of unit length, which the similarity 'cosine' needs")


def _write_files(
    draft: Path, passages: Sequence[Passage], vectors: Vectors, embedder_fingerprint: str, similarity: str
) -> None:
    draft.mkdir(parents=True)
    write_jsonl(draft / PASSAGES, passages)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors))
    faiss.write_index(index, str(draft / VECTORS))
    checksums = {name: file_checksum(draft / name) for name in (VECTORS, PASSAGES)}
    count, dimension = vectors.shape
    IndexManifest(TYPE, count, dimension, similarity, embedder_fingerprint, checksums).write(draft)


def _swap(draft: Path, folder: Path) -> None:
    """Put `draft` in the place of `folder`."""
    if not folder.exists():
        draft.rename(folder)
        return
    old = draft.with_suffix(".old")
    folder.rename(old)
    try:
        draft.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _read_vectors(path: Path) -> Vectors:
    try:
        index = faiss.read_index(str(path))
        return np.asarray(index.reconstruct_n(0, index.ntotal), dtype=np.float32)
    except RuntimeError as error:
        raise damaged(path) from error
