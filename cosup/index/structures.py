"""Approximate search: FAISS structures over a segment's vectors, trained on a sample, tuned until recall is high.

    ivf-sq   inverted lists of vectors with 8 bits a number; memory-mapped
    ivf-pq   inverted lists of product-quantised vectors, a byte for 8 numbers; memory-mapped
    hnsw     a graph over vectors with 8 bits a number; memory-mapped, and soon all of it resident

A structure proposes rows; their scores come from the stored vectors. How far it looks (`effort`) and how many it
proposes (`refine`) are chosen when it is built: the least with which well above 0.95 of the 10 nearest are found.

Shapes: Q queries, N vectors, D dimensions.
"""

from __future__ import annotations

import importlib
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosup.errors import UsageError, did_you_mean
from cosup.index.base import Vectors
from cosup.index.manifest import StructureRecord
from cosup.index.metadata import Mask
from cosup.index.vectors import QUERIES_AT_ONCE, Found, Rows, VectorFile

faiss: Any = importlib.import_module("faiss")  # its types are of the wrapped classes, not of what Python calls

logger = logging.getLogger(__name__)

APPROXIMATE = ("ivf-sq", "ivf-pq", "hnsw")
TYPES = ("flat", *APPROXIMATE)
FILE = "structure.faiss"
LEAST = 256  # vectors that a structure can be trained on: product quantisation has so many centres

FLAT_UP_TO = 20_000
SQ_UP_TO = 500_000

RECALL_AT = 10
WANTED_RECALL = 0.95
_AIM = 0.96  # while tuning: real queries are farther from the passages than those that can be made from them
_REFINES = (1, 2, 4, 8, 16, 32)
_TUNING_QUERIES = 256
_NUDGE = 0.7  # of the distance between two passages: how far a tuning query is from its passage
_TRAINING_VECTORS_A_LIST = 64
_LINKS = 32  # of a node of the graph, each way
_EFFORT_WHILE_BUILDING = 80
_IVF_FLAGS = faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY
_GRAPH_FLAGS = faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_READ_ONLY


@dataclass(frozen=True)
class IndexSettings:
    """How an index is built.

    Attributes:
        type: `auto`, `flat`, `ivf-sq`, `ivf-pq` or `hnsw`.
        vector_dtype: of the stored vectors: `float32` or `float16`.
        seed: of the samples.

    Raises:
        UsageError: a value is none of these.
    """

    type: str = "auto"
    vector_dtype: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, found, known in (
            ("index type", self.type, ("auto", *TYPES)),
            ("vector dtype", self.vector_dtype, ("float32", "float16")),
        ):
            if found not in known:
                hint = did_you_mean(found, known)
                raise UsageError(f"{name} is '{found}'{hint}; expected {', '.join(known)}")

    def choose(self, count: int) -> tuple[str, str]:
        """Return the type for a corpus of `count` passages, and the reason."""
        if self.type != "auto":
            return self.type, "asked for"
        if count <= FLAT_UP_TO:
            return "flat", f"{count:,} passages, at most {FLAT_UP_TO:,}: exact search is fast enough"
        if count <= SQ_UP_TO:
            return "ivf-sq", f"{count:,} passages, more than {FLAT_UP_TO:,}: too many to look at all of them"
        return "ivf-pq", f"{count:,} passages, more than {SQ_UP_TO:,}: codes of a byte for 8 numbers save memory"


@dataclass(frozen=True, eq=False)
class Allowed:
    """The rows that a search may find.

    Attributes:
        mask: [N].
    """

    mask: Mask

    @cached_property
    def rows(self) -> Rows:
        """The rows themselves, ascending."""
        return np.flatnonzero(self.mask).astype(np.int64, copy=False)

    @cached_property
    def selector(self) -> Any:
        """For FAISS."""
        return faiss.IDSelectorBitmap(np.packbits(self.mask, bitorder="little"))

    @property
    def share(self) -> float:
        """Of all rows; above 0."""
        return max(1, len(self.rows)) / len(self.mask)


