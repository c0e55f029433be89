"""A stream's order is a function of seed and epoch; it goes on anywhere as if it had never stopped; nothing is lost."""

from __future__ import annotations

import json
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from accelerate import skip_first_batches
from accelerate.data_loader import DataLoaderShard, IterableDatasetShard, prepare_data_loader
from torch.utils.data import DataLoader

from cosup.data import stream as stream_module
from cosup.data import stream_sources
from cosup.data.reading import read_examples
from cosup.data.store import PassageStore
from cosup.data.stream import StreamedExamples, StreamOrder, told_plainly
from cosup.data.templates import question_to_example
from cosup.data.writing import write_jsonl
from cosup.errors import InputError, UsageError
from cosup.records import Evidence, Example, Passage, Question, RetrievalSegment, TextSegment

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

KNOWN = {f"p{i}": Passage(f"p{i}", f"T{i}", f"First sentence {i}. The answer is {i}.") for i in range(20)}
COUNT = 203


def _example(number: int) -> Example:
    """Example `number`; every seventh retrieves nothing, every third has negatives or an instruction."""
    retrieval = (RetrievalSegment(f"p{number % 20}", f"claim {number}"),) if number % 7 else ()
    negatives = (f"p{(number + 1) % 20}",) if number % 3 == 1 else ()
    instruction = "Answer." if number % 3 == 2 else None
    return Example(f"e{number}", f"question {number}?", (*retrieval, TextSegment(f"{number}")), negatives, instruction)


