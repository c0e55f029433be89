"""Loaders of a stream: workers, ranks and accelerate's skipping change nothing and read nothing twice."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from accelerate import skip_first_batches
from accelerate.data_loader import DataLoaderShard, IterableDatasetShard, prepare_data_loader

from cosup.data.stream import StreamedExamples, StreamOrder
from cosup.data.writing import write_jsonl
from cosup.records import Example
from tests.data import streams
from tests.data.streams import COUNT, EXAMPLES, KNOWN, small_shards

__all__ = ["small_shards"]
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


@pytest.mark.parametrize("make", [streams.files, streams.parquet, streams.hub], ids=lambda make: make.__name__)
def test_workers_change_nothing(make: Callable[[Path], list[Path]], tmp_path: Path) -> None:
    stream = streams.stream_of(make(tmp_path), batch_size=4)
    stream.set_epoch(1)
    alone = list(streams.loader(stream))
    assert sorted(i for batch in alone for i in batch) == sorted(e.id for e in EXAMPLES)
    for workers in (1, 3):
        assert list(streams.loader(stream, workers)) == alone
    for keep_places in (False, True):
        stream.skip(40, keep_places)
        assert [b for b in streams.loader(stream, 2) if b] == alone[10:]


def test_workers_that_stay_follow_the_epoch(tmp_path: Path) -> None:
    stream = streams.stream_of(streams.jsonl(tmp_path), batch_size=4)
    expected = [streams.epoch_of(stream, epoch) for epoch in (0, 1)]
    loader = streams.loader(stream, 2, persistent_workers=True)
    for epoch in (0, 1, 0):
        stream.set_epoch(epoch)
        assert [i for batch in loader for i in batch] == expected[epoch]
    stream.skip(16)
    assert [i for batch in loader for i in batch] == expected[0][16:]
    del loader


def test_a_pickled_stream_is_the_same_stream(tmp_path: Path) -> None:
    for make in (streams.jsonl, streams.hub):
        stream = streams.stream_of(make(tmp_path), seed=9)
        stream.set_epoch(3)
        stream.skip(50)
        assert streams.ids_of(pickle.loads(pickle.dumps(stream))) == streams.ids_of(stream)  # noqa: S301


def _ranks(
    sources: Sequence[Path], ranks: int, skip: int = 0, workers: int = 0, size: int = 4
) -> list[list[list[str]]]:
    """The batches of each rank, as accelerate cuts them."""
    found = []
    for rank in range(ranks):
        stream = streams.stream_of(sources, batch_size=size, rank=rank, ranks=ranks)
        stream.set_epoch(1)
        stream.skip(skip)
        loader = prepare_data_loader(
            streams.loader(stream, workers, size), num_processes=ranks, process_index=rank, put_on_device=False
        )
        loader.set_epoch(1)
        assert isinstance(loader.dataset, IterableDatasetShard)
        batches = list(loader)
        assert len(batches) == len(loader) - skip // (size * ranks)
        found.append(batches)
    return found


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_share_the_order_of_one(ranks: int, workers: int, tmp_path: Path) -> None:
    """Rank r's batch b is slice r of the order's stretch b; the last is filled up with the epoch's first records."""
    sources = streams.files(tmp_path)
    order = streams.epoch_of(streams.stream_of(sources), 1)
    together = 4 * ranks
    order += order[: -len(order) % together]
    expected = [
        [order[start + 4 * rank : start + 4 * rank + 4] for start in range(0, len(order), together)]
        for rank in range(ranks)
    ]
    assert _ranks(sources, ranks, workers=workers) == expected
    assert _ranks(sources, ranks, skip=5 * together, workers=workers) == [batches[5:] for batches in expected]


def test_another_ranks_records_are_not_parsed(tmp_path: Path) -> None:
    sources = streams.jsonl(tmp_path)
    items = [list(streams.stream_of(sources, batch_size=4, rank=rank, ranks=2)) for rank in (0, 1)]
    assert all((a is None) != (b is None) for a, b in zip(*items, strict=True))
    assert len(items[0]) == len(streams.stream_of(sources, batch_size=4, ranks=2)) == 208


def test_a_batch_of_all_ranks_may_be_larger_than_the_data(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "few.jsonl", EXAMPLES[:3])
    found = _ranks([tmp_path / "few.jsonl"], ranks=2)
    order = streams.epoch_of(streams.stream_of([tmp_path / "few.jsonl"]), 1)
    assert [i for rank in found for i in rank[0]] == (order * 3)[:8]


def test_accelerate_skips_batches_without_reading_them(tmp_path: Path) -> None:
    """`skip_first_batches` counts off the places that `skip` keeps, and what follows is the uninterrupted rest."""
    made: list[str] = []

    def encode(example: Example) -> Example:
        made.append(example.id)
        return example

    stream = StreamedExamples(
        streams.jsonl(tmp_path), KNOWN, StreamOrder(shuffle_buffer=32, batch_size=4), encode=encode
    )
    stream.set_epoch(1)
    loader = prepare_data_loader(streams.loader(stream), put_on_device=False)
    assert isinstance(loader, DataLoaderShard)
    loader.set_epoch(1)
    whole = list(loader)
    made.clear()
    stream.set_epoch(1)
    stream.skip(30 * 4, keep_places=True)
    rest = skip_first_batches(loader, 30)
    rest.set_epoch(1)
    assert list(rest) == whole[30:]
    assert len(made) == COUNT - 120
    rest.set_epoch(2)
    stream.skip(0)
    assert sorted(i for batch in loader for i in batch) == sorted(e.id for e in EXAMPLES)