class Structure:
    """A structure that was built, and how it is searched."""

    def __init__(self, index: Any, record: StructureRecord, vectors: VectorFile) -> None:
        self.record = record
        self._index = index
        self._vectors = vectors

    @classmethod
    def load(cls, path: Path, record: StructureRecord, vectors: VectorFile) -> Structure:
        """Map a structure.

        Raises:
            RuntimeError: FAISS cannot read the file.
        """
        flags = _GRAPH_FLAGS if record.type == "hnsw" else _IVF_FLAGS
        return cls(faiss.read_index(str(path), flags), record, vectors)

    def search(self, queries: Vectors, k: int, allowed: Allowed | None = None) -> list[Found]:
        """Return for each query up to `k` rows with their scores; fewer where it did not come upon as many.

        Args:
            queries: [Q, D] float32.
            k: rows a query, at most.
            allowed: the rows that may be found; None for all.
        """
        parameters = self._parameters(k, allowed)
        proposed = min(len(self._vectors), self.record.refine * max(k, RECALL_AT))
        if self.record.type == "hnsw":
            proposed = min(proposed, parameters.efSearch)
        found: list[Found] = []
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            chunk = queries[start : start + QUERIES_AT_ONCE]
            _, rows = self._index.search(chunk, proposed, params=parameters)
            found += [self._scored(query, own, k) for query, own in zip(chunk, rows, strict=True)]
        return found

    def _scored(self, query: Vectors, proposed: Rows, k: int) -> Found:
        rows = np.sort(proposed[proposed >= 0])
        if not len(rows):
            return np.empty(0, np.float32), rows
        scores, order = faiss.knn(query[None], self._vectors.rows(rows), len(rows), faiss.METRIC_INNER_PRODUCT)
        best = np.lexsort((order[0], -scores[0]))[:k]
        return scores[0][best], rows[order[0][best]]

    def _parameters(self, k: int, allowed: Allowed | None) -> Any:
        """Return FAISS's parameters; the fewer rows are allowed, the farther it looks for them."""
        chosen = {} if allowed is None else {"sel": allowed.selector}
        effort = math.ceil(self.record.effort / (1.0 if allowed is None else allowed.share))
        if self.record.type == "hnsw":
            return faiss.SearchParametersHNSW(efSearch=min(max(effort, k), len(self._vectors)), **chosen)
        return faiss.SearchParametersIVF(nprobe=min(effort, self._index.nlist), **chosen)


def build_structure(path: Path, vectors: VectorFile, type_name: str, seed: int = 0) -> StructureRecord:
    """Train, fill, write and tune a structure.

    Args:
        path: file to write.
        vectors: at least `LEAST` of them.
        type_name: one of `APPROXIMATE`.
        seed: of the samples.

    Returns:
        How it is to be searched, and the recall that was measured.
    """
    index = _empty(vectors.dimension, len(vectors), type_name)
    lists = getattr(index, "nlist", 16)
    size = min(len(vectors), max(lists * _TRAINING_VECTORS_A_LIST, LEAST * 64))
    index.train(_sample(vectors, size, seed))
    for _, block in vectors.blocks():
        index.add(block)
    faiss.write_index(index, str(path))
    del index
    return tune(path, vectors, type_name, seed)


def tune(path: Path, vectors: VectorFile, type_name: str, seed: int = 0) -> StructureRecord:
    """Find the least effort that gives the wanted recall, and measure the recall."""
    count = min(_TUNING_QUERIES, len(vectors))
    queries = _nudged(vectors, count, seed + 1)
    truth = exact_rows(queries, vectors, RECALL_AT)
    origin = "passages' vectors, moved along the way between two others"
    record = StructureRecord(type_name, 1, _REFINES[-1], 0.0, count, origin)
    structure = Structure.load(path, record, vectors)

    def measure(changed: StructureRecord) -> tuple[StructureRecord, bool]:
        structure.record = changed
        rates = _rates(structure.search(queries, RECALL_AT), truth)
        surely = float(rates.mean() - 2 * rates.std() / math.sqrt(len(rates)))
        return replace(changed, recall=round(float(rates.mean()), 4)), surely >= _AIM

    record = _first(measure, [replace(record, effort=effort) for effort in _efforts(structure, type_name)])
    record = _first(measure, [replace(record, refine=refine) for refine in _REFINES])
    if record.recall < WANTED_RECALL:
        logger.warning("an index of type %s finds %.3f of the 10 nearest; expected 0.95", type_name, record.recall)
    return record


