"""Files of examples in every form that a stream reads, and streams and loaders over them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from cosup.data import stream as stream_module
from cosup.data import stream_sources
from cosup.data.stream import StreamedExamples, StreamOrder
from cosup.data.writing import write_jsonl
from cosup.records import Example, Passage, RetrievalSegment, TextSegment

KNOWN = {f"p{i}": Passage(f"p{i}", f"T{i}", f"First sentence {i}. The answer is {i}.") for i in range(20)}
COUNT = 203


def example_of(number: int) -> Example:
    """Example `number`; every seventh retrieves nothing, every third has negatives or an instruction."""
    retrieval = (RetrievalSegment(f"p{number % 20}", f"claim {number}"),) if number % 7 else ()
    negatives = (f"p{(number + 1) % 20}",) if number % 3 == 1 else ()
    instruction = "Answer." if number % 3 == 2 else None
    return Example(f"e{number}", f"question {number}?", (*retrieval, TextSegment(f"{number}")), negatives, instruction)


EXAMPLES = [example_of(i) for i in range(COUNT)]
PARTS = (EXAMPLES[:100], EXAMPLES[100:110], EXAMPLES[110:])


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of this size have several shards and batches."""
    monkeypatch.setattr(stream_sources, "LINES_A_SHARD", 16)
    for module in (stream_module, stream_sources):
        monkeypatch.setattr(module, "ROWS_AT_ONCE", 8)


def jsonl(folder: Path) -> list[Path]:
    lines = [json.dumps(e.to_dict()) + "\r\n" * (1 + i % 3) for i, e in enumerate(EXAMPLES)]
    (folder / "e.jsonl").write_bytes(b"\xef\xbb\xbf" + "".join(lines).encode())
    return [folder / "e.jsonl"]


def files(folder: Path) -> list[Path]:
    for number, part in enumerate(PARTS):
        write_jsonl(folder / f"e{number}.jsonl", part)
    return sorted(folder.glob("e*.jsonl"))


def table(examples: Sequence[Example]) -> Any:
    import pyarrow as pa

    return pa.Table.from_pylist([{"negatives": None, "instruction": None, **e.to_dict()} for e in examples])


def parquet(folder: Path) -> list[Path]:
    import pyarrow.parquet as pq

    pq.write_table(table(EXAMPLES), folder / "e.parquet", row_group_size=30)
    return [folder / "e.parquet"]


def saved(folder: Path) -> list[Path]:
    import datasets

    datasets.Dataset(table(EXAMPLES)).save_to_disk(str(folder / "saved"))
    return [folder / "saved"]


def hub(folder: Path) -> list[Path]:
    """A folder of data files, which `load_dataset` streams as it streams a hub dataset."""
    import pyarrow.parquet as pq

    (folder / "hub").mkdir()
    for number, part in enumerate(PARTS):
        pq.write_table(table(part), folder / "hub" / f"train-{number}.parquet", row_group_size=30)
    return [folder / "hub"]


def hub_jsonl(folder: Path) -> list[Path]:
    (folder / "hub").mkdir()
    for number, part in enumerate(PARTS):
        write_jsonl(folder / "hub" / f"train-{number}.jsonl", part)
    write_jsonl(folder / "hub" / "test.jsonl", PARTS[1])
    return [Path(f"{folder / 'hub'}:train")]


def mixed(folder: Path) -> list[Path]:
    import pyarrow.parquet as pq

    write_jsonl(folder / "e0.jsonl", PARTS[0])
    pq.write_table(table(PARTS[1]), folder / "e1.parquet")
    (folder / "hub").mkdir()
    write_jsonl(folder / "hub" / "train.jsonl", PARTS[2])
    return [folder / "e0.jsonl", folder / "e1.parquet", folder / "hub"]


KINDS = [jsonl, files, parquet, saved, hub, hub_jsonl, mixed]
each_kind = pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
COUNTED = [jsonl, files, parquet, saved]


def stream_of(sources: Sequence[Path], **order: Any) -> StreamedExamples:
    return StreamedExamples(sources, KNOWN, StreamOrder(**{"shuffle_buffer": 32, **order}))


def ids_of(items: Any) -> list[str]:
    return [item.id for item in items]


def epoch_of(stream: StreamedExamples, epoch: int, skip: int = 0) -> list[str]:
    stream.set_epoch(epoch)
    stream.skip(skip)
    return ids_of(stream)


def loader(stream: StreamedExamples, workers: int = 0, size: int = 4, **more: Any) -> DataLoader[Any]:
    more |= {"multiprocessing_context": "fork"} if workers else {}
    return DataLoader(stream, batch_size=size, num_workers=workers, collate_fn=ids_of_items, **more)


def ids_of_items(items: list[Any]) -> list[str]:
    return [item.id for item in items if item is not None]
