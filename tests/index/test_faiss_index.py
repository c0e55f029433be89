"""An index folder: whole or not there, refused when damaged or not the model's, and what is in it after changes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cosup.data.store import PassageStore
from cosup.data.writing import write_jsonl
from cosup.errors import CosupError, InputError, UsageError
from cosup.index import faiss_index, manifest
from cosup.index.base import PARTIAL, file_checksum
from cosup.index.build import add_passages, build_index, building
from cosup.index.embed import EmbedOptions
from cosup.index.faiss_index import FaissIndex, check_folder
from cosup.index.filters import Filter
from cosup.index.manifest import IndexManifest
from cosup.index.structures import IndexSettings
from cosup.info.describe import describe
from cosup.locks import LOCK, held
from cosup.model_folder import PairSettings, fingerprint_of
from cosup.records import Passage
from tests.index.makers import MINE, OTHER, D, N, corpus, ids, small_integers, vectors

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


# -- the folder --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["flat", "ivf-pq", "hnsw"])
def test_every_flipped_byte_is_noticed_and_the_file_named(tmp_path: Path, kind: str) -> None:
    """A byte is changed at random places of every file; `load` and `cosup info --verify` name the file each time."""
    folder, choose = tmp_path / "index", random.Random(0)
    small_index(folder, kind)
    files = files_of(folder)
    assert {"structure.faiss", "metadata.bin"} <= {p.name for p in files} or kind == "flat"
    for path in files:
        whole = path.read_bytes()
        places = {0, len(whole) - 1, *(choose.randrange(len(whole)) for _ in range(12))}
        for place in places:
            changed = bytearray(whole)
            changed[place] ^= choose.randrange(1, 256)
            path.write_bytes(changed)
            with pytest.raises(InputError, match=path.name):
                FaissIndex.load(folder, None)
            with pytest.raises(InputError, match=path.name):
                describe(folder, verify=True)
        path.write_bytes(whole)
    assert dict(describe(folder, verify=True).rows)["checksums"] == f"verified, {len(files)} files"
    FaissIndex.load(folder, MINE)


def test_a_large_index_is_hashed_when_asked_and_not_at_every_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "index"
    small_index(folder)
    monkeypatch.setattr(faiss_index, "VERIFIED_ON_LOAD", 0)
    monkeypatch.setattr(manifest, "VERIFIED_ON_LOAD", 0)
    monkeypatch.setattr(manifest, "file_checksum", None)
    FaissIndex.load(folder, MINE)
    assert "--verify compares every byte" in dict(describe(folder).rows)["checksums"]
    monkeypatch.undo()
    monkeypatch.setattr(manifest, "VERIFIED_ON_LOAD", 0)
    path = next(folder.glob("segment-*/vectors.bin"))
    path.write_bytes(b"\xff" + path.read_bytes()[1:])
    with pytest.raises(InputError, match=r"vectors\.bin: damaged"):
        describe(folder, verify=True)


def test_a_flipped_byte_of_deleted_rows_is_noticed_whatever_the_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read whole at every start, and a wrong row would be asked for, or a deleted passage be back."""
    monkeypatch.setattr(faiss_index, "VERIFIED_ON_LOAD", 0)
    folder = tmp_path / "index"
    small_index(folder)
    path = next(folder.glob("segment-*/deleted-*.bin"))
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x81]) + whole[place + 1 :])
        with pytest.raises(InputError, match=rf"{path.name}: damaged"):
            FaissIndex.load(folder, MINE)
    path.write_bytes(whole)
    FaissIndex.load(folder, MINE)