def _first(
    measure: Callable[[StructureRecord], tuple[StructureRecord, bool]], records: Sequence[StructureRecord]
) -> StructureRecord:
    """Return the first record that is good enough, or the last."""
    for record in records:
        measured, enough = measure(record)
        if enough:
            break
    return measured


def _efforts(structure: Structure, type_name: str) -> list[int]:
    """Return the efforts to try, each a quarter more than the one before."""
    most = 2048 if type_name == "hnsw" else structure._index.nlist
    first = 32 if type_name == "hnsw" else 1
    efforts = [first]
    while efforts[-1] < most:
        efforts.append(min(most, math.ceil(efforts[-1] * 1.25)))
    return efforts


def exact_rows(queries: Vectors, vectors: VectorFile, k: int) -> Rows:
    """Return the rows of the `k` nearest of each query, [Q, k], by matrix products: for measuring recall.

    Where fewer than `k` vectors are there, so many columns.
    """
    heap = faiss.ResultHeap(len(queries), min(k, len(vectors)), keep_max=True)
    for rows, block in vectors.blocks():
        scores, places = faiss.knn(queries, block, min(k, len(block)), faiss.METRIC_INNER_PRODUCT)
        heap.add_result(scores, rows[places])
    heap.finalize()
    return np.asarray(heap.I)


def _rates(found: Sequence[Found], truth: Rows) -> NDArray[np.float64]:
    """Return the share of each query's nearest that were found."""
    return np.array([np.isin(own, rows).mean() for own, (_, rows) in zip(truth, found, strict=True)])


def _empty(dimension: int, count: int, type_name: str) -> Any:
    """Return an untrained structure for `count` vectors."""
    if type_name == "hnsw":
        graph = faiss.IndexHNSWSQ(dimension, faiss.ScalarQuantizer.QT_8bit, _LINKS, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = _EFFORT_WHILE_BUILDING
        return graph
    centres = faiss.IndexFlatIP(dimension)
    shape = (centres, dimension, number_of_lists(count))
    if type_name == "ivf-sq":
        index = faiss.IndexIVFScalarQuantizer(*shape, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    else:
        index = faiss.IndexIVFPQ(*shape, code_bytes(dimension), 8, faiss.METRIC_INNER_PRODUCT)
        index.pq.cp.min_points_per_centroid = 1
        index.pq.cp.max_points_per_centroid = _TRAINING_VECTORS_A_LIST
    index.cp.min_points_per_centroid = 1
    return index


def number_of_lists(count: int) -> int:
    """Return how many inverted lists `count` vectors are parted into: about 4 times the square root."""
    return max(1, min(int(4 * math.sqrt(count)), count // 39))


def code_bytes(dimension: int) -> int:
    """Return the bytes of a product-quantised vector: one for at most 8 numbers."""
    return next(m for m in range(math.ceil(dimension / 8), dimension + 1) if dimension % m == 0)


def _sample(vectors: VectorFile, size: int, seed: int) -> Vectors:
    rows = np.random.default_rng(seed).choice(len(vectors), min(size, len(vectors)), replace=False)
    return vectors.rows(np.sort(rows).astype(np.int64))


def _nudged(vectors: VectorFile, count: int, seed: int) -> Vectors:
    """Return queries that are in no corpus: sampled vectors moved along the difference of two others, [count, D]."""
    random = np.random.default_rng(seed)
    rows = random.integers(0, len(vectors), size=(3, count))
    own, one, other = (vectors.rows(some) for some in rows)
    moved = own + _NUDGE / math.sqrt(2) * (one - other)
    lengths = np.linalg.norm(own, axis=1) / np.maximum(np.linalg.norm(moved, axis=1), 1e-9)
    return np.ascontiguousarray(moved * lengths[:, None], dtype=np.float32)
