"""What an index in Milvus says of itself, and changes of it that happen whole or not at all.

Beside the collection of an index, `X`, stands `X_state`. Its row `state` holds the record below. Milvus takes one
message whole or not at all, and what fits into one is written at once. A larger change is first laid down in `X_state`,
then named in the record (that is the moment it happens), then carried out, and then cleared away.

Writers carry out what is still named in the record before they change anything: to write a row twice is to write it
once. Readers write nothing. Whoever reads while a change is carried out waits for its end, and whoever meets one
meanwhile reads again (`StateTable.whole`). After a writer that was killed half way that takes another writer.

One writer at a time. Those of one process wait for each other; nothing keeps those of several processes apart, and they
may undo one another's work.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np

from cosup.errors import CosupError, InputError
from cosup.index.milvus_client import IDS_AT_ONCE, MOST_BYTES, MOST_ROWS, MilvusConnection, SearchSettings, Table
from cosup.index.milvus_expressions import FIELDS, Row, in_batches
from cosup.version import __version__

FORMAT = 1
RECORD = "state"
SECONDS_TO_WAIT = 10.0  # of a reader, for the end of a change
_SUFFIX = "_state"
_EXACT = SearchSettings("FLAT", {})
_DELETED = -1  # in place of a number
_PAUSE = 0.1  # seconds between two looks whether a change is done
_ONE_WRITER = threading.RLock()  # in this process

T = TypeVar("T")


@dataclass(frozen=True)
class Change:
    """A change that has happened and may not be carried out yet.

    Attributes:
        token: begins the ids of its rows.
        count: of its rows.
    """

    token: str
    count: int


@dataclass(frozen=True)
class MilvusState:
    """What an index says of itself.

    Attributes:
        embedder_fingerprint: of the embedder that made the vectors.
        similarity: `cosine` (vectors of unit length) or `inner_product`.
        dimension: D.
        search: how Milvus finds neighbours.
        next_number: every passage's number is smaller; new passages count on from here.
        version: another after every change.
        change: what is to be carried out.
        cosup_version: that built it.
        format: of this record.
    """

    embedder_fingerprint: str
    similarity: str
    dimension: int
    search: SearchSettings
    next_number: int
    version: str
    change: Change | None = None
    cosup_version: str = __version__
    format: int = FORMAT

    @classmethod
    def parse(cls, text: str, shown: str) -> MilvusState:
        """Read a record.

        Raises:
            InputError: it is damaged or of another format.
        """
        try:
            record = json.loads(text)
            if record["format"] != FORMAT:
                found = f"format {record['format']!r}; this cosup reads format {FORMAT}"
                raise InputError(f"{found}: run 'cosup index' again", shown)
            change = record.pop("change")
            search = SearchSettings(**record.pop("search"))
            state = cls(**record, search=search, change=None if change is None else Change(**change))
            state._check()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError("damaged: its record is not what was written; run 'cosup index' again", shown) from error
        return state

    def _check(self) -> None:
        """Raise `ValueError` where a field is of another kind than was written."""
        texts = [self.embedder_fingerprint, self.similarity, self.version, self.cosup_version, self.search.type]
        numbers = [self.dimension, self.next_number]
        if self.change is not None:
            texts.append(self.change.token)
            numbers.append(self.change.count)
        known = isinstance(self.search.build, dict) and all(isinstance(text, str) for text in texts)
        if not known or not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError("a field of another kind")


class StateTable:
    """The collection that stands beside an index.

    Args:
        connection: to Milvus.
        collection: of the index.
        dimension: D; None reads it from the record.
    """

    def __init__(self, connection: MilvusConnection, collection: str) -> None:
        self.table = Table(connection, collection + _SUFFIX)

    @classmethod
    def create(cls, connection: MilvusConnection, collection: str, dimension: int) -> StateTable:
        """Make it, without a record."""
        connection.create(collection + _SUFFIX, dimension).serve(_EXACT)
        return cls(connection, collection)

    @classmethod
    def is_there(cls, connection: MilvusConnection, collection: str) -> bool:
        """Whether a collection has one: whether it is an index of cosup's."""
        return bool(connection.call("has_collection", collection + _SUFFIX))

    def read(self) -> MilvusState:
        """Return the record.

        Raises:
            InputError: there is none, or it is damaged or of another format.
        """
        shown = self.table.connection.place.shown
        rows = self.table.get([RECORD], ["text"])
        return MilvusState.parse(rows[0]["text"] if rows else "", shown)

    def write(self, state: MilvusState) -> None:
        """Put a record in the place of the old one, at once."""
        self.table.upsert([_plain_row(RECORD, state.dimension) | {"text": json.dumps(asdict(state))}])

    def whole(self, read: Callable[[MilvusState], T]) -> T:
        """Read something of one state of the index, before or after a change, whatever a writer does meanwhile.

        Args:
            read: gets the record; called again where a change came in between.

        Raises:
            CosupError: a change is still not done after `SECONDS_TO_WAIT`.
        """
        until = time.monotonic() + SECONDS_TO_WAIT
        while True:
            state = self.read()
            if state.change is None:
                found = read(state)
                if self.read().version == state.version:
                    return found
            if time.monotonic() > until:
                raise CosupError(
                    f"{self.table.connection.place.shown}: a change of it is under way; try again later. If none is, "
                    "one was interrupted: 'cosup index --output INDEX --compact' carries it out"
                )
            time.sleep(_PAUSE)

    @contextlib.contextmanager
    def writing(self, main: Table) -> Iterator[MilvusState]:
        """Let no other writer of this process in, carry out what was interrupted, and give the record.

        Args:
            main: the index's collection.
        """
        with _ONE_WRITER:
            yield self._finish(main, self.read())

    def change(self, main: Table, state: MilvusState, rows: Sequence[Row], deleted: Sequence[str]) -> MilvusState:
        """Write rows and take others out, all of it or nothing, and return the new state; only while `writing`.

        Args:
            main: the index's collection.
            state: as it is to be afterwards.
            rows: to be added, or put in the place of those with the same ids.
            deleted: ids to be taken out.
        """
        self._clear()
        small = len(rows) + len(deleted) <= MOST_ROWS and len(list(in_batches(rows, MOST_ROWS, MOST_BYTES))) <= 1
        if small and not (rows and deleted) and len(deleted) <= IDS_AT_ONCE:
            self.write(state)
            _carry_out(main, rows, deleted)
            return state
        change = Change(secrets.token_hex(8), len(rows) + len(deleted))
        gone = [_plain_row(i, state.dimension) | {"number": _DELETED} for i in deleted]
        self.table.insert([_noted(row, change, place) for place, row in enumerate([*rows, *gone])])
        self.write(replace(state, change=change))
        return self._finish(main, replace(state, change=change))

    def _finish(self, main: Table, state: MilvusState) -> MilvusState:
        """Carry out what the record names, if anything, and return the state without it."""
        if state.change is None:
            return state
        for start in range(0, state.change.count, MOST_ROWS):
            places = range(start, min(start + MOST_ROWS, state.change.count))
            ids = [f"{state.change.token}:{place}" for place in places]
            noted = [_as_it_was(row) for row in self.table.get(ids, [*FIELDS, "vector"])]
            if len(noted) < len(ids):
                raise self._not_whole(state.change)
            gone = [row["id"] for row in noted if row["number"] == _DELETED]
            _carry_out(main, [row for row in noted if row["number"] != _DELETED], gone)
        done = replace(state, change=None)
        self.write(done)
        self._clear()
        return done

    def _not_whole(self, change: Change) -> CosupError:
        shown = self.table.connection.place.shown
        if self.read().change != change:
            return CosupError(
                f"{shown}: another process changes it too; let one do so at a time, and look what is there"
            )
        return InputError("damaged: a change of it is not whole; run 'cosup index' again", shown)

    def _clear(self) -> None:
        """Take away rows of changes that are carried out, or that never happened."""
        while rows := self.table.where(f'id != "{RECORD}"', ["id"]):
            self.table.delete([row["id"] for row in rows])


def _carry_out(main: Table, rows: Sequence[Row], deleted: Sequence[str]) -> None:
    if rows:
        main.upsert(rows)
    if deleted:
        main.delete(deleted)


def _plain_row(row_id: str, dimension: int) -> Row:
    vector = np.zeros(dimension, dtype=np.float32)
    return {"id": row_id, "number": 0, "title": "", "text": "", "vector": vector, "metadata": {}}


def _noted(row: Row, change: Change, place: int) -> Row:
    """Return the row under which a row of a change is laid down."""
    own: dict[str, Any] = {"id": row["id"], "number": row["number"], "metadata": row["metadata"]}
    return row | {"id": f"{change.token}:{place}", "number": place, "metadata": own}


def _as_it_was(noted: Row) -> Row:
    own = noted["metadata"]
    return noted | {"id": own["id"], "number": own["number"], "metadata": own["metadata"]}
