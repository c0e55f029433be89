"""A stream's order is a function of seed and epoch; it goes on anywhere as if it had never stopped; nothing is lost."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cosup.data import stream_sources
from cosup.data.stream import StreamedExamples, StreamOrder
from cosup.data.writing import write_jsonl
from cosup.errors import InputError
from cosup.records import Example, TextSegment
from tests.data import streams
from tests.data.streams import COUNT, COUNTED, EXAMPLES, KNOWN, each_kind, small_shards

__all__ = ["small_shards"]
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


# The order


@each_kind
def test_every_record_comes_once_an_epoch_and_is_what_was_written(
    make: Callable[[Path], list[Path]], tmp_path: Path
) -> None:
    stream = streams.stream_of(make(tmp_path))
    for epoch in (0, 1):
        stream.set_epoch(epoch)
        found = list(stream)
        assert len(found) == COUNT
        assert {e.id: e for e in found} == {e.id: e for e in EXAMPLES}


@each_kind
def test_the_order_depends_on_seed_and_epoch_alone(make: Callable[[Path], list[Path]], tmp_path: Path) -> None:
    sources = make(tmp_path)
    stream = streams.stream_of(sources, seed=3)
    first, second = streams.epoch_of(stream, 0), streams.epoch_of(stream, 1)
    assert first != second
    assert [streams.epoch_of(stream, 1), streams.epoch_of(stream, 0)] == [second, first]
    again = streams.stream_of(sources, seed=3)
    assert [streams.epoch_of(again, 0), streams.epoch_of(again, 1)] == [first, second]
    assert streams.epoch_of(streams.stream_of(sources, seed=4), 0) not in (first, second)


def test_without_a_buffer_the_order_is_that_of_the_sources(tmp_path: Path) -> None:
    stream = streams.stream_of(streams.files(tmp_path), shuffle_buffer=1)
    assert streams.epoch_of(stream, 0) == streams.epoch_of(stream, 5) == [e.id for e in EXAMPLES]
    assert streams.epoch_of(stream, 5, 150) == [e.id for e in EXAMPLES[150:]]


def test_records_are_mixed_across_the_file(tmp_path: Path) -> None:
    """Shards of 16 in a random order, 32 shuffled together: the first 32 are of two stretches, in no order."""
    numbers = [int(i[1:]) for i in streams.epoch_of(streams.stream_of(streams.jsonl(tmp_path), seed=1), 0)]
    blocks = [numbers[i : i + 32] for i in range(0, COUNT, 32)]
    assert all(sorted(block) != block for block in blocks)
    assert all(len({n // 16 for n in block}) <= 4 for block in blocks)
    assert [min(block) for block in blocks] != sorted(min(block) for block in blocks)
    whole = [int(i[1:]) for i in streams.epoch_of(streams.stream_of(streams.jsonl(tmp_path), shuffle_buffer=1000), 0)]
    assert len({n // 16 for n in whole[:32]}) > 6, "a buffer larger than the data shuffles all of it"


# Going on in the middle


@each_kind
@pytest.mark.parametrize("buffer", [1, 10, 1000])
def test_a_stream_goes_on_as_if_it_had_not_stopped(
    make: Callable[[Path], list[Path]], buffer: int, tmp_path: Path
) -> None:
    sources = make(tmp_path)
    whole = [streams.epoch_of(streams.stream_of(sources, shuffle_buffer=buffer), epoch) for epoch in (0, 2)]
    stream = streams.stream_of(sources, shuffle_buffer=buffer)
    places = random.Random(buffer).sample(range(COUNT), 3)
    for place in (0, 1, buffer, COUNT - 1, COUNT, *places):
        for epoch, expected in zip((0, 2), whole, strict=True):
            assert streams.epoch_of(stream, epoch, place) == expected[place:], (epoch, place)


def test_only_the_epoch_that_was_current_is_skipped_into(tmp_path: Path) -> None:
    stream = streams.stream_of(streams.jsonl(tmp_path))
    first, second, third = (streams.epoch_of(stream, epoch) for epoch in range(3))
    stream.set_epoch(1)
    stream.skip(77)
    assert streams.ids_of(stream) == second[77:]
    assert streams.ids_of(stream) == second[77:], "and again as often as it is asked for"
    for epoch, expected in ((2, third), (0, first), (1, second[77:])):
        stream.set_epoch(epoch)
        assert streams.ids_of(stream) == expected
    stream.skip(0)
    assert streams.ids_of(stream) == second


@pytest.mark.parametrize("make", COUNTED, ids=lambda make: make.__name__)
def test_nothing_is_read_or_parsed_before_the_block_of_the_position(
    make: Callable[[Path], list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    stream = StreamedExamples(make(tmp_path), KNOWN, StreamOrder(shuffle_buffer=32), encode=lambda e: made.append(e.id))
    read: list[int] = []
    raw = stream_sources.Raw
    monkeypatch.setattr(stream_sources, "Raw", lambda *values: read.append(1) or raw(*values))
    stream.skip(170)
    assert len(list(stream)) == len(made) == COUNT - 170
    assert len(read) == COUNT - 160, "the block of record 170 begins at 160"


def test_a_stream_without_end_goes_on_too(tmp_path: Path) -> None:
    for make in (streams.jsonl, streams.hub):
        stream = streams.stream_of(make(tmp_path), repeat=True)
        once = replace(stream.order, repeat=False)
        sources = [tmp_path / "e.jsonl"] if make is streams.jsonl else [tmp_path / "hub"]
        plain = StreamedExamples(sources, KNOWN, once)
        expected = [i for epoch in range(3) for i in streams.epoch_of(plain, epoch)]
        for place in (0, 5, 150, COUNT, COUNT + 1, 2 * COUNT - 1, 2 * COUNT + 40):
            stream.skip(place)
            items = iter(stream)
            assert streams.ids_of(next(items) for _ in range(60)) == expected[place : place + 60]
        with pytest.raises(TypeError, match="bound the run by max_steps"):
            len(stream)


# What is counted


@each_kind
def test_records_are_counted_where_that_is_cheap(make: Callable[[Path], list[Path]], tmp_path: Path) -> None:
    stream = streams.stream_of(make(tmp_path), batch_size=4)
    if make in COUNTED:
        assert stream.count() == len(stream) == COUNT
        assert len(streams.loader(stream)) == 51
    else:
        assert stream.count() is None
        with pytest.raises(TypeError, match="not known"):
            len(stream)


def test_a_hub_dataset_that_says_its_size_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    data = datasets.IterableDataset.from_generator(lambda: (e.to_dict() for e in EXAMPLES), split=datasets.Split.TRAIN)
    data.info.splits = datasets.SplitDict.from_split_dict([{"name": "train", "num_examples": COUNT}])
    asked: list[Any] = []

    def load(name: str, streaming: bool) -> Any:
        asked.append((name, streaming))
        return datasets.IterableDatasetDict(train=data)

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.chdir(tmp_path)
    stream = streams.stream_of([Path("some/examples:train")])
    assert asked == [("some/examples", True)]
    assert stream.count() == len(list(stream)) == COUNT
    with pytest.raises(InputError, match=r"some/examples:tran: no split 'tran' \(did you mean 'train'\?\)"):
        streams.stream_of([Path("some/examples:tran")])


# Memory

# Not `getrusage`: its peak is also that of the process that started this one.
READ = r"""
import re, sys
from cosup.data.stream import StreamedExamples, StreamOrder

