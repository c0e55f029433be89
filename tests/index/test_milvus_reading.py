"""Reading an index in Milvus while it is changed: readers write nothing and see one state of it, the old or the new.

Milvus Lite stands in for a server here: one client of it is opened as that of a server would be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosup.errors import CosupError
from cosup.index import milvus_client, milvus_index, milvus_search, milvus_state
from cosup.index.milvus_client import MilvusConnection, Table, connect
from cosup.index.milvus_index import MilvusIndex
from cosup.index.milvus_place import MilvusPlace
from cosup.records import Passage
from tests.index import milvus
from tests.index.makers import MINE, D, corpus, ids, vectors

pytestmark = pytest.mark.milvus

SERVER = "milvus://host/cosup"
UNDER_WAY = "a change of it is under way; try again later. If none is, one was interrupted: 'cosup index --output INDEX"
OLD, NEW = [p.text for p in corpus(10)], ["changed"] * 10


@pytest.fixture(autouse=True)
def _server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server with an index of ten passages; a message to it has at most three rows."""
    MilvusIndex.build(tmp_path / "x.db", corpus(10), vectors(10), MINE, "inner_product")
    monkeypatch.setattr(milvus_index, "connect", lambda _: connect(MilvusPlace.parse(tmp_path / "x.db")))
    for module in (milvus_state, milvus_client):
        monkeypatch.setattr(module, "MOST_ROWS", 3)
    monkeypatch.setattr(milvus_state, "SECONDS_TO_WAIT", 0.0)
    yield
    milvus.stop_servers()


def opened() -> MilvusIndex:
    return MilvusIndex.load(SERVER, MINE)


def change(index: MilvusIndex) -> None:
    """Put other texts and vectors in the place of all passages."""
    index.replace([Passage(f"p{i}", "", "changed") for i in range(10)], np.zeros((10, D), dtype=np.float32))


def texts(index: MilvusIndex) -> list[str]:
    return [passage.text for passage in index]


def before_writes(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], None]) -> None:
    """Call `act` with the number of each write before it is made; what `act` itself does is not counted."""
    count, acting, plain = 0, False, MilvusConnection.call

    def call(self: MilvusConnection, name: str, *args: Any, **kwargs: Any) -> Any:
        nonlocal count, acting
        if name in milvus.WRITES and not acting:
            acting = True
            try:
                act(count)
            finally:
                acting = False
            count += 1
        return plain(self, name, *args, **kwargs)

    monkeypatch.setattr(MilvusConnection, "call", call)


def interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin a change and kill it when a part of it is carried out."""

    def stop(number: int) -> None:
        if number >= 7:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        before_writes(patch, stop)
        with pytest.raises(KeyboardInterrupt):
            change(opened())


def test_readers_write_nothing_and_say_that_a_change_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    early = opened()
    interrupt(monkeypatch)
    with monkeypatch.context() as patch:
        before_writes(patch, lambda _: pytest.fail("a reader writes"))
        for reader in (early, opened()):
            for read in (len, list, lambda index: index.identity, lambda index: index.search(vectors(1), 3)):
                with pytest.raises(CosupError, match=UNDER_WAY):
                    read(reader)
            assert reader.passage("p3").id == "p3"
    opened().compact()
    for reader in (early, opened()):
        assert texts(reader) == NEW
        assert {hit.score for hit in reader.search(vectors(1), 10)[0]} == {0.0}


@pytest.mark.parametrize("name", ["add", "replace", "delete"])
def test_a_writer_carries_out_what_was_interrupted_before_its_own_change(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    interrupt(monkeypatch)
    writer = opened()
    if name == "delete":
        writer.delete(["p0"])
    else:
        getattr(writer, name)([Passage("new", "", "changed")], vectors(1))
    assert texts(opened()) == (NEW[1:] if name == "delete" else [*NEW, "changed"])


def test_who_opens_during_a_change_sees_a_whole_state_and_does_not_disturb_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str] | str] = []

    def look(_: int) -> None:
        try:
            seen.append(texts(opened()))
        except CosupError as error:
            seen.append(str(error))

    with monkeypatch.context() as patch:
        before_writes(patch, look)
        change(opened())
    assert texts(opened()) == NEW
    told = [what for what in seen if isinstance(what, str)]
    assert [what for what in seen if what not in (OLD, NEW)] == told
    assert all(UNDER_WAY in what for what in told)
    assert (seen[0], seen[-1]) == (OLD, NEW)
    assert len(told) >= 4


def test_a_reader_waits_for_the_end_of_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(monkeypatch)
    reader, writer = opened(), opened()
    monkeypatch.setattr(milvus_state, "SECONDS_TO_WAIT", 60.0)
    monkeypatch.setattr(milvus_state.time, "sleep", lambda _: writer.compact())
    assert texts(reader) == NEW


def test_a_search_that_a_change_meets_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The candidates of the search are compared in several messages, and the change comes between two of them."""
    reader, writer = opened(), opened()
    plain, parts = Table.where, []

    def where(self: Table, expression: str, fields: Any, *more: Any) -> Any:
        if "vector" in fields and "state" not in self.name:
            parts.append(expression)
            if len(parts) == 2:
                change(writer)
        return plain(self, expression, fields, *more)

    monkeypatch.setattr(milvus_search, "IDS_AT_ONCE", 4)
    monkeypatch.setattr(milvus_state, "SECONDS_TO_WAIT", 60.0)
    monkeypatch.setattr(Table, "where", where)
    hits = reader.search(vectors(1), 10, [[f"p{i}" for i in range(10)]])[0]
    assert {hit.score for hit in hits} == {0.0}
    assert ids(hits) == [f"p{i}" for i in range(10)]


def test_a_change_between_two_parts_of_a_reading_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(milvus_index, "ROWS_AT_ONCE", 4)
    passages = iter(opened())
    assert [next(passages).id for _ in range(4)] == ["p0", "p1", "p2", "p3"]
    change(opened())
    with pytest.raises(CosupError, match="changed while it was read; read it again"):
        next(passages)


def test_two_writers_at_once_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    writer, other = opened(), opened()
    before_writes(monkeypatch, lambda number: other.compact() if number == 6 else None)
    with pytest.raises(CosupError, match="another process changes it too; let one do so at a time"):
        change(writer)
    assert texts(opened()) == NEW
