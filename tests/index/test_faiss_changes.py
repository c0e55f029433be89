"""An index folder that is changed: old or new state at any step, one writer, and what is in it after any sequence."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cosup.errors import InputError, UsageError
from cosup.index import faiss_index
from cosup.index.faiss_index import FaissIndex
from cosup.index.filters import Filter
from cosup.index.structures import IndexSettings
from cosup.locks import LOCK, held
from cosup.records import Passage
from tests.index.folders import build, files_of, small_index
from tests.index.makers import MINE, OTHER, N, corpus, small_integers, vectors

# -- changes -----------------------------------------------------------------------------------------------------------


def test_a_reader_goes_on_with_what_it_opened_and_can_take_up_the_changes(tmp_path: Path) -> None:
    build(tmp_path / "index", kind="ivf-sq")
    reader, writer = FaissIndex.load(tmp_path / "index", MINE), FaissIndex.load(tmp_path / "index", MINE)
    before = reader.search(vectors(5, seed=1), 4, filter=None)
    writer.delete([hits[0].passage_id for hits in before][:1])
    writer.compact()
    build(tmp_path / "index", vectors(20))
    assert reader.search(vectors(5, seed=1), 4) == before
    assert list(reader) == corpus()
    assert len(reader.search(vectors(1), 3, filter=Filter.parse({"lang": "en"}))[0]) == 3
    assert reader.changed()
    newer = reader.reopened()
    assert list(newer) == corpus(20)
    assert not newer.changed()
    assert list(reader) == corpus()


def test_a_writer_goes_on_from_what_others_have_changed(tmp_path: Path) -> None:
    build(tmp_path / "index", vectors(10))
    one, two = FaissIndex.load(tmp_path / "index", MINE), FaissIndex.load(tmp_path / "index", MINE)
    one.add(corpus(5, first=10), vectors(5))
    two.delete(["p12", "p0"])
    with pytest.raises(InputError, match="'p12'"):
        one.delete(["p12"])
    one.replace(corpus(1, first=12), vectors(1))
    assert {p.id for p in FaissIndex.load(tmp_path / "index", MINE)} == {f"p{i}" for i in range(1, 15)}


def test_two_writers_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = build(tmp_path / "index", vectors(10))
    monkeypatch.setattr(faiss_index, "_PATIENCE", 0.1)
    with held(tmp_path / "index" / LOCK, "it is used"):
        with pytest.raises(UsageError, match=rf"is being changed by process {os.getpid()} on "):
            index.delete(["p1"])
        assert len(FaissIndex.load(tmp_path / "index", MINE)) == 10
    index.delete(["p1"])


def test_an_index_that_another_embedder_rebuilt_is_not_changed(tmp_path: Path) -> None:
    index = build(tmp_path / "index", vectors(10))
    build(tmp_path / "index", vectors(20), OTHER)
    with pytest.raises(InputError, match="was made by embedder"):
        index.delete(["p1"])
    assert len(FaissIndex.load(tmp_path / "index", OTHER)) == 20


def test_many_small_changes_leave_few_segments(tmp_path: Path) -> None:
    index = build(tmp_path / "index", kind="ivf-sq")
    for number in range(40):
        index.replace(corpus(1, first=1000 + number), vectors(1, seed=number))
    assert len(index.manifest.segments) <= 6
    assert index.manifest.segments[0].count == N
    assert [p.id for p in index][N:] == [f"p{1000 + i}" for i in range(40)]


def test_a_type_left_to_cosup_is_chosen_anew_when_compacted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = build(tmp_path / "index", kind="auto")
    assert index.manifest.type == "flat"
    monkeypatch.setattr("cosup.index.structures.FLAT_UP_TO", N)
    index.add(corpus(300, first=N), vectors(300, seed=1))
    assert index.manifest.type == "flat"
    index.compact()
    assert (index.manifest.type, len(index.manifest.segments)) == ("ivf-sq", 1)
    assert "600 passages, more than 300" in index.manifest.reason


@pytest.mark.parametrize("kind", ["flat", "ivf-sq"])
def test_what_a_killed_change_has_left_is_removed_by_the_next(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "index"
    index = small_index(folder, kind)
    before = files_of(folder)
    shutil.copytree(next(folder.glob("segment-*")), folder / "segment-00000000")
    (next(folder.glob("segment-*")) / "deleted-00000000.bin").write_bytes(b"12345678")
    (folder / ".index.json.0000.tmp").write_text("{")
    assert len(FaissIndex.load(folder, MINE)) == len(index)
    with pytest.raises(InputError):
        index.delete(["nowhere"])
    assert files_of(folder) == before


Change = Callable[[FaissIndex], Any]
CHANGES: dict[str, Change] = {
    "add": lambda index: index.add(corpus(3, first=900), vectors(3)),
    "replace": lambda index: index.replace(corpus(40, first=0), vectors(40, seed=7)),
    "delete": lambda index: index.delete(["p20", "p21"]),
    "compact": lambda index: index.compact(),
    "build": lambda index: build(index.folder, vectors(20, seed=9)),
}


def content(index: FaissIndex) -> list[Any]:
    queries = vectors(3, seed=11)
    return [list(index), index.search(queries, 5), index.search(queries, 500)]


@pytest.mark.parametrize("kind", ["flat", pytest.param("ivf-sq", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_stopped_at_any_step_leaves_the_old_or_the_new_state(
    tmp_path: Path, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every write that is to last (fsync, rename) and every removal is made to fail in turn, as a full disk would."""
    small_index(tmp_path / "start", kind)
    shutil.copytree(tmp_path / "start", tmp_path / "done")
    changed = FaissIndex.load(tmp_path / "done", MINE)
    CHANGES[name](changed)
    old, new = content(FaissIndex.load(tmp_path / "start", MINE))[0], list(FaissIndex.load(tmp_path / "done", MINE))
    seen, step = [], 0
    while True:
        folder = tmp_path / f"step{step}"
        shutil.copytree(tmp_path / "start", folder)
        index = FaissIndex.load(folder, MINE)
        with monkeypatch.context() as patched:
            left = fail_at(patched, step)
            with contextlib.suppress(KeyboardInterrupt):
                CHANGES[name](index)
        found = FaissIndex.load(folder, MINE)
        assert list(found) in (old, new)
        seen.append(list(found) == new)
        found.add(corpus(1, first=5000), vectors(1))
        assert content(FaissIndex.load(folder, MINE)) == content(found)
        if left() > 0:
            break
        step += 1
    assert seen == sorted(seen)
    assert step > 3
    assert seen[-1] or name == "compact"


