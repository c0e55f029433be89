"""From passages to an index folder: one builder at a time, resumed after an interruption, additions side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from cosup.data.store import PassageStore
from cosup.data.writing import write_jsonl
from cosup.errors import InputError, UsageError
from cosup.index.base import PARTIAL, file_checksum
from cosup.index.build import add_passages, build_index, building
from cosup.index.embed import EmbedOptions
from cosup.index.faiss_index import FaissIndex, check_folder
from cosup.index.manifest import IndexManifest
from cosup.model_folder import PairSettings, fingerprint_of
from cosup.records import Passage
from tests.index.folders import OWN, files_of
from tests.index.makers import MINE, OTHER, corpus


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
