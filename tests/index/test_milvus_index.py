"""The index in Milvus, on Milvus Lite: whole or not there, changes that outlive a kill, what goes wrong in a line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosup.errors import CosupError, InputError, UsageError
from cosup.index import build as index_build
from cosup.index import milvus_client, milvus_state
from cosup.index.build import build_index
from cosup.index.milvus_client import MilvusConnection, connect
from cosup.index.milvus_index import MilvusIndex
from cosup.index.milvus_place import MilvusPlace
from cosup.index.structures import IndexSettings
from cosup.records import Passage
from tests.index import building, milvus
from tests.index.makers import MINE, OTHER, ids
from tests.index.toy_milvus import D, N, build, collections, corpus, servers_stopped, vectors

__all__ = ["servers_stopped"]
pytestmark = pytest.mark.milvus
ROOT = Path(__file__).parents[2]


# -- building and opening --------------------------------------------------------------------------------------------


def test_save_load_same_results(tmp_path: Path) -> None:
    place, queries = tmp_path / milvus.NAME, vectors(5, seed=4)
    built = build(place)
    before = built.search(queries, 5)
    loaded = milvus.load(tmp_path, MINE)
    assert loaded.search(queries, 5) == before
    assert list(loaded) == corpus()
    assert (len(loaded), loaded.dimension, loaded.embedder_fingerprint) == (N, D, MINE)
    assert loaded.identity == loaded.state.version == built.state.version
    assert loaded.passage("p17") == corpus()[17]
    with pytest.raises(InputError, match="no passage 'x'"):
        loaded.passage("x")


def test_an_index_of_another_embedder_is_refused_by_name(tmp_path: Path) -> None:
    place = tmp_path / "x.db"
    build(place)
    with pytest.raises(InputError, match=f"x.db: the index was made by embedder {'a' * 12}, but .* {'b' * 12}; run"):
        MilvusIndex.load(place, OTHER)
    assert len(MilvusIndex.load(place, None)) == N


def test_several_indexes_in_one_file(tmp_path: Path) -> None:
    one, two = f"{tmp_path}/x.db", f"{tmp_path}/x.db:second"
    build(one, 10)
    build(two, 20, OTHER)
    build(one, 12)
    assert (len(MilvusIndex.load(one, MINE)), len(MilvusIndex.load(two, OTHER))) == (12, 20)
    with pytest.raises(InputError, match=r"x.db:third: no index 'third' of cosup's there; it has cosup, second"):
        MilvusIndex.load(f"{tmp_path}/x.db:third", MINE)
    assert len(collections(tmp_path / "x.db")) == 4  # two each


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x\.db: no such Milvus Lite file; make one with 'cosup index'"):
        MilvusIndex.load(tmp_path / "x.db", MINE)
    MilvusIndex.check_target(tmp_path / "x.db")
    assert not list(tmp_path.iterdir())


def test_a_collection_that_cosup_did_not_make_is_left_alone(tmp_path: Path) -> None:
    connection = connect(MilvusPlace.parse(tmp_path / "x.db"))
    connection.create("mine", 4)
    connection.create("other", 4)
    connection.point("named", "other")
    for name in ("mine", "named"):
        place = f"{tmp_path}/x.db:{name}"
        with pytest.raises(UsageError, match=f"'{name}' is a collection that cosup did not make; choose another name"):
            build(place)
        with pytest.raises(UsageError, match="did not make"):
            MilvusIndex.check_target(place)
        with pytest.raises(InputError, match=f"no index '{name}' of cosup's there"):
            MilvusIndex.load(place, MINE)
    assert collections(tmp_path / "x.db") == ["mine", "other"]


def test_vectors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    def attempt(values: np.ndarray, similarity: str = "inner_product", count: int = 4) -> None:
        MilvusIndex.build(tmp_path / "x.db", corpus(count), values, MINE, similarity)

    with pytest.raises(UsageError, match=r"float32 \[5, D\]"):
        attempt(vectors(4), count=5)
    with pytest.raises(UsageError, match="vectors are float64"):
        attempt(vectors(4).astype(np.float64))
    with pytest.raises(UsageError, match="unit length"):
        attempt(vectors(4), "cosine")
    with pytest.raises(UsageError, match="similarity is 'dot'"):
        attempt(vectors(4), "dot")
    with pytest.raises(CosupError, match="not finite"):
        attempt(np.full((4, D), np.inf, dtype=np.float32))
    with pytest.raises(InputError, match="no passages"):
        attempt(vectors(0), count=0)
    with pytest.raises(InputError, match="two passages have the id 'p0'"):
        MilvusIndex.build(tmp_path / "x.db", [*corpus(3), corpus(1)[0]], vectors(4), MINE, "inner_product")
    with pytest.raises(UsageError, match="index type is 'ivf'"):
        build(tmp_path / "x.db", 4, index_type="ivf")
    assert collections(tmp_path / "x.db") == []


def test_from_passages_to_an_index_in_one_call(tmp_path: Path) -> None:
    place = tmp_path / "x.db"
    built = build_index(building.SlowEmbedder(), building.PASSAGES, place, options=building.OPTIONS)
    query = building.SlowEmbedder().embed_ids([list(building.PASSAGES[12].rendered.encode())]).numpy()
    assert built.search(query, 1)[0][0].score == pytest.approx(1.0)
    assert list(built) == building.PASSAGES
    assert [p.name for p in tmp_path.iterdir()] == ["x.db"]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (IndexSettings("ivf-pq"), "index type is 'ivf-pq'.*; in Milvus expected one of auto, flat"),
        (IndexSettings("auto", "float16"), "vector dtype is 'float16'; in Milvus vectors are kept as float32"),
    ],
)
def test_what_milvus_does_not_have_is_refused_before_anything_is_embedded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: IndexSettings, message: str
) -> None:
    monkeypatch.setattr(index_build, "embed_corpus", lambda *_: pytest.fail("the corpus was embedded"))
    with pytest.raises(UsageError, match=message):
        build_index(building.SlowEmbedder(), building.PASSAGES, tmp_path / "x.db", settings=chosen)
    assert not list(tmp_path.iterdir())


# -- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(
        CosupError, match=r"^milvus://127.0.0.1:1/x: no Milvus answers there \(.*\); start it, or check"
    ):
        MilvusIndex.load("milvus://127.0.0.1:1/x", MINE)


@pytest.mark.parametrize("name", ["pymilvus", "milvus_lite"])
def test_the_extra_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "x.db").mkdir()
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=r"an index in Milvus needs the extra 'milvus': pip install 'cosup\[milvus\]'"):
        MilvusIndex.load(tmp_path / "x.db", MINE)


def test_a_file_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("SQLite format 3")
    for attempt in (lambda: build(tmp_path / "x.db"), lambda: MilvusIndex.load(tmp_path / "x.db", MINE)):
        with pytest.raises(UsageError, match=r"x.db: cannot be used as a Milvus Lite file \(.*File exists"):
            attempt()
    assert (tmp_path / "x.db").read_text() == "SQLite format 3"


def test_a_file_that_another_process_uses(tmp_path: Path) -> None:
    build(tmp_path / "x.db", 5)
    code = f"from cosup.index.milvus_index import MilvusIndex; MilvusIndex.load({str(tmp_path / 'x.db')!r}, None)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith("another process is using it, and Milvus Lite serves one at a time")


# -- changes ---------------------------------------------------------------------------------------------------------


def test_live_changes(tmp_path: Path) -> None:
    index = build(tmp_path / "x.db", 10)
    versions = [index.identity]
    new = [Passage("new1", "", "one", {"year": 1}), Passage("new2", "", "two")]
    index.add(new, vectors(2, seed=5))
    versions.append(index.identity)
    assert list(index) == [*corpus(10), *new]
    changed = [Passage("p4", "", "changed"), Passage("new3", "", "three")]
    index.replace(changed, vectors(2, seed=6))
    versions.append(index.identity)
    index.delete(["p0", "new1", "p0"])
    versions.append(index.identity)
    index.compact()
    wanted = [*corpus(10)[1:4], *corpus(10)[5:], new[1], *changed]
    for found in (index, MilvusIndex.load(tmp_path / "x.db", MINE)):
        assert list(found) == wanted
        assert len(found) == len(wanted)
        assert ids(found.search(vectors(2, seed=6)[:1] * 100, 1)[0]) == ["p4"]
    assert len(set(versions)) == 4
    index.add([Passage("p0", "", "again")], vectors(1))
    assert list(index)[-1].id == "p0"
    index.add([], vectors(0))
    index.delete([])


def test_changes_that_are_refused_change_nothing(tmp_path: Path) -> None:
    index = build(tmp_path / "x.db", 10)
    before = index.identity
    new = Passage("new", "", "t")
    with pytest.raises(InputError, match="the index has a passage 'p3' already; replace it"):
        index.add([new, corpus()[3]], vectors(2))
    for change in (index.add, index.replace):
        with pytest.raises(InputError, match="two passages have the id 'new'"):
            change([new, new], vectors(2))
        with pytest.raises(UsageError, match=r"float32 \[1, 6\]"):
            change([new], vectors(2))
        with pytest.raises(UsageError, match=r"float32 \[1, 6\]"):
            change([new], vectors(1)[:, :3])
        with pytest.raises(CosupError, match="not finite"):
            change([new], np.full((1, D), np.nan, dtype=np.float32))
    with pytest.raises(InputError, match="no passage 'nowhere' among the 10"):
        index.delete(["p1", "nowhere"])
    assert index.identity == before
    assert list(index) == corpus(10)


class Interrupted(BaseException):
    """A kill."""


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Let the process die before its write number `after`; later ones (of clearing up) never happen either."""
    left, plain = after, MilvusConnection.call

    def call(self: MilvusConnection, name: str, *args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= name in milvus.WRITES
        if left < 0 and name in milvus.WRITES:
            raise Interrupted
        return plain(self, name, *args, **kwargs)

    monkeypatch.setattr(MilvusConnection, "call", call)


CHANGES = {
    "add": lambda index: index.add([Passage(f"new{i}", "", "t") for i in range(9)], vectors(9, seed=5)),
    "replace": lambda index: index.replace(
        [Passage(f"p{i}", "", "changed", {"year": 7}) for i in range(5, 14)], vectors(9, seed=6)
    ),
    "delete": lambda index: index.delete([f"p{i}" for i in range(0, 10, 2)]),
}


def state_of(index: MilvusIndex) -> tuple[list[Passage], list[list[Any]]]:
    return list(index), index.search(vectors(3, seed=1), 50)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("size", [3, 1000], ids=["many messages", "one message"])
def test_a_change_interrupted_at_any_write_leaves_the_old_or_the_new_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, size: int
) -> None:
    for module in (milvus_state, milvus_client):
        monkeypatch.setattr(module, "MOST_ROWS", size)
    monkeypatch.setattr(milvus_client, "IDS_AT_ONCE", size)
    monkeypatch.setattr(milvus_state, "IDS_AT_ONCE", size)
    old = state_of(build(tmp_path / "whole.db", 10))
    whole = MilvusIndex.load(tmp_path / "whole.db", MINE)
    CHANGES[name](whole)
    new, seen = state_of(whole), []
    for after in range(50):
        index = build(tmp_path / "x.db", 10)
        with monkeypatch.context() as patch:
            interrupt(patch, after)
            try:
                CHANGES[name](index)
            except Interrupted:
                done = False
            else:
                done = True
        opened = MilvusIndex.load(tmp_path / "x.db", MINE)
        seen.append(state_of(opened))
        assert seen[-1] in (old, new), f"after {after} writes"
        CHANGES["add"](opened) if name != "add" or seen[-1] == old else opened.delete(["new0"])
        if done:
            break
    assert done
    assert seen == sorted(seen, key=lambda state: state == new), "a later kill leaves an older state"
    assert (seen[0], seen[-1]) == (old, new)