def fail_at(patched: pytest.MonkeyPatch, step: int) -> Callable[[], int]:
    """Let call number `step` of fsync, replace or unlink fail; return what says how many calls were still to come."""
    left = [step]

    def failing(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **more: Any) -> Any:
            left[0] -= 1
            if left[0] == -1:
                raise KeyboardInterrupt
            return function(*words, **more)

        return call

    patched.setattr(os, "fsync", failing(os.fsync))
    patched.setattr(Path, "replace", failing(Path.replace))
    patched.setattr(shutil, "rmtree", failing(shutil.rmtree))
    return lambda: left[0] + 1


# -- any sequence of changes against a plain model ---------------------------------------------------------------------

Step = tuple[str, list[int], int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "replace", "delete", "compact", "reopen"]),
        st.lists(st.integers(0, 39), min_size=1, max_size=12, unique=True),
        st.integers(0, 10**6),
    ),
    max_size=12,
)


class Model:
    """What an index should hold: passages and vectors by id, in order."""

    def __init__(self, passages: list[Passage], values: np.ndarray) -> None:
        self.held = {p.id: (p, v) for p, v in zip(passages, values, strict=True)}

    def put(self, passages: list[Passage], values: np.ndarray) -> None:
        for passage, vector in zip(passages, values, strict=True):
            self.held.pop(passage.id, None)
            self.held[passage.id] = (passage, vector)

    def nearest(self, query: np.ndarray, k: int, where: Filter | None = None) -> list[tuple[str, float]]:
        rows = [(p.id, float(v @ query)) for p, v in self.held.values() if where is None or where.holds(p.metadata)]
        return sorted(rows, key=lambda row: -row[1])[:k]


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf-sq"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, first=st.integers(1, 30))
def test_any_sequence_of_changes_equals_a_plain_model(
    tmp_path_factory: pytest.TempPathFactory, kind: str, steps: list[Step], first: int
) -> None:
    folder = tmp_path_factory.mktemp("index") / "index"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(faiss_index, "LEAST", 8)
        patched.setattr(faiss_index, "EXACT_UP_TO", 8)
        run_steps(folder, kind, steps, first)


def run_steps(folder: Path, kind: str, steps: list[Step], first: int) -> None:
    index = FaissIndex.build(
        folder, corpus(first), small_integers(first, seed=0), MINE, "inner_product", IndexSettings(kind, "float16")
    )
    model = Model(corpus(first), small_integers(first, seed=0))
    for name, numbers, seed in steps:
        there = [f"p{i}" for i in numbers if f"p{i}" in model.held]
        fresh = [i for i in numbers if name == "replace" or f"p{i}" not in model.held]
        passages, values = [corpus(1, first=i)[0] for i in fresh], small_integers(len(fresh), seed)
        if name == "delete" and there:
            index.delete(there)
            for passage_id in there:
                del model.held[passage_id]
        elif name in ("add", "replace") and passages:
            getattr(index, name)(passages, values)
            model.put(passages, values)
        elif name == "compact":
            index.compact()
        elif name == "reopen":
            index = FaissIndex.load(folder, MINE)
        compare(index, model, seed, exact=kind == "flat")
    compare(FaissIndex.load(folder, MINE), model, 1, exact=kind == "flat")


def compare(index: FaissIndex, model: Model, seed: int, exact: bool) -> None:
    assert list(index) == [passage for passage, _ in model.held.values()]
    assert len(index) == len(model.held)
    where = Filter.parse({"odd": True})
    for query in small_integers(3, seed + 1):
        for k, filtered in ((1, None), (5, None), (100, None), (3, where), (100, where)):
            found = [(hit.passage_id, hit.score) for hit in index.search(query[None], k, filter=filtered)[0]]
            wanted = model.nearest(query, k, filtered)
            if exact or k == 100:  # whoever asks for more than there is gets all there is
                assert found == wanted
            assert len(found) == len(wanted)
            assert found == [row for row in model.nearest(query, 100, filtered) if row in found]
