"""Indexes in Milvus Lite for tests: what the suites of the index contract need of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cosup.index.milvus_index import MilvusIndex
from cosup.records import Passage

NAME = "index.db"
WRITES = (
    *("insert", "upsert", "delete", "create_collection", "drop_collection"),
    *("create_alias", "alter_alias", "create_index"),
)


def make(
    folder: Path, passages: Sequence[Passage], vectors: np.ndarray, fingerprint: str, similarity: str
) -> MilvusIndex:
    """Build an index in a folder."""
    return MilvusIndex.build(folder / NAME, passages, vectors, fingerprint, similarity)


def load(folder: Path, fingerprint: str | None) -> MilvusIndex:
    """Open what `make` built, from its files."""
    release(folder / NAME)
    return MilvusIndex.load(folder / NAME, fingerprint)


def release(path: Path) -> None:
    """Let go of a file, as the end of the process would."""
    from milvus_lite.server_manager import server_manager_instance

    server_manager_instance.release_server(str(path))


def stop_servers() -> None:
    """Stop the servers that run in this process."""
    from milvus_lite.server_manager import server_manager_instance

    server_manager_instance.release_all()