EXAMPLES = [_example(i) for i in range(COUNT)]
PARTS = (EXAMPLES[:100], EXAMPLES[100:110], EXAMPLES[110:])


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of this size have several shards and batches."""
    monkeypatch.setattr(stream_sources, "LINES_A_SHARD", 16)
    for module in (stream_module, stream_sources):
        monkeypatch.setattr(module, "ROWS_AT_ONCE", 8)


def _jsonl(folder: Path) -> list[Path]:
    lines = [json.dumps(e.to_dict()) + "\r\n" * (1 + i % 3) for i, e in enumerate(EXAMPLES)]
    (folder / "e.jsonl").write_bytes(b"\xef\xbb\xbf" + "".join(lines).encode())
    return [folder / "e.jsonl"]


def _files(folder: Path) -> list[Path]:
    for number, part in enumerate(PARTS):
        write_jsonl(folder / f"e{number}.jsonl", part)
    return sorted(folder.glob("e*.jsonl"))


def _table(examples: Sequence[Example]) -> Any:
    import pyarrow as pa

    return pa.Table.from_pylist([{"negatives": None, "instruction": None, **e.to_dict()} for e in examples])


def _parquet(folder: Path) -> list[Path]:
    import pyarrow.parquet as pq

    pq.write_table(_table(EXAMPLES), folder / "e.parquet", row_group_size=30)
    return [folder / "e.parquet"]


def _saved(folder: Path) -> list[Path]:
    import datasets

    datasets.Dataset(_table(EXAMPLES)).save_to_disk(str(folder / "saved"))
    return [folder / "saved"]


def _hub(folder: Path) -> list[Path]:
    """A folder of data files, which `load_dataset` streams as it streams a hub dataset."""
    import pyarrow.parquet as pq

    (folder / "hub").mkdir()
    for number, part in enumerate(PARTS):
        pq.write_table(_table(part), folder / "hub" / f"train-{number}.parquet", row_group_size=30)
    return [folder / "hub"]


def _hub_jsonl(folder: Path) -> list[Path]:
    (folder / "hub").mkdir()
    for number, part in enumerate(PARTS):
        write_jsonl(folder / "hub" / f"train-{number}.jsonl", part)
    write_jsonl(folder / "hub" / "test.jsonl", PARTS[1])
    return [Path(f"{folder / 'hub'}:train")]


def _mixed(folder: Path) -> list[Path]:
    import pyarrow.parquet as pq

    write_jsonl(folder / "e0.jsonl", PARTS[0])
    pq.write_table(_table(PARTS[1]), folder / "e1.parquet")
    (folder / "hub").mkdir()
    write_jsonl(folder / "hub" / "train.jsonl", PARTS[2])
    return [folder / "e0.jsonl", folder / "e1.parquet", folder / "hub"]


KINDS = [_jsonl, _files, _parquet, _saved, _hub, _hub_jsonl, _mixed]
each_kind = pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__[1:])
COUNTED = [_jsonl, _files, _parquet, _saved]


def _stream(sources: Sequence[Path], **order: Any) -> StreamedExamples:
    return StreamedExamples(sources, KNOWN, StreamOrder(**{"shuffle_buffer": 32, **order}))


def _ids(items: Any) -> list[str]:
    return [item.id for item in items]


def _epoch(stream: StreamedExamples, epoch: int, skip: int = 0) -> list[str]:
    stream.set_epoch(epoch)
    stream.skip(skip)
    return _ids(stream)


# The order


@each_kind
def test_every_record_comes_once_an_epoch_and_is_what_was_written(
    make: Callable[[Path], list[Path]], tmp_path: Path
) -> None:
    stream = _stream(make(tmp_path))
    for epoch in (0, 1):
        stream.set_epoch(epoch)
        found = list(stream)
        assert len(found) == COUNT
        assert {e.id: e for e in found} == {e.id: e for e in EXAMPLES}


@each_kind
def test_the_order_depends_on_seed_and_epoch_alone(make: Callable[[Path], list[Path]], tmp_path: Path) -> None:
    sources = make(tmp_path)
    stream = _stream(sources, seed=3)
    first, second = _epoch(stream, 0), _epoch(stream, 1)
    assert first != second
    assert [_epoch(stream, 1), _epoch(stream, 0)] == [second, first]
    again = _stream(sources, seed=3)
    assert [_epoch(again, 0), _epoch(again, 1)] == [first, second]
    assert _epoch(_stream(sources, seed=4), 0) not in (first, second)


def test_without_a_buffer_the_order_is_that_of_the_sources(tmp_path: Path) -> None:
    stream = _stream(_files(tmp_path), shuffle_buffer=1)
    assert _epoch(stream, 0) == _epoch(stream, 5) == [e.id for e in EXAMPLES]
    assert _epoch(stream, 5, 150) == [e.id for e in EXAMPLES[150:]]


def test_records_are_mixed_across_the_file(tmp_path: Path) -> None:
    """Shards of 16 in a random order, 32 shuffled together: the first 32 are of two stretches, in no order."""
    numbers = [int(i[1:]) for i in _epoch(_stream(_jsonl(tmp_path), seed=1), 0)]
    blocks = [numbers[i : i + 32] for i in range(0, COUNT, 32)]
    assert all(sorted(block) != block for block in blocks)
    assert all(len({n // 16 for n in block}) <= 4 for block in blocks)
    assert [min(block) for block in blocks] != sorted(min(block) for block in blocks)
    whole = [int(i[1:]) for i in _epoch(_stream(_jsonl(tmp_path), shuffle_buffer=1000), 0)]
    assert len({n // 16 for n in whole[:32]}) > 6, "a buffer larger than the data shuffles all of it"


# Going on in the middle


@each_kind
@pytest.mark.parametrize("buffer", [1, 10, 1000])
def test_a_stream_goes_on_as_if_it_had_not_stopped(
    make: Callable[[Path], list[Path]], buffer: int, tmp_path: Path
) -> None:
    sources = make(tmp_path)
    whole = [_epoch(_stream(sources, shuffle_buffer=buffer), epoch) for epoch in (0, 2)]
    stream = _stream(sources, shuffle_buffer=buffer)
    places = random.Random(buffer).sample(range(COUNT), 3)
    for place in (0, 1, buffer, COUNT - 1, COUNT, *places):
        for epoch, expected in zip((0, 2), whole, strict=True):
            assert _epoch(stream, epoch, place) == expected[place:], (epoch, place)


def test_only_the_epoch_that_was_current_is_skipped_into(tmp_path: Path) -> None:
    stream = _stream(_jsonl(tmp_path))
    first, second, third = (_epoch(stream, epoch) for epoch in range(3))
    stream.set_epoch(1)
    stream.skip(77)
    assert _ids(stream) == second[77:]
    assert _ids(stream) == second[77:], "and again as often as it is asked for"
    for epoch, expected in ((2, third), (0, first), (1, second[77:])):
        stream.set_epoch(epoch)
        assert _ids(stream) == expected
    stream.skip(0)
    assert _ids(stream) == second


@pytest.mark.parametrize("make", COUNTED, ids=lambda make: make.__name__[1:])
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
    for make in (_jsonl, _hub):
        stream = _stream(make(tmp_path), repeat=True)
        once = replace(stream.order, repeat=False)
        sources = [tmp_path / "e.jsonl"] if make is _jsonl else [tmp_path / "hub"]
        plain = StreamedExamples(sources, KNOWN, once)
        expected = [i for epoch in range(3) for i in _epoch(plain, epoch)]
        for place in (0, 5, 150, COUNT, COUNT + 1, 2 * COUNT - 1, 2 * COUNT + 40):
            stream.skip(place)
            items = iter(stream)
            assert _ids(next(items) for _ in range(60)) == expected[place : place + 60]
        with pytest.raises(TypeError, match="bound the run by max_steps"):
            len(stream)


# Loaders: workers, ranks, and the skipping that accelerate does


def _loader(stream: StreamedExamples, workers: int = 0, size: int = 4, **more: Any) -> DataLoader[Any]:
    more |= {"multiprocessing_context": "fork"} if workers else {}
    return DataLoader(stream, batch_size=size, num_workers=workers, collate_fn=_collate, **more)


def _collate(items: list[Any]) -> list[str]:
    return [item.id for item in items if item is not None]


@pytest.mark.parametrize("make", [_files, _parquet, _hub], ids=lambda make: make.__name__[1:])
def test_workers_change_nothing(make: Callable[[Path], list[Path]], tmp_path: Path) -> None:
    stream = _stream(make(tmp_path), batch_size=4)
    stream.set_epoch(1)
    alone = list(_loader(stream))
    assert sorted(i for batch in alone for i in batch) == sorted(e.id for e in EXAMPLES)
    for workers in (1, 3):
        assert list(_loader(stream, workers)) == alone
    for keep_places in (False, True):
        stream.skip(40, keep_places)
        assert [b for b in _loader(stream, 2) if b] == alone[10:]


def test_workers_that_stay_follow_the_epoch(tmp_path: Path) -> None:
    stream = _stream(_jsonl(tmp_path), batch_size=4)
    expected = [_epoch(stream, epoch) for epoch in (0, 1)]
    loader = _loader(stream, 2, persistent_workers=True)
    for epoch in (0, 1, 0):
        stream.set_epoch(epoch)
        assert [i for batch in loader for i in batch] == expected[epoch]
    stream.skip(16)
    assert [i for batch in loader for i in batch] == expected[0][16:]
    del loader


def test_a_pickled_stream_is_the_same_stream(tmp_path: Path) -> None:
    for make in (_jsonl, _hub):
        stream = _stream(make(tmp_path), seed=9)
        stream.set_epoch(3)
        stream.skip(50)
        assert _ids(pickle.loads(pickle.dumps(stream))) == _ids(stream)  # noqa: S301


def _ranks(
    sources: Sequence[Path], ranks: int, skip: int = 0, workers: int = 0, size: int = 4
) -> list[list[list[str]]]:
    """The batches of each rank, as accelerate cuts them."""
    found = []
    for rank in range(ranks):
        stream = _stream(sources, batch_size=size, rank=rank, ranks=ranks)
        stream.set_epoch(1)
        stream.skip(skip)
        loader = prepare_data_loader(
            _loader(stream, workers, size), num_processes=ranks, process_index=rank, put_on_device=False
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
    sources = _files(tmp_path)
    order = _epoch(_stream(sources), 1)
    together = 4 * ranks
    order += order[: -len(order) % together]
    expected = [
        [order[start + 4 * rank : start + 4 * rank + 4] for start in range(0, len(order), together)]
        for rank in range(ranks)
    ]
    assert _ranks(sources, ranks, workers=workers) == expected
    assert _ranks(sources, ranks, skip=5 * together, workers=workers) == [batches[5:] for batches in expected]


def test_another_ranks_records_are_not_parsed(tmp_path: Path) -> None:
    sources = _jsonl(tmp_path)
    items = [list(_stream(sources, batch_size=4, rank=rank, ranks=2)) for rank in (0, 1)]
    assert all((a is None) != (b is None) for a, b in zip(*items, strict=True))
    assert len(items[0]) == len(_stream(sources, batch_size=4, ranks=2)) == 208


def test_a_batch_of_all_ranks_may_be_larger_than_the_data(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "few.jsonl", EXAMPLES[:3])
    found = _ranks([tmp_path / "few.jsonl"], ranks=2)
    order = _epoch(_stream([tmp_path / "few.jsonl"]), 1)
    assert [i for rank in found for i in rank[0]] == (order * 3)[:8]


def test_accelerate_skips_batches_without_reading_them(tmp_path: Path) -> None:
    """`skip_first_batches` counts off the places that `skip` keeps, and what follows is the uninterrupted rest."""
    made: list[str] = []

    def encode(example: Example) -> Example:
        made.append(example.id)
        return example

    stream = StreamedExamples(_jsonl(tmp_path), KNOWN, StreamOrder(shuffle_buffer=32, batch_size=4), encode=encode)
    stream.set_epoch(1)
    loader = prepare_data_loader(_loader(stream), put_on_device=False)
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


# What is counted


@each_kind
def test_records_are_counted_where_that_is_cheap(make: Callable[[Path], list[Path]], tmp_path: Path) -> None:
    stream = _stream(make(tmp_path), batch_size=4)
    if make in COUNTED:
        assert stream.count() == len(stream) == COUNT
        assert len(_loader(stream)) == 51
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
    stream = _stream([Path("some/examples:train")])
    assert asked == [("some/examples", True)]
    assert stream.count() == len(list(stream)) == COUNT
    with pytest.raises(InputError, match=r"some/examples:tran: no split 'tran' \(did you mean 'train'\?\)"):
        _stream([Path("some/examples:tran")])


# Examples from questions, and what is made of them


def test_questions_become_examples_by_their_template(tmp_path: Path) -> None:
    questions = [Question(f"q{i}", "what?", (str(i),), evidence=(Evidence(f"p{i}"),)) for i in range(20)]
    write_jsonl(tmp_path / "q.jsonl", questions)
    write_jsonl(tmp_path / "p.jsonl", KNOWN.values())
    store = PassageStore.build(tmp_path / "p.jsonl", tmp_path / "store")
    found = list(StreamedExamples(tmp_path / "q.jsonl", store, template="claims"))
    assert {e.id: e for e in found} == {q.id: question_to_example(q, KNOWN) for q in questions}
    made = StreamedExamples(
        tmp_path / "q.jsonl", store, StreamOrder(shuffle_buffer=1), "claims", lambda e: len(e.output)
    )
    assert list(made) == [2] * 20


# What is refused


def _bad(folder: Path, line: str) -> Path:
    lines = [json.dumps(e.to_dict()) for e in EXAMPLES[:20]]
    (folder / "bad.jsonl").write_text("\n".join([*lines[:9], "", line, *lines[9:]]))
    return folder / "bad.jsonl"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("{'id': 1}", "wrong JSON at column 2"),
        ("[1]", "found a list; expected one JSON object a line"),
        ('{"id": "x", "prompt": "y", "output": []}', "field 'output' is empty"),
        ('{"id": "x", "prompt": "y", "outputs": []}', "field 'output' is empty"),
        ('{"id": "x", "promt": "y", "output": [{"text": "z"}]}', "no field 'prompt' (did you mean 'promt'?)"),
        ('{"id": "x", "prompt": "y", "output": [{"claim": "z"}]}', "expected 'text' or 'passage_id'"),
        (
            '{"id": "x", "prompt": "y", "output": [{"passage_id": "z", "claim": "z"}]}',
            "output of 'x' names the passage 'z'; expected the id of one of the 20 passages",
        ),
        (
            '{"id": "x", "prompt": "y", "output": [{"text": "z"}], "negatives": ["p1", "z"]}',
            "negatives of 'x' names the passage 'z'",
        ),
    ],
)
def test_a_wrong_record_is_named_with_its_line(line: str, found: str, tmp_path: Path) -> None:
    path = _bad(tmp_path, line)
    with pytest.raises(InputError) as caught:
        list(_stream([path]))
    assert str(caught.value).startswith(f"{path}:11: ")
    assert found in str(caught.value)
    assert (caught.value.path, caught.value.line, caught.value.exit_code) == (str(path), 11, 2)


def test_the_words_are_those_of_the_reader(tmp_path: Path) -> None:
    path = _bad(tmp_path, '{"id": "x", "prompt": 3, "output": [{"text": "z"}]}')
    with pytest.raises(InputError) as by_reader:
        read_examples(path)
    with pytest.raises(InputError) as by_stream:
        list(_stream([path]))
    assert str(by_stream.value) == str(by_reader.value)


def test_a_wrong_question_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    for record, found in (
        ({"id": "q", "question": "?", "evidence": [{"passage_id": "z"}]}, "evidence of 'q' names the passage 'z'"),
        ({"id": "q", "question": "?"}, "question 'q' has neither evidence nor an answer"),
    ):
        write_jsonl(path, [{"id": "a", "question": "?", "answers": ["b"]}, record])
        with pytest.raises(InputError) as caught:
            list(StreamedExamples(path, KNOWN, template="claims"))
        assert str(caught.value).startswith(f"{path}:2: {found}")


def test_a_wrong_row_is_named_with_its_number(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    examples = [*EXAMPLES[:50], replace(EXAMPLES[50], output=(RetrievalSegment("z", "c"),)), *EXAMPLES[51:]]
    pq.write_table(_table(examples), tmp_path / "e.parquet", row_group_size=30)
    with pytest.raises(InputError) as caught:
        list(_stream([tmp_path / "e.parquet"]))
    assert str(caught.value).startswith(f"{tmp_path / 'e.parquet'}: row 51: output of 'e50' names the passage 'z'")
    (tmp_path / "hub").mkdir()
    write_jsonl(tmp_path / "hub" / "train-0.jsonl", examples[:10])
    write_jsonl(tmp_path / "hub" / "train-1.jsonl", examples[10:])
    with pytest.raises(InputError) as caught:
        list(_stream([tmp_path / "hub"]))
    assert str(caught.value).startswith(f"{tmp_path / 'hub'}: file 2 row 41: output of 'e50' names")


def test_an_error_in_a_worker_can_be_told_in_one_line(tmp_path: Path) -> None:
    path = _bad(tmp_path, '{"id": "x", "prompt": 3, "output": [{"text": "z"}]}')
    items: Any = iter(_loader(_stream([path], batch_size=4), 2))
    with pytest.raises(InputError) as caught:
        list(items)
    told = told_plainly(caught.value)
    assert isinstance(told, InputError)
    assert str(told) == f"{path}:11: field 'prompt' is int 3; expected text"
    assert told_plainly(told) is told
    items._shutdown_workers()  # left to the garbage collection, they are waited for 10 s


def test_a_source_that_cannot_be_read_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.jsonl: no such file; expected a JSONL file"):
        _stream([tmp_path / "none.jsonl"])
    with pytest.raises(InputError, match=r"none.parquet: no such file"):
        _stream([tmp_path / "none.parquet"])
    (tmp_path / "e.parquet").write_bytes(b"PAR1 this is not one")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        _stream([tmp_path / "e.parquet"])
    (tmp_path / "e.jsonl").write_text("\n \n")
    with pytest.raises(InputError, match=r"e.jsonl: found no records; expected at least one line"):
        _stream([tmp_path / "e.jsonl"])
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"folder: cannot be read as a dataset"):
        _stream([tmp_path / "folder"])
    with pytest.raises(UsageError, match="no examples to stream"):
        _stream([])


@pytest.mark.parametrize(
    "order", [{"shuffle_buffer": 0}, {"batch_size": 0}, {"ranks": 0}, {"seed": -1}, {"rank": 2, "ranks": 2}]
)
def test_a_wrong_order_is_refused(order: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(order))):
        StreamOrder(**order)  # type: ignore[arg-type]


def test_a_wrong_place_is_refused(tmp_path: Path) -> None:
    stream = _stream(_jsonl(tmp_path), batch_size=4, ranks=2)
    for records in (-8, 4):
        with pytest.raises(UsageError, match=f"cannot skip {records} records; expected a multiple of 8"):
            stream.skip(records)


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

            pq.write_table(_table(some), path, row_group_size=100_000, compression="none", use_dictionary=False)
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
    stream = StreamedExamples(_jsonl(tmp_path), KNOWN, StreamOrder(shuffle_buffer=1))
    ids = stream.encoded_by(lambda example: example.id)
    lengths = stream.encoded_by(lambda example: len(example.prompt))
    ids.set_epoch(1)
    ids.skip(200)
    assert list(ids) == ["e200", "e201", "e202"]
    assert list(lengths) == [len(example.prompt) for example in EXAMPLES]
    assert list(stream) == EXAMPLES
    assert (ids.epoch, lengths.epoch, stream.epoch) == (1, 0, 0)
