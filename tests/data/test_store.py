"""A store gives what the reader gives, refuses what it refuses, and leaves the texts on disk."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosup.data import store as store_module
from cosup.data import store_build
from cosup.data.reading import read_all, read_passages
from cosup.data.store import MANIFEST, PassageStore
from cosup.data.writing import write_jsonl
from cosup.errors import CosupError, InputError, UsageError
from cosup.records import Passage

PASSAGES = [Passage(f"p{i}", f"Title {i}" if i % 3 else "", f"Text {i}, ünï é 漢 \u2028.") for i in range(300)]


def _jsonl(folder: Path) -> Path:
    write_jsonl(folder / "corpus-of-mine.jsonl", PASSAGES)
    return folder / "corpus-of-mine.jsonl"


def _spaced(folder: Path) -> Path:
    lines = [json.dumps(p.to_dict()) + "\r\n" * (1 + i % 3) for i, p in enumerate(PASSAGES)]
    (folder / "spaced.jsonl").write_bytes(b"\xef\xbb\xbf" + "".join(lines).encode())
    return folder / "spaced.jsonl"


def _beir(folder: Path) -> Path:
    records = [{"_id": p.id, "title": p.title, "text": p.text, "metadata": {}} for p in PASSAGES]
    write_jsonl(folder / "beir" / "corpus.jsonl", [*records, {"_id": "2", "title": "Only", "text": ""}])
    return folder / "beir"


def _parquet(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([p.to_dict() for p in PASSAGES]), folder / "p.parquet", row_group_size=70)
    return folder / "p.parquet"


def _saved(folder: Path) -> Path:
    import datasets

    datasets.Dataset.from_list([p.to_dict() for p in PASSAGES]).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def _markdown(folder: Path) -> Path:
    (folder / "docs" / "deep").mkdir(parents=True)
    (folder / "docs" / "a.md").write_text("# One\n\nText of one.\n\n## Two\n\nText of two.\n")
    (folder / "docs" / "deep" / "b.txt").write_text("Plain text.\n")
    return folder / "docs"


@pytest.mark.parametrize("make", [_jsonl, _spaced, _beir, _parquet, _saved, _markdown])
def test_a_store_gives_what_the_reader_gives(make: Callable[[Path], Path], tmp_path: Path) -> None:
    source = make(tmp_path)
    expected = read_passages(source)
    store = PassageStore.build(source, tmp_path / "store")
    assert len(store) == len(expected)
    assert list(store) == [p.id for p in expected]
    assert list(store.in_order()) == [store.at(row) for row in range(len(store))] == expected
    assert [store[p.id] for p in reversed(expected)] == expected[::-1]
    assert [store.row(p.id) for p in expected] == list(range(len(expected)))
    assert all(p.id in store for p in expected)
    assert dict(store) == {p.id: p for p in expected}


def test_what_is_not_there_is_not_there(tmp_path: Path) -> None:
    store = PassageStore.build(_jsonl(tmp_path), tmp_path / "store")
    for missing in ("", "p", "p300", "P0", "\ud800"):
        assert missing not in store
        assert store.get(missing) is None
        for look in (store.__getitem__, store.row):
            with pytest.raises(KeyError):
                look(missing)
    assert 7 not in store
    for row in (-1, 300):
        with pytest.raises(IndexError):
            store.at(row)


def test_several_sources_are_one_store_in_their_order(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "more.jsonl", [Passage("z", "", "Last."), Passage("y", "", "Very last.")])
    sources = [_markdown(tmp_path), _spaced(tmp_path), tmp_path / "more.jsonl"]
    store = PassageStore.build(sources, tmp_path / "store")
    expected = read_all(read_passages, sources)
    assert list(store.in_order()) == expected
    assert store["y"] == expected[-1]
    assert (tmp_path / "store" / "part-0.jsonl").is_file(), "what is no JSONL is kept in the store"
    assert not (tmp_path / "store" / "part-1.jsonl").exists(), "a JSONL file is read where it lies"


FILLED = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@given(st.lists(st.builds(Passage, FILLED, st.just(""), FILLED), min_size=1, unique_by=lambda p: p.id))
@settings(max_examples=25, deadline=None)
def test_any_ids_and_texts(tmp_path_factory: pytest.TempPathFactory, passages: list[Passage]) -> None:
    folder = tmp_path_factory.mktemp("any")
    write_jsonl(folder / "p.jsonl", passages)
    store = PassageStore.build(folder / "p.jsonl", folder / "store")
    assert list(store.in_order()) == passages
    assert all(store[p.id] == p for p in passages)


def test_ids_with_one_hash_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With hashes of 0 to 4 every id collides with others."""
    for module in (store_module, store_build):
        monkeypatch.setattr(module, "hash_of", lambda passage_id: len(passage_id) + int(passage_id[-1]) % 3)
    write_jsonl(tmp_path / "some.jsonl", PASSAGES[:40])
    store = PassageStore.build(tmp_path / "some.jsonl", tmp_path / "store")
    assert dict(store) == {p.id: p for p in PASSAGES[:40]}
    assert "p9999" not in store
    write_jsonl(tmp_path / "twice.jsonl", [*PASSAGES[:7], PASSAGES[3]])
    with pytest.raises(InputError, match=r"twice.jsonl:8: id 'p3' again, after line 4; expected distinct ids"):
        PassageStore.build(tmp_path / "twice.jsonl", tmp_path / "other")