def test_a_reader_whose_segment_is_removed_meanwhile_opens_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removed file by file after the sizes were checked, the metadata first: the filter must work all the same."""
    folder, check = tmp_path / "index", IndexManifest.check_sizes
    build(folder)
    opened: list[str] = []

    def removed_after(self: IndexManifest, place: Path) -> None:
        check(self, place)
        if not opened:
            opened.append(self.segments[0].name)
            shutil.copytree(folder / opened[0], tmp_path / "left")
            build(folder)
            (tmp_path / "left").rename(folder / opened[0])
            (folder / opened[0] / "metadata.bin").unlink()

    monkeypatch.setattr(IndexManifest, "check_sizes", removed_after)
    monkeypatch.setattr(faiss_index, "VERIFIED_ON_LOAD", 0)
    reader = FaissIndex.load(folder, MINE)
    assert reader.manifest.segments[0].name != opened[0]
    assert len(reader.search(vectors(1), 3, filter=Filter.parse({"lang": "en"}))[0]) == 3


@pytest.mark.parametrize("kind", ["flat", "ivf-sq"])
def test_a_missing_or_cut_file_is_named_whatever_the_size(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss_index, "VERIFIED_ON_LOAD", 0)
    folder = tmp_path / "index"
    small_index(folder, kind)
    for path in files_of(folder):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        with pytest.raises(InputError, match=path.name):
            FaissIndex.load(folder, MINE)
        path.unlink()
        with pytest.raises(InputError, match=path.name):
            FaissIndex.load(folder, MINE)
        path.write_bytes(whole)
    FaissIndex.load(folder, MINE)


def test_what_is_no_index_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such index folder"):
        FaissIndex.load(tmp_path / "nothing", MINE)
    with pytest.raises(InputError, match="not an index folder"):
        FaissIndex.load(tmp_path, MINE)
    (tmp_path / PARTIAL).mkdir()
    with pytest.raises(InputError, match=r"an unfinished index: .* run its 'cosup index' command again"):
        FaissIndex.load(tmp_path, MINE)


@pytest.mark.parametrize("number", [1, 3])
def test_another_format_is_refused_with_the_command_that_rebuilds(tmp_path: Path, number: int) -> None:
    folder = tmp_path / "index"
    folder.mkdir()
    (folder / "index.json").write_text(json.dumps({"format": number, "type": "faiss-flat"}))
    wanted = (
        rf"index\.json: an index of format {number}; this cosup reads format 2: .*'cosup index .*--output {folder}'"
    )
    with pytest.raises(InputError, match=wanted):
        FaissIndex.load(folder, MINE)


def test_an_index_of_format_1_can_be_built_over(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    folder.mkdir()
    for name in ("vectors.faiss", "passages.jsonl", "index.json"):
        (folder / name).write_text('{"format": 1}')
    assert len(build(folder)) == N
    assert {p.name for p in folder.iterdir() if p.is_file()} == OWN


def test_a_folder_with_other_files_is_never_written_to(tmp_path: Path) -> None:
    (tmp_path / "passages.jsonl").write_text("years of work")
    with pytest.raises(UsageError, match=r"holds 'passages.jsonl', which is no part of an index"):
        build(tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        build(tmp_path / "passages.jsonl")
    assert [p.name for p in tmp_path.iterdir()] == ["passages.jsonl"]


def test_an_index_can_be_moved(tmp_path: Path) -> None:
    small_index(tmp_path / "index", "ivf-sq")
    (tmp_path / "index").rename(tmp_path / "moved")
    moved = FaissIndex.load(tmp_path / "moved", MINE)
    assert moved.passage("p9") == corpus()[9]
    moved.add(corpus(1, first=900), vectors(1))
    assert len(moved) == 263


def test_vectors_that_do_not_fit_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    def attempt(values: np.ndarray, similarity: str = "inner_product", count: int = 4, dtype: str = "float32") -> None:
        own = IndexSettings("flat", dtype)
        FaissIndex.build(tmp_path / "index", corpus(count), values, MINE, similarity, own)

    values = vectors(4)
    with pytest.raises(UsageError, match=r"float32 \[5, D\]"):
        attempt(values, count=5)
    with pytest.raises(UsageError, match="vectors are float64"):
        attempt(values.astype(np.float64))
    with pytest.raises(UsageError, match="unit length"):
        attempt(values, "cosine")
    with pytest.raises(UsageError, match="similarity is 'dot'"):
        attempt(values, "dot")
    with pytest.raises(CosupError, match="not finite"):
        attempt(np.full((4, D), np.inf, dtype=np.float32))
    with pytest.raises(InputError, match="no passages"):
        attempt(values[:0], count=0)
    assert not list(tmp_path.iterdir())
    with pytest.raises(CosupError, match="too large for float16; store the vectors as float32"):
        attempt(values * 1e6, dtype="float16")
    with pytest.raises(InputError, match="id 'p0' again"):
        FaissIndex.build(tmp_path / "index", [*corpus(3), corpus(1)[0]], values, MINE, "inner_product")
    assert not list((tmp_path / "index").glob("segment-*"))


def test_settings_that_do_not_exist_are_refused() -> None:
    with pytest.raises(UsageError, match=r"index type is 'ivfpq' \(did you mean 'ivf-pq'\?\)"):
        IndexSettings("ivfpq")
    with pytest.raises(UsageError, match="vector dtype is 'int8'"):
        IndexSettings("flat", "int8")


@pytest.mark.parametrize(("count", "kind"), [(40, "flat"), (20_001, "ivf-sq"), (30_000_000, "ivf-pq")])
def test_the_type_is_chosen_by_the_size_and_the_reason_said(count: int, kind: str) -> None:
    chosen, reason = IndexSettings().choose(count)
    assert chosen == kind
    assert f"{count:,} passages" in reason
    assert IndexSettings("hnsw").choose(count) == ("hnsw", "asked for")


@pytest.mark.parametrize("kind", ["ivf-sq", "ivf-pq", "hnsw"])
def test_recall_is_measured_and_said(tmp_path: Path, kind: str) -> None:
    index = build(tmp_path / "index", vectors(2000), kind=kind)
    structure = index.manifest.segments[0].structure
    assert structure is not None
    assert structure.recall >= 0.95
    rows = dict(describe(tmp_path / "index").rows)
    assert rows["type"] == f"{kind} (asked for)"
    assert rows["recall@10"].startswith(f"{structure.recall:.3f} against exact (256 queries")
    assert rows["segments"] == "1, 0 deleted passages in them"
    queries = vectors(200, seed=5)
    exact = FaissIndex.build(tmp_path / "exact", corpus(2000), vectors(2000), MINE, "inner_product")
    pairs = zip(index.search(queries, 10), exact.search(queries, 10), strict=True)
    assert np.mean([len(set(ids(a)) & set(ids(b))) / 10 for a, b in pairs]) >= 0.93


def test_the_least_effort_that_suffices_is_chosen(tmp_path: Path) -> None:
    """Vectors in far heaps are found in one list; without structure many lists are needed."""
    heaps = np.repeat(np.eye(D, dtype=np.float32) * 50, 300, axis=0) + vectors(300 * D)
    easy = build(tmp_path / "easy", heaps, kind="ivf-sq").manifest.segments[0].structure
    hard = build(tmp_path / "hard", vectors(300 * D), kind="ivf-sq").manifest.segments[0].structure
    assert easy is not None
    assert hard is not None
    assert 1 < hard.effort < 53  # lists
    assert hard.refine < 32


@pytest.mark.parametrize("kind", ["ivf-sq", "ivf-pq", "hnsw"])
def test_a_large_batch_gives_what_each_query_gives_alone(tmp_path: Path, kind: str) -> None:
    """Many more queries than FAISS takes one by one, in vectors long enough for rounding to differ."""
    random = np.random.default_rng(0)
    values, queries = (random.normal(size=(count, 48)).astype(np.float32) for count in (1500, 60))
    index = build(tmp_path / "index", values, kind=kind)
    for k in (1, 10, 100):
        assert index.search(queries, k) == [index.search(query[None], k)[0] for query in queries]


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


# -- from passages to an index -----------------------------------------------------------------------------------------


class UnitEmbedder:
    """Embeds on the unit circle; stops after some batches when told to."""

    fingerprint = MINE
    dimension = 2
    similarity = "cosine"

    def __init__(self, batches: int = 10**6) -> None:
        self.left = batches

    def encode_passages(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(text.encode()) for text in texts]

    def embed_ids(self, batch: list[list[int]]) -> torch.Tensor:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        angles = torch.tensor([float(sum(row)) for row in batch])
        return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_from_passages_to_an_index_in_one_call(tmp_path: Path) -> None:
    built = build_index(UnitEmbedder(), corpus(30), tmp_path / "index")
    query = UnitEmbedder().embed_ids([list(corpus()[12].rendered.encode())]).numpy()
    assert built.search(query, 1)[0][0].score == pytest.approx(1.0)
    found = IndexManifest.read(tmp_path / "index")
    assert (found.similarity, found.count, found.type, found.asked) == ("cosine", 30, "flat", "auto")
    assert {p.name for p in (tmp_path / "index").iterdir()} == OWN | {found.segments[0].name}


def test_a_second_build_is_told_who_is_at_it_and_a_change_is_not_kept_from_the_index(tmp_path: Path) -> None:
    """Nothing of it is embedded: both would write to one folder of unfinished work, which the first to end removes."""
    folder = tmp_path / "index"
    index = build_index(UnitEmbedder(), corpus(30), folder)
    who = rf"an index is being built at \S+index by process {os.getpid()} on \S+ since "
    with building(folder):
        with pytest.raises(UsageError, match=who):
            build_index(UnitEmbedder(batches=0), corpus(30), folder)
        add_passages(UnitEmbedder(), corpus(5, first=30), index, folder, replacing=False)
    assert len(FaissIndex.load(folder, MINE)) == 35


def test_what_no_build_came_to_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no passages"):
        build_index(UnitEmbedder(batches=0), [], tmp_path / "new" / "index")
    assert not (tmp_path / "new" / "index").exists()


def test_an_interrupted_embedding_leaves_the_old_index_and_a_second_run_ends_it(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    build_index(UnitEmbedder(), corpus(5), folder)
    with pytest.raises(KeyboardInterrupt):
        build_index(UnitEmbedder(batches=0), corpus(30), folder)
    assert len(FaissIndex.load(folder, MINE)) == 5
    assert len(build_index(UnitEmbedder(), corpus(30), folder)) == 30
    assert not (folder / PARTIAL).exists()


def test_a_folder_that_cannot_be_used_is_refused_before_the_embedding(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UsageError, match=r"notes\.txt"):
        build_index(UnitEmbedder(batches=0), corpus(3), tmp_path)


def test_passages_are_embedded_and_added_resumably(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    index = build_index(UnitEmbedder(), corpus(30), folder)
    with pytest.raises(KeyboardInterrupt):
        add_passages(UnitEmbedder(batches=0), corpus(5, first=30), index, folder, replacing=False)
    assert len(FaissIndex.load(folder, MINE)) == 30
    add_passages(UnitEmbedder(), corpus(5, first=30), index, folder, replacing=False)
    assert list(FaissIndex.load(folder, MINE)) == corpus(35)
    with pytest.raises(InputError, match="has a passage 'p3' already"):
        add_passages(UnitEmbedder(batches=0), corpus(1, first=3), index, folder, replacing=False)
    add_passages(UnitEmbedder(), [Passage("p3", "", "new")], index, folder, replacing=True)
    assert FaissIndex.load(folder, MINE).passage("p3").text == "new"
    other = UnitEmbedder()
    other.fingerprint = OTHER
    with pytest.raises(InputError, match="was made by embedder"):
        add_passages(other, corpus(1, first=50), index, folder, replacing=False)
    assert work_folders(folder) == []


def work_folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(f"{PARTIAL}*") if path.is_dir())


SMALL = EmbedOptions(tokens_per_batch=1, shard_size=4)


def test_an_addition_leaves_the_work_of_an_interrupted_build(tmp_path: Path) -> None:
    """Whatever model and options that had; going on with the build then embeds only what is missing."""
    folder = tmp_path / "index"
    index = build_index(UnitEmbedder(), corpus(5), folder)
    with pytest.raises(KeyboardInterrupt):
        build_index(UnitEmbedder(batches=8), corpus(30), folder, options=SMALL)
    before = files_of(folder / PARTIAL)
    assert len(before) == 2
    add_passages(UnitEmbedder(), corpus(5, first=100), index, folder, replacing=False)
    assert files_of(folder / PARTIAL) == before
    assert work_folders(folder) == [PARTIAL]
    rest = UnitEmbedder(batches=22)
    assert len(build_index(rest, corpus(30), folder, options=SMALL)) == 30
    assert rest.left == 0
    assert work_folders(folder) == []


def test_additions_that_run_at_one_time_do_not_touch_each_other(tmp_path: Path) -> None:
    """The one is begun and ended while the other embeds."""
    folder = tmp_path / "index"
    build_index(UnitEmbedder(), corpus(5), folder)

    class Interrupted(UnitEmbedder):
        def embed_ids(self, batch: list[list[int]]) -> torch.Tensor:
            if self.left == 10**6 - 6:
                other = FaissIndex.load(folder, MINE)
                add_passages(UnitEmbedder(), corpus(9, first=50), other, folder, replacing=False, options=SMALL)
                assert work_folders(folder) == [f"{PARTIAL}-add-0"]
            return super().embed_ids(batch)

    index = FaissIndex.load(folder, MINE)
    add_passages(Interrupted(), corpus(12, first=20), index, folder, replacing=False, options=SMALL)
    assert list(FaissIndex.load(folder, MINE)) == [*corpus(5), *corpus(9, first=50), *corpus(12, first=20)]
    assert work_folders(folder) == []


def test_a_stopped_addition_goes_on_and_its_leftovers_do_not_pile_up(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    index = build_index(UnitEmbedder(), corpus(5), folder)
    for first in (20, 40, 60):
        with pytest.raises(KeyboardInterrupt):
            add_passages(UnitEmbedder(batches=6), corpus(12, first=first), index, folder, False, options=SMALL)
        assert work_folders(folder) == [f"{PARTIAL}-add-0"]
    rest = UnitEmbedder(batches=8)
    (folder / f"{PARTIAL}-add-1").mkdir()  # of one that was killed while another ran
    (folder / f"{PARTIAL}-add-1.lock").touch()
    add_passages(rest, corpus(12, first=60), index, folder, replacing=False, options=SMALL)
    assert rest.left == 0
    assert list(FaissIndex.load(folder, MINE)) == [*corpus(5), *corpus(12, first=60)]
    assert work_folders(folder) == []
    check_folder(folder)  # it is an index folder still, and can be built over


def test_a_stored_corpus_is_added_without_being_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the passages that come, and of those in the small segments that are written again with them."""
    folder = tmp_path / "index"
    index = build_index(UnitEmbedder(), corpus(300), folder)
    write_jsonl(tmp_path / "more.jsonl", corpus(300, first=300))
    store = PassageStore.build(tmp_path / "more.jsonl", tmp_path / "store")
    read, alive, most = PassageStore.at, 0, 0

    class Counted(Passage):
        __slots__ = ()

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def counted(self: PassageStore, row: int) -> Passage:
        nonlocal alive, most
        alive += 1
        most = max(most, alive)
        found = read(self, row)
        return Counted(found.id, found.title, found.text, found.metadata)

    monkeypatch.setattr(PassageStore, "at", counted)
    add_passages(UnitEmbedder(), store, index, folder, replacing=False, options=SMALL)
    assert most <= 4 * SMALL.shard_size
    monkeypatch.undo()
    assert list(FaissIndex.load(folder, MINE)) == corpus(600)
    assert len(index.manifest.segments) == 1  # type: ignore[attr-defined]


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that cannot be read")
def test_a_file_whose_reading_fails_is_named(tmp_path: Path) -> None:
    """As on a broken disk: reading the beginning of this file is an input/output error."""
    (tmp_path / "broken").symlink_to("/proc/self/mem")
    with pytest.raises(InputError, match=r"broken: cannot be read: Input/output error"):
        file_checksum(tmp_path / "broken")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").symlink_to("/proc/self/mem")
    with pytest.raises(InputError, match=r"config\.json: cannot be read: Input/output error"):
        fingerprint_of(tmp_path / "model", PairSettings())
