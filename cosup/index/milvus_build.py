"""Building an index in Milvus: its collections, written whole before the index's name stands for them.

Shapes: N passages, D dimensions.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cosup.errors import CosupError, InputError, UsageError
from cosup.index.base import check_values
from cosup.index.corpus import StoredCorpus
from cosup.index.milvus_client import MilvusConnection, without_extra
from cosup.index.milvus_expressions import Row, row_of
from cosup.index.milvus_place import MilvusPlace
from cosup.index.milvus_state import MilvusState, StateTable
from cosup.index.shards import VectorRows
from cosup.records import Passage

ROWS_AT_ONCE = 1000  # read or written together


def build_collections(
    connection: MilvusConnection, passages: Sequence[Passage], vectors: VectorRows, state: MilvusState
) -> tuple[str, MilvusState]:
    """Write the collections of an index and let its name stand for them; those that it stood for are taken away.

    Args:
        connection: to where the index is to be.
        passages: N passages.
        vectors: [N, D], read in parts.
        state: of the index, without its version.

    Returns:
        The name of the collection, and the state.
    """
    name = connection.place.name
    old = checked_name(connection)
    _clear_leftovers(connection, old)
    collection = f"{name}_{secrets.token_hex(4)}"
    try:
        state = _fill(connection, collection, passages, vectors, state)
    except BaseException:
        _drop(connection, collection)
        raise
    # Where this step is interrupted, it may be taken all the same, even later. So nothing is dropped then: the next
    # build takes away the collection that has no name.
    connection.point(name, collection)
    if old is not None:
        _drop(connection, old)
    return collection, state


def _fill(
    connection: MilvusConnection,
    collection: str,
    passages: Sequence[Passage],
    vectors: VectorRows,
    state: MilvusState,
) -> MilvusState:
    """Write the collections of an index and return its state."""
    main, digest = connection.create(collection, state.dimension), hashlib.sha256(state.embedder_fingerprint.encode())
    seen: set[str] | None = None if isinstance(passages, StoredCorpus) else set()  # a store has seen to its ids
    for start in range(0, len(passages), ROWS_AT_ONCE):
        part = passages[start : start + ROWS_AT_ONCE]
        block = np.asarray(vectors[start : start + len(part)], dtype=np.float32)
        check_values(block, state.similarity)
        rows = [row_of(p, start + i, block[i]) for i, p in enumerate(part)]
        if seen is not None:
            _check_distinct(rows, seen)
        main.insert(rows)
        digest.update(block.tobytes() + json.dumps([p.to_dict() for p in part]).encode())
    main.serve(state.search)
    if main.count() != len(passages):
        raise CosupError(
            f"{connection.place.shown}: Milvus holds {main.count():,} of {len(passages):,} passages; build again"
        )
    state = replace(state, version=digest.hexdigest())
    StateTable.create(connection, collection, state.dimension).write(state)
    return state


def _check_distinct(rows: Sequence[Row], seen: set[str]) -> None:
    """Refuse ids that come twice: to Milvus the second would be another row of the same key."""
    for row in rows:
        if row["id"] in seen:
            raise InputError(f"two passages have the id {row['id']!r}")
        seen.add(row["id"])


def checked_name(connection: MilvusConnection) -> str | None:
    """Return the collection that the index's name stands for now, None where it is free.

    Raises:
        UsageError: the name is taken by what is not cosup's.
    """
    name = connection.place.name
    found = connection.target_of(name)
    taken = name if name in connection.call("list_collections") else found
    if taken is not None and not (found and StateTable.is_there(connection, found)):
        raise UsageError(
            f"{connection.place.shown}: '{name}' is a collection that cosup did not make; choose another name"
        )
    return found


def _clear_leftovers(connection: MilvusConnection, current: str | None) -> None:
    """Take away what builds of this index that were killed have left."""
    own = re.compile(rf"({re.escape(connection.place.name)}_[0-9a-f]{{8}})(_state)?")
    for name in connection.call("list_collections"):
        match = own.fullmatch(name)
        if match and match[1] != current and not connection.call("list_aliases", match[1])["aliases"]:
            connection.drop(name)


def _drop(connection: MilvusConnection, collection: str) -> None:
    connection.drop(StateTable(connection, collection).table.name)
    connection.drop(collection)


def check_extra(place: MilvusPlace) -> None:
    """Raise `UsageError` where the extra is not installed, without importing it."""
    if not all(importlib.util.find_spec(name) for name in ("pymilvus", "milvus_lite")):
        raise without_extra(place)


def make_parent(place: MilvusPlace) -> None:
    """Make the folder that a file of Milvus Lite is to lie in."""
    try:
        Path(place.uri).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write an index to {place.shown}: {error.strerror or error}") from error