def test_a_build_interrupted_at_any_write_leaves_the_old_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "x.db"
    build(place, 10)
    for after in range(50):
        with monkeypatch.context() as patch:
            interrupt(patch, after)
            try:
                build(place, 20)
            except Interrupted:
                done = False
            else:
                done = True
        assert len(MilvusIndex.load(place, MINE)) in ((20,) if done else (10, 20))
        if done:
            break
        build(place, 10)
        assert len(collections(place)) == 2, "what the killed build left is still there"
    assert done
    assert after > 5


@pytest.mark.parametrize("error", [KeyboardInterrupt(), CosupError("no answer in time")], ids=["Ctrl-C", "timeout"])
@pytest.mark.parametrize("taken", [True, False])
def test_the_last_step_of_a_build_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, taken: bool
) -> None:
    """Milvus may have taken the step all the same: the index is the new one then, and is never lost."""
    place, plain = tmp_path / "x.db", MilvusConnection.call

    def call(self: MilvusConnection, name: str, *args: Any, **kwargs: Any) -> Any:
        if name not in ("create_alias", "alter_alias"):
            return plain(self, name, *args, **kwargs)
        if taken:
            plain(self, name, *args, **kwargs)
        raise error

    build(place, 10)
    with monkeypatch.context() as patch:
        patch.setattr(MilvusConnection, "call", call)
        with pytest.raises(type(error)):
            build(place, 20)
    assert len(MilvusIndex.load(place, MINE)) == (20 if taken else 10)
    build(place, 30)
    assert len(MilvusIndex.load(place, MINE)) == 30
    assert len(collections(place)) == 2, "what the interrupted build left is still there"


def test_changes_killed_at_any_moment(tmp_path: Path) -> None:
    """By kill -9, in processes of their own: each finds the state before or after the one that was killed."""
    command = [sys.executable, "-m", "tests.index.changing", str(tmp_path), "10"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    runs = json.loads((tmp_path / "runs.json").read_text())
    assert all(run["found"] in ("old", "new") for run in runs), runs
    assert sum(run["killed"] for run in runs) >= 5, "the kills came too late to prove anything"
