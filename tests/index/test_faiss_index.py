"""An index folder: whole or not there, refused when damaged or not the model's, its type and recall told."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from cosup.errors import CosupError, InputError, UsageError
from cosup.index import faiss_index, manifest
from cosup.index.base import PARTIAL
from cosup.index.faiss_index import FaissIndex
from cosup.index.filters import Filter
from cosup.index.manifest import IndexManifest
from cosup.index.structures import IndexSettings
from cosup.info.describe import describe
from tests.index.folders import OWN, build, files_of, small_index
from tests.index.makers import MINE, D, N, corpus, ids, vectors


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