def read(path): return sum(1 for _ in StreamedExamples(path, {}, StreamOrder(shuffle_buffer=500)))

def peak(): return 1024 * int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])

read(sys.argv[1])
before = peak()
print(read(sys.argv[2]), peak() - before)
"""


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_reading_stays_far_below_the_size_of_the_file(kind: str, tmp_path: Path) -> None:
    """48 MB of examples, 500 of 12,000 held at a time, also where a Parquet file is one row group.

    A small file has loaded the libraries before.
    """
    text = "".join(random.Random(0).choices("abcdefgh ", k=4_000))
    examples = [Example(f"e{i}", "q", (TextSegment(f"{i} {text[i % 997 :]}{text[: i % 997]}"),)) for i in range(12_000)]
    small, large = tmp_path / f"small.{kind}", tmp_path / f"large.{kind}"
    for path, some in ((small, examples[:100]), (large, examples)):
        if kind == "jsonl":
            write_jsonl(path, some)
        else:
            import pyarrow.parquet as pq

            pq.write_table(streams.table(some), path, row_group_size=100_000, compression="none", use_dictionary=False)
    command = [sys.executable, "-c", READ, str(small), str(large)]
    # Arrow's own memory pool keeps 30 MB more, whatever the file; glibc, left to adapt, keeps more or less by chance.
    plain = os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_MMAP_THRESHOLD_": "131072"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=plain)
    count, grown = map(int, done.stdout.split())
    size = large.stat().st_size
    assert size > 48e6
    assert count == 12_000
    assert grown < 0.6 * size


def test_a_stream_encoded_by_somebody_stays_as_it_was(tmp_path: Path) -> None:
    """Two trainers of one stream: neither gets the other's encoder, or goes to the other's place."""
    stream = StreamedExamples(streams.jsonl(tmp_path), KNOWN, StreamOrder(shuffle_buffer=1))
    ids = stream.encoded_by(lambda example: example.id)
    lengths = stream.encoded_by(lambda example: len(example.prompt))
    ids.set_epoch(1)
    ids.skip(200)
    assert list(ids) == ["e200", "e201", "e202"]
    assert list(lengths) == [len(example.prompt) for example in EXAMPLES]
    assert list(stream) == EXAMPLES
    assert (ids.epoch, lengths.epoch, stream.epoch) == (1, 0, 0)