# What is refused


@pytest.mark.parametrize(
    "lines",
    [
        ['{"id": "p", "text": "x"}', "", '{"id": "q", "text": 3}'],
        ['{"id": "p", "text": "x"}', "", "{'id': 1}"],
        ['{"id": "p", "text": "x"}', "", '{"id": "q", "texts": "x"}'],
        ['{"id": "p", "text": "x"}', "", '{"id": "p", "text": "y"}'],
        ['{"id": "p", "text": "x"}', "", '{"id": "q", "text": "\\ud800"}'],
        ["", ""],
    ],
)
def test_what_the_reader_refuses_is_refused_in_the_same_words(lines: list[str], tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(InputError) as by_reader:
        read_passages(path)
    with pytest.raises(InputError) as by_store:
        PassageStore.build(path, tmp_path / "store")
    assert str(by_store.value) == str(by_reader.value)
    assert (by_store.value.path, by_store.value.line) == (by_reader.value.path, by_reader.value.line)
    assert by_store.value.exit_code == 2
    assert not (tmp_path / "store").exists()
    assert {p.name for p in tmp_path.iterdir()} <= {"bad.jsonl", ".store.lock"}


def test_a_missing_source_is_refused_as_by_the_reader(tmp_path: Path) -> None:
    for source in (tmp_path / "none.jsonl", tmp_path / "none.parquet", tmp_path):
        with pytest.raises(InputError) as by_reader:
            read_passages(source)
        with pytest.raises(InputError) as by_store:
            PassageStore.build(source, tmp_path / "deep" / "store")
        assert str(by_store.value) == str(by_reader.value)
        (tmp_path / "deep" / ".store.lock").unlink()
    with pytest.raises(UsageError, match="no passages; name their file or folder"):
        PassageStore.build([], tmp_path / "store")


def test_a_wrong_row_of_a_table_is_named(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "p.parquet"
    for column, found in (
        (["x", " "], "row 2: field 'text' is str ' '; expected text that is not empty"),
        (["x", "y"], "row 2: id '7' again, after row 1; expected distinct ids"),
    ):
        pq.write_table(pa.table({"id": [7, 7], "text": column}), path)
        with pytest.raises(InputError) as caught:
            PassageStore.build(path, tmp_path / "store")
        assert str(caught.value) == f"{path}: {found}"
    pq.write_table(pa.table({"id": pa.array([], pa.string()), "text": pa.array([], pa.string())}), path)
    with pytest.raises(InputError, match="found no records; expected at least one row"):
        PassageStore.build(path, tmp_path / "store")


def test_an_id_in_two_sources_names_both(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        write_jsonl(tmp_path / name, [Passage(name, "", "x"), Passage("p", "", "y")])
    with pytest.raises(InputError) as caught:
        PassageStore.build([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "store")
    found = f"id 'p' stands in {tmp_path / 'a.jsonl'} too; expected distinct ids"
    assert str(caught.value) == f"{tmp_path / 'b.jsonl'}:2: {found}"


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear")
    with pytest.raises(UsageError, match="something else is there"):
        PassageStore.build(_jsonl(tmp_path), tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "dear"
    (tmp_path / "empty").mkdir()
    assert len(PassageStore.build(_jsonl(tmp_path), tmp_path / "empty")) == 300


# Building again, or not


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The folders that stores were built in."""
    made: list[str] = []
    build = store_module.build_store

    def counted(sources: Any, identities: Any, folder: Path) -> None:
        made.append(folder.name)
        build(sources, identities, folder)

    monkeypatch.setattr(store_module, "build_store", counted)
    return iter([made])  # type: ignore[return-value]


def test_a_store_is_built_once_and_again_only_when_its_source_changes(
    tmp_path: Path, builds: Iterator[list[str]]
) -> None:
    made, source = next(builds), _jsonl(tmp_path)
    first = PassageStore.build(source, tmp_path / "store")
    assert PassageStore.build(source, tmp_path / "store")["p7"] == first["p7"] == PASSAGES[7]
    assert made == ["store"]
    os.utime(source, ns=(1, 1))
    with pytest.raises(InputError, match="changed since its passages were indexed"):
        PassageStore(tmp_path / "store")
    assert len(PassageStore.build(source, tmp_path / "store")) == 300
    write_jsonl(source, PASSAGES[:5])
    assert len(PassageStore.build(source, tmp_path / "store")) == 5
    assert len(PassageStore.build([source, _markdown(tmp_path)], tmp_path / "store")) == 8
    (tmp_path / "docs" / "a.md").write_text("# One\n\nOther text of one.\n")
    assert len(PassageStore.build([source, tmp_path / "docs"], tmp_path / "store")) == 7
    assert len(made) == 5


@pytest.mark.parametrize("name", ["store.json", "hashes.bin", "rows.bin", "offsets.bin", "part-0.jsonl"])
def test_a_damaged_store_is_built_again(name: str, tmp_path: Path, builds: Iterator[list[str]]) -> None:
    made, source = next(builds), _parquet(tmp_path)
    PassageStore.build(source, tmp_path / "store")
    file = tmp_path / "store" / name
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(InputError, match="no whole passage store"):
        PassageStore(tmp_path / "store")
    assert dict(PassageStore.build(source, tmp_path / "store")) == {p.id: p for p in PASSAGES}
    assert len(made) == 2


def test_an_interrupted_building_leaves_the_old_store_and_is_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _jsonl(tmp_path)
    PassageStore.build(source, tmp_path / "store")
    os.utime(source, ns=(1, 1))

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_build, "_sort_hashes", full_disk)
    with pytest.raises(CosupError, match="No space left on device"):
        PassageStore.build(source, tmp_path / "store")
    assert (tmp_path / "store" / MANIFEST).is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".store.lock", source.name, "store"]
    (tmp_path / ".store.draft").mkdir()
    (tmp_path / ".store.draft" / "half").write_text("of a killed process")
    monkeypatch.undo()
    assert len(PassageStore.build(source, tmp_path / "store")) == 300
    assert not (tmp_path / ".store.draft").exists()


def test_a_hub_dataset_is_known_by_its_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, builds: Iterator[list[str]]
) -> None:
    import datasets

    class Builder:
        hash = "aa"

    data = datasets.Dataset.from_list([p.to_dict() for p in PASSAGES[:4]])
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda name: Builder)
    monkeypatch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict(train=data))
    monkeypatch.chdir(tmp_path)
    made = next(builds)
    for revision, expected in (("aa", 1), ("aa", 1), ("bb", 2)):
        Builder.hash = revision
        assert list(PassageStore.build("some/corpus", tmp_path / "store")) == ["p0", "p1", "p2", "p3"]
        assert len(made) == expected
    with pytest.raises(InputError, match="no split 'test'"):
        PassageStore.build("some/corpus:test", tmp_path / "other")


# Processes


def _texts(store: PassageStore, queue: Any) -> None:
    queue.put([store[f"p{i}"].text for i in range(0, 300, 50)])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_the_same_store(method: str, tmp_path: Path) -> None:
    store = PassageStore.build(_jsonl(tmp_path), tmp_path / "store")
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    workers = [context.Process(target=_texts, args=(store, queue)) for _ in range(2)]  # type: ignore[attr-defined]
    for worker in workers:
        worker.start()
    found = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert found == [[PASSAGES[i].text for i in range(0, 300, 50)]] * 2


def test_a_pickle_holds_no_passage(tmp_path: Path) -> None:
    data = pickle.dumps(PassageStore.build(_jsonl(tmp_path), tmp_path / "store"))
    assert len(data) < 500 + len(str(tmp_path))
    assert pickle.loads(data)["p299"] == PASSAGES[299]  # noqa: S301


def test_descriptors_are_given_back(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(20):
        PassageStore.build(_jsonl(tmp_path), tmp_path / "store")
    assert len(os.listdir("/proc/self/fd")) <= before + 2  # noqa: PTH208


# Not `getrusage`: its peak is also that of the process that started this one.
BUILD = r"""
import re, sys
from cosup.data.store import PassageStore
def peak(): return 1024 * int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])
before = peak()
store = PassageStore.build(sys.argv[1], sys.argv[2])
found = sum(len(store[f"p{i * 7919 % len(store)}"].text) for i in range(len(store)))
print(len(store), found, peak() - before)
"""


def test_building_and_reading_stay_far_below_the_size_of_the_file(tmp_path: Path) -> None:
    """32 MB of passages, each read once in a random order; the arrays are 24 bytes for each of 8,000."""
    path, text = tmp_path / "p.jsonl", "Some words of a passage. " * 160
    write_jsonl(path, (Passage(f"p{i}", "", text) for i in range(8_000)))
    size = path.stat().st_size
    command = [sys.executable, "-c", BUILD, str(path), str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    count, found, grown = map(int, done.stdout.split())
    assert size > 32e6
    assert (count, found) == (8_000, 8_000 * len(text))
    assert grown < size / 4


# -- written rather than built ----------------------------------------------------------------------------------------


def test_a_written_store_stands_by_itself_and_can_be_moved(tmp_path: Path) -> None:
    written = PassageStore.write(iter(PASSAGES), tmp_path / "store")
    (tmp_path / "store").rename(tmp_path / "moved")
    for store in (written, PassageStore(tmp_path / "moved")):
        assert list(store.in_order()) == PASSAGES
        assert store["p17"] == PASSAGES[17]
        assert "p999" not in store


def test_a_store_of_no_passages_or_of_equal_ids_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found no records; expected at least one passage"):
        PassageStore.write([], tmp_path / "store")
    with pytest.raises(InputError, match="the corpus: passage 4: id 'p1' again, after passage 2"):
        PassageStore.write([*PASSAGES[:3], PASSAGES[1]], tmp_path / "store")
    with pytest.raises(InputError, match="no whole passage store"):
        PassageStore(tmp_path / "store")
