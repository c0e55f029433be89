"""One door to every index: a folder, a Milvus Lite file or a Milvus server."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, cast

from cosup.errors import UsageError
from cosup.index.base import LiveIndex

SERVER = "milvus://"


def is_milvus(place: str | Path) -> bool:
    """Whether a place is one of Milvus: `milvus://HOST:PORT/COLLECTION` or a file `NAME.db`."""
    return str(place).startswith(SERVER) or (str(place).endswith(".db") and not Path(place).is_dir())


def open_index(place: str | Path, expected_fingerprint: str | None) -> LiveIndex:
    """Open an index wherever it is.

    Args:
        place: an index folder, `milvus://HOST:PORT/COLLECTION`, or a Milvus Lite file `NAME.db`.
        expected_fingerprint: of the embedder whose pair will ask; None accepts any.

    Raises:
        InputError: there is no index, it is damaged, or another embedder made it.
        UsageError: the place is one of Milvus, and Milvus is not installed.
    """
    if is_milvus(place):
        return cast(LiveIndex, _milvus_index().load(str(place), expected_fingerprint))
    from cosup.index.faiss_index import FaissIndex

    return FaissIndex.load(place, expected_fingerprint)


def _milvus_index() -> Any:
    try:
        return importlib.import_module("cosup.index.milvus_index").MilvusIndex
    except ModuleNotFoundError as error:
        raise UsageError(
            f"an index of Milvus needs the extra 'milvus' ({error.name} is missing): pip install 'cosup[milvus]'"
        ) from None
