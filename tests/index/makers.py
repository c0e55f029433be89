"""The kinds of index that keep the contract, and what the contract's tests share.

Another kind joins by a `Maker` in `MAKERS`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosup.index.base import LiveIndex
from cosup.index.faiss_index import FaissIndex
from cosup.index.milvus_index import MilvusIndex
from cosup.index.structures import IndexSettings
from cosup.records import Hit, Passage

MINE, OTHER = "a" * 64, "b" * 64
N, D = 300, 7


@dataclass(frozen=True)
class Maker:
    """A kind of index.

    Attributes:
        name: of the test's parameter.
        build: place, passages, vectors [N, D] and similarity -> an index of embedder `MINE`.
        load: place and expected fingerprint -> the index that was built there.
        copy: a place -> another that has no index yet; None where what is open cannot be copied.
        exact: whether a search finds the very nearest; else 90 of a hundred of them.
        stored: what becomes of vectors that are kept.
        marks: of pytest.
    """

    name: str
    build: Callable[[Path, Sequence[Passage], np.ndarray, str], LiveIndex]
    load: Callable[[Path, str | None], LiveIndex]
    copy: Callable[[Path, Path], object] | None = None
    exact: bool = True
    stored: Callable[[np.ndarray], np.ndarray] = np.asarray
    marks: tuple[Any, ...] = ()


def half(vectors: np.ndarray) -> np.ndarray:
    return vectors.astype(np.float16).astype(np.float32)


def faiss_maker(kind: str, dtype: str = "float32") -> Maker:
    def build(place: Path, passages: Sequence[Passage], vectors: np.ndarray, similarity: str) -> LiveIndex:
        return FaissIndex.build(place, passages, vectors, MINE, similarity, IndexSettings(kind, dtype))

    stored = half if dtype == "float16" else np.asarray
    return Maker(f"{kind} {dtype}", build, FaissIndex.load, shutil.copytree, kind == "flat", stored)


def milvus_maker(kind: str = "auto") -> Maker:
    def build(place: Path, passages: Sequence[Passage], vectors: np.ndarray, similarity: str) -> LiveIndex:
        return MilvusIndex.build(place.with_suffix(".db"), passages, vectors, MINE, similarity, kind)

    def load(place: Path, fingerprint: str | None) -> LiveIndex:
        return MilvusIndex.load(place.with_suffix(".db"), fingerprint)

    return Maker(f"milvus lite {kind}", build, load, exact=kind == "auto", marks=(pytest.mark.milvus,))


MAKERS = [
    faiss_maker("flat"),
    faiss_maker("flat", "float16"),
    faiss_maker("ivf-sq"),
    faiss_maker("ivf-pq", "float16"),
    faiss_maker("hnsw"),
    milvus_maker(),
    milvus_maker("ivf-flat"),
    milvus_maker("hnsw"),
]


class Shelf:
    """Indexes that are built once, of whichever kind and vectors a test asks for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[tuple[str, bytes], Path] = {}

    def _place(self, maker: Maker, values: np.ndarray) -> Path:
        key = maker.name, values.tobytes()
        if key not in self._places:
            place = self._folder / str(len(self._places)) / "index"
            place.parent.mkdir()
            maker.build(place, corpus(len(values)), values, "inner_product")
            self._places[key] = place
        return self._places[key]

    def read(self, maker: Maker, values: np.ndarray | None = None) -> LiveIndex:
        """Open the index of these vectors, which must not be changed."""
        return maker.load(self._place(maker, vectors() if values is None else values), MINE)

    def take(self, maker: Maker, place: Path, values: np.ndarray | None = None) -> LiveIndex:
        """Open a copy of it at a place of the test's own, to be changed."""
        values = vectors() if values is None else values
        if maker.copy is None:
            return maker.build(place, corpus(len(values)), values, "inner_product")
        maker.copy(self._place(maker, values), place)
        return maker.load(place, MINE)


def all_makers() -> Any:
    """Return a decorator that runs a test with each kind as `maker`."""
    return pytest.mark.parametrize("maker", [pytest.param(m, id=m.name, marks=m.marks) for m in MAKERS])


def corpus(count: int = N, first: int = 0) -> list[Passage]:
    """Return passages with a parity, a number and, every third, a language."""
    return [
        Passage(
            f"p{i}",
            f"Title {i}",
            f"Text {i}. Æøå.",
            {"odd": bool(i % 2), "number": i} | ({"lang": ("en", "de")[i % 2]} if i % 3 == 0 else {}),
        )
        for i in range(first, first + count)
    ]


def vectors(count: int = N, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, D)).astype(np.float32)


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def small_integers(count: int, seed: int) -> np.ndarray:
    """Vectors whose inner products are exact in float32 and float16, and often equal."""
    return np.random.default_rng(seed).integers(-2, 3, size=(count, D)).astype(np.float32)


def brute_force(values: np.ndarray, query: np.ndarray, k: int, rows: Sequence[int] | None = None) -> list[str]:
    """Return the ids that an exact search finds, equal scores in the order of the corpus."""
    chosen = list(range(len(values))) if rows is None else sorted(set(rows))
    scores = values[chosen].astype(np.float64) @ query.astype(np.float64)
    return [f"p{chosen[i]}" for i in np.argsort(-scores, kind="stable")[:k]]


def ids(hits: Sequence[Hit]) -> list[str]:
    return [hit.passage_id for hit in hits]
