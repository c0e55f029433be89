"""Small indexes in Milvus Lite, and what their searches must find."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosup.index.milvus_client import connect
from cosup.index.milvus_index import MilvusIndex
from cosup.index.milvus_place import MilvusPlace
from cosup.records import Passage
from tests.index import milvus
from tests.index.makers import MINE

N, D = 120, 6


def corpus(count: int = N) -> list[Passage]:
    return [Passage(f"p{i}", f"Title {i}", f"Text {i}. Æøå.", {"year": 2000 + i % 10}) for i in range(count)]


def vectors(count: int = N, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, D)).astype(np.float32)


def build(place: str | Path, count: int = N, fingerprint: str = MINE, **more: Any) -> MilvusIndex:
    return MilvusIndex.build(place, corpus(count), vectors(count), fingerprint, "inner_product", **more)


def brute_force(values: np.ndarray, query: np.ndarray, k: int) -> list[str]:
    return [f"p{i}" for i in np.argsort(-(values.astype(np.float64) @ query), kind="stable")[:k]]


def collections(path: Path) -> list[str]:
    return sorted(connect(MilvusPlace.parse(path)).call("list_collections"))


@pytest.fixture(autouse=True, scope="module")
def servers_stopped() -> Iterator[None]:
    yield
    milvus.stop_servers()
