"""Records of a stream: questions become examples, and what is wrong is named with its line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cosup.data.reading import read_examples
from cosup.data.store import PassageStore
from cosup.data.stream import StreamedExamples, StreamOrder, told_plainly
from cosup.data.templates import question_to_example
from cosup.data.writing import write_jsonl
from cosup.errors import InputError, UsageError
from cosup.records import Evidence, Question, RetrievalSegment
from tests.data import streams
from tests.data.streams import EXAMPLES, KNOWN, small_shards

__all__ = ["small_shards"]
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


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
        list(streams.stream_of([path]))
    assert str(caught.value).startswith(f"{path}:11: ")
    assert found in str(caught.value)
    assert (caught.value.path, caught.value.line, caught.value.exit_code) == (str(path), 11, 2)


def test_the_words_are_those_of_the_reader(tmp_path: Path) -> None:
    path = _bad(tmp_path, '{"id": "x", "prompt": 3, "output": [{"text": "z"}]}')
    with pytest.raises(InputError) as by_reader:
        read_examples(path)
    with pytest.raises(InputError) as by_stream:
        list(streams.stream_of([path]))
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
    pq.write_table(streams.table(examples), tmp_path / "e.parquet", row_group_size=30)
    with pytest.raises(InputError) as caught:
        list(streams.stream_of([tmp_path / "e.parquet"]))
    assert str(caught.value).startswith(f"{tmp_path / 'e.parquet'}: row 51: output of 'e50' names the passage 'z'")
    (tmp_path / "hub").mkdir()
    write_jsonl(tmp_path / "hub" / "train-0.jsonl", examples[:10])
    write_jsonl(tmp_path / "hub" / "train-1.jsonl", examples[10:])
    with pytest.raises(InputError) as caught:
        list(streams.stream_of([tmp_path / "hub"]))
    assert str(caught.value).startswith(f"{tmp_path / 'hub'}: file 2 row 41: output of 'e50' names")


def test_an_error_in_a_worker_can_be_told_in_one_line(tmp_path: Path) -> None:
    path = _bad(tmp_path, '{"id": "x", "prompt": 3, "output": [{"text": "z"}]}')
    items: Any = iter(streams.loader(streams.stream_of([path], batch_size=4), 2))
    with pytest.raises(InputError) as caught:
        list(items)
    told = told_plainly(caught.value)
    assert isinstance(told, InputError)
    assert str(told) == f"{path}:11: field 'prompt' is int 3; expected text"
    assert told_plainly(told) is told
    items._shutdown_workers()  # left to the garbage collection, they are waited for 10 s


def test_a_source_that_cannot_be_read_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.jsonl: no such file; expected a JSONL file"):
        streams.stream_of([tmp_path / "none.jsonl"])
    with pytest.raises(InputError, match=r"none.parquet: no such file"):
        streams.stream_of([tmp_path / "none.parquet"])
    (tmp_path / "e.parquet").write_bytes(b"PAR1 this is not one")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        streams.stream_of([tmp_path / "e.parquet"])
    (tmp_path / "e.jsonl").write_text("\n \n")
    with pytest.raises(InputError, match=r"e.jsonl: found no records; expected at least one line"):
        streams.stream_of([tmp_path / "e.jsonl"])
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"folder: cannot be read as a dataset"):
        streams.stream_of([tmp_path / "folder"])
    with pytest.raises(UsageError, match="no examples to stream"):
        streams.stream_of([])


@pytest.mark.parametrize(
    "order", [{"shuffle_buffer": 0}, {"batch_size": 0}, {"ranks": 0}, {"seed": -1}, {"rank": 2, "ranks": 2}]
)
def test_a_wrong_order_is_refused(order: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(order))):
        StreamOrder(**order)  # type: ignore[arg-type]


def test_a_wrong_place_is_refused(tmp_path: Path) -> None:
    stream = streams.stream_of(streams.jsonl(tmp_path), batch_size=4, ranks=2)
    for records in (-8, 4):
        with pytest.raises(UsageError, match=f"cannot skip {records} records; expected a multiple of 8"):
            stream.skip(records)
