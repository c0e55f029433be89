"""Small index folders with every sort of file in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cosup.index.faiss_index import FaissIndex
from cosup.index.structures import IndexSettings
from cosup.locks import LOCK
from tests.index.makers import MINE, corpus, vectors

OWN = {"index.json", ".lock"}


def build(folder: Path, values: np.ndarray | None = None, fingerprint: str = MINE, kind: str = "flat") -> FaissIndex:
    values = vectors() if values is None else values
    return FaissIndex.build(folder, corpus(len(values)), values, fingerprint, "inner_product", IndexSettings(kind))


def files_of(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != LOCK)


def small_index(folder: Path, kind: str = "flat") -> FaissIndex:
    """Return an index that has every sort of file: metadata, a structure, deleted rows, two segments."""
    index = build(folder, vectors(260), kind=kind)
    index.delete(["p3", "p8"])
    index.add(corpus(4, first=260), vectors(4, seed=1))
    return index
