"""One door to every index: a folder, a Milvus Lite file or a Milvus server."""

from __future__ import annotations

from pathlib import Path

from cosup.index.base import LiveIndex
from cosup.index.milvus_place import is_milvus_place


def open_index(place: str | Path, expected_fingerprint: str | None) -> LiveIndex:
    """Open an index wherever it is.

    Args:
        place: an index folder, `milvus://HOST:PORT/COLLECTION`, or a Milvus Lite file `NAME.db`.
        expected_fingerprint: of the embedder whose pair will ask; None accepts any.

    Raises:
        InputError: there is no index, it is damaged, or another embedder made it.
        UsageError: the place is one of Milvus, and Milvus is not installed.
    """
    if is_milvus_place(place):
        from cosup.index.milvus_index import MilvusIndex

        return MilvusIndex.load(place, expected_fingerprint)
    from cosup.index.faiss_index import FaissIndex

    return FaissIndex.load(place, expected_fingerprint)
