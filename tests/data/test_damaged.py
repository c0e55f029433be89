"""Damaged files: every reader gives valid records or says which file and line is wrong, never anything else.

One record of a small file is cut, has bytes flipped, or has fields dropped, doubled or given other types. A reader
that takes it nevertheless must give records that cosup's own readers accept. The seed is fixed; `COSUP_DAMAGED` says
how many damaged records each reader gets, and the slow test gives it 10,000.
"""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cosup.data.convert import FORMATS
from cosup.data.formats.base import Converted, Job
from cosup.data.reading import read_answers, read_examples, read_passages, read_questions
from cosup.errors import InputError
from cosup.records import Answer, Example, Passage, Question

COUNT = int(os.environ.get("COSUP_DAMAGED", "300"))

PASSAGE = {"id": "7:1", "title": "Elm", "text": "Elm is small. It lies low.", "metadata": {"wikipedia_id": "7", "n": 1}}
QUESTION = {
    "id": "q1",
    "question": "Where?",
    "answers": ["Elm", "elm"],
    "long_answer": "In Elm.",
    "evidence": [{"passage_id": "7:1", "sentence": "Elm is small."}, {"passage_id": "7:2", "sentence": None}],
    "candidates": ["7:1", "7:2"],
    "instruction": "Answer.",
    "label": "x",
    "answer_sets": [["Elm", "elm"], ["Ash"]],
    "claims": ["Elm is small."],
}
EXAMPLE = {
    "id": "e1",
    "prompt": "Where?",
    "output": [{"text": "Well."}, {"passage_id": "7:1", "claim": "Elm."}],
    "negatives": ["7:2"],
    "instruction": "Answer.",
}
ANSWER = {
    "id": "q1",
    "question": "Where?",
    "text": "In Elm [1].\nYes.",
    "answer": "Elm",
    "segments": [{"passage_id": "7:1", "claim": "In Elm."}, {"text": "Yes."}],
    "citations": [{"n": 1, "passage_id": "7:1", "claim": "In Elm.", "start": 0, "end": 6, "score": 0.5}],
    "retrievals": [{"position": 0, "hits": [{"passage_id": "7:1", "score": 0.5}, {"passage_id": "7:2", "score": 0.1}]}],
    "finish_reason": "eos",
}
SQUAD = {
    "title": "Red_Fox",
    "paragraphs": [
        {
            "context": "Mr. Fox was born in Elm. He left.",
            "qas": [{"id": "a", "question": "Where?", "answers": [{"text": "Elm", "answer_start": 20}]}],
        }
    ],
}
HOTPOT = {
    "_id": "a",
    "question": "Where?",
    "answer": "Elm",
    "type": "bridge",
    "supporting_facts": [["Ada", 1], ["Elm", 0]],
    "context": [["Ada", ["Ada was a baker.", " She was born in Elm."]], ["Elm", ["Elm is small."]]],
}
TEVATRON = {
    "query_id": "1",
    "query": "Where?",
    "answers": ["Elm"],
    "positive_passages": [{"docid": "a", "title": "Elm", "text": "Elm is small."}],
    "negative_passages": [{"docid": "b", "title": "Ash", "text": "Ash is big."}],
}
SELFRAG = {
    "id": "s1",
    "instruction": "Answer.## Input:\n\nWhere?",
    "input": "",
    "output": "Well.[Retrieval]<paragraph>Elm\nElm is small.</paragraph>[Relevant]In Elm.[Fully supported]"
    "[Continue to Use Evidence]It is small.[No Retrieval]Yes.[Retrieval]<paragraph>Ash\nBig.</paragraph>[Irrelevant]No."
    "[Utility:5]",
    "dataset_name": "nq",
    "topic": "",
}
KILT = {
    "id": "k1",
    "input": "Where?",
    "output": [
        {
            "answer": "Elm",
            "provenance": [
                {
                    "wikipedia_id": "7",
                    "title": "Elm",
                    "start_paragraph_id": 1,
                    "start_character": 0,
                    "end_paragraph_id": 1,
                    "end_character": 3,
                }
            ],
        },
        {"provenance": [{"wikipedia_id": 8, "title": "Ash"}]},
    ],
    "meta": {},
}
PAGE = {
    "_id": "7",
    "wikipedia_id": 7,
    "wikipedia_title": "Elm",
    "text": ["Elm\n", "Elm is small. It lies low.\n", "Section::::Name.\n", "BULLET::::- An elm.\n"],
    "anchors": [{"text": "low", "href": "Low", "paragraph_id": 1, "start": 1, "end": 2}],
}
ALCE = {
    "sample_id": "1",
    "question": "Where?",
    "docs": [{"id": "d1", "title": "Elm", "text": "Elm is small.", "score": 0.5}, {"title": "Ash", "text": "Big."}],
    "qa_pairs": [{"question": "Where?", "short_answers": ["Elm", "elm"]}],
    "annotations": [{"long_answer": "In Elm."}],
    "answers": [["Elm"], ["Ash", "ash"]],
    "claims": ["Elm is small."],
    "answer": "In Elm.",
}
DOCUMENT = {"_id": "d1", "title": "Elm", "text": "Elm is small.", "metadata": {}}
QUERY = {"_id": "q1", "text": "Where?", "metadata": {}}
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq2\td1\t1\n"

ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    2.5,
    10**30,
    1e300,
    "",
    " ",
    "x",
    "\t\n",
    "7",
    [],
    [None],
    [[]],
    ["x"],
    {},
    {"id": "x"},
]
ODD += ["\ud800", "[Relevant]", "<paragraph>", "[Rele[Relevant]vant]", "a\u2028b\x00", "Section::::", [["Ada", 1]]]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container within `value` with a key or index in it."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(item, dict | list):
            yield from _places(item)


def _change(record: Any, rng: random.Random) -> None:
    """Drop, double, exchange or retype something within a record."""
    places = list(_places(record))
    if not places:
        return
    container, key = rng.choice(places)
    what = rng.random()
    if what < 0.25:
        del container[key]
    elif what < 0.35 and isinstance(container, list):
        container.insert(key, copy.deepcopy(container[key]))
    elif what < 0.45:
        other, at = rng.choice(places)
        container[key] = (
            copy.deepcopy(other[at]) if at in other or (isinstance(other, list) and at < len(other)) else None
        )
    elif what < 0.5 and isinstance(container[key], str):
        text = container[key]
        container[key] = text[: rng.randrange(len(text) + 1)]
    else:
        container[key] = copy.deepcopy(rng.choice(ODD))


def _break(data: bytes, rng: random.Random) -> bytes:
    """Cut bytes off, flip one, or put one in."""
    at = rng.randrange(len(data) + 1)
    what = rng.random()
    if what < 0.4:
        return data[:at]
    if what < 0.8:
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    return data[:at] + bytes([rng.choice(b'\n\x00"{}[],:\\\xff')]) + data[at:]


def _damaged(record: Any, rng: random.Random) -> bytes:
    if isinstance(record, str):
        return _break(record.encode(), rng)
    if rng.random() < 0.25:
        return _break(json.dumps(record).encode(), rng)
    record = copy.deepcopy(record)
    for _ in range(rng.choice((1, 1, 2, 4))):
        _change(record, rng)
    return json.dumps(record).encode()


@dataclass(frozen=True)
class Reader:
    """What is read, how, and which records of which files are damaged (only one of them at a time).

    `around` is put around the damaged record: a whole line, or what makes a document of it.
    """

    read: Callable[[Path], Converted]
    files: dict[str, Any]
    around: tuple[bytes, bytes] = (b"", b"\n")
    source: str = ""
    beside: dict[str, str] | None = None


def _own(name: str, read: Callable[[Path], list[Any]]) -> Callable[[Path], Converted]:
    return lambda path: Converted({name: read(path)})


def _format(name: str) -> Callable[[Path], Converted]:
    return lambda path: FORMATS[name](Job(path, path))


LIST, DATA = (b"[", b"]"), (b'{"data": [', b"]}")
PASSAGES = {"passages.jsonl": json.dumps(PASSAGE) + "\n" + json.dumps(PASSAGE | {"id": "7:2"})}
READERS = {
    "passages": Reader(_own("passages.jsonl", read_passages), {"in.jsonl": PASSAGE}),
    "questions": Reader(_own("questions.jsonl", read_questions), {"in.jsonl": QUESTION}),
    "examples": Reader(_own("examples.jsonl", read_examples), {"in.jsonl": EXAMPLE}),
    "answers": Reader(_own("predictions.jsonl", read_answers), {"in.jsonl": ANSWER}),
    "squad": Reader(_format("squad"), {"in.json": SQUAD}, DATA),
    "hotpotqa": Reader(_format("hotpotqa"), {"in.json": HOTPOT}, LIST),
    "tevatron": Reader(_format("tevatron"), {"in.jsonl": TEVATRON}),
    "selfrag": Reader(_format("selfrag"), {"in.jsonl": SELFRAG}),
    "selfrag-list": Reader(_format("selfrag"), {"in.json": SELFRAG}, LIST),
    "kilt": Reader(_format("kilt"), {"in.jsonl": KILT}),
    "kilt-resolved": Reader(_format("kilt"), {"in.jsonl": KILT, "passages.jsonl": PASSAGE}),
    "kilt-knowledge": Reader(_format("kilt-knowledge"), {"in.jsonl": PAGE}),
    "alce": Reader(_format("alce"), {"in.json": ALCE}, LIST),
    "beir": Reader(
        _format("beir"), {"corpus.jsonl": DOCUMENT, "queries.jsonl": QUERY, "qrels/test.tsv": QRELS}, source="."
    ),
    "beir-output": Reader(_format("beir-output"), {"passages.jsonl": PASSAGE, "questions.jsonl": QUESTION}, source="."),
    "tevatron-output": Reader(_format("tevatron-output"), {"questions.jsonl": QUESTION}, source=".", beside=PASSAGES),
    "trec": Reader(_format("trec"), {"in.jsonl": ANSWER}),
    "kilt-submission": Reader(_format("kilt-submission"), {"in.jsonl": ANSWER}, beside=PASSAGES),
    "alce-output": Reader(
        _format("alce-output"), {"in.jsonl": ANSWER, "gold.jsonl": ALCE | {"sample_id": "q1"}}, beside=PASSAGES
    ),
}
PARSERS: dict[str, Callable[[Any], Any]] = {
    "passages": Passage.from_dict,
    "questions": Question.from_dict,
    "examples": Example.from_dict,
    "predictions": Answer.from_dict,
}


def _check_result(converted: Converted) -> None:
    """Check that all records can be written and read again, with distinct ids."""
    for name, records in converted.files.items():
        seen = set()
        parse = PARSERS.get(name.split(".")[0])
        for record in records:
            value = record if isinstance(record, str | dict) else record.to_dict()
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
            if parse is not None:
                assert parse(value) == record
                assert value["id"] not in seen
                seen.add(value["id"])


def _check_error(error: InputError, folder: Path) -> None:
    """Check that an error names a file of the folder, with a line or a place where there is one to name."""
    message = str(error)
    assert message.startswith(f"{folder}/")
    assert "Traceback" not in message
    whole_file = (
        "found no records",
        "nothing there",
        "found no passage of a page",
        "has none of the questions",
        "the file is empty",
    )
    in_document = str(error.path).endswith(".json")
    assert error.line is not None or in_document or any(text in message for text in whole_file), message


def _write(path: Path, data: bytes) -> None:
    """Overwrite a file; emptying it on opening is slow on some disks."""
    with path.open("r+b") as stream:
        stream.write(data)
        stream.truncate()


def _try(reader: Reader, folder: Path, count: int, seed: str) -> tuple[int, int]:
    """Return how many damaged files were read and how many refused."""
    rng = random.Random(seed)
    before, after = reader.around
    whole = {name: r if isinstance(r, str) else json.dumps(r) for name, r in reader.files.items()} | (
        reader.beside or {}
    )
    for name, text in whole.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(before + text.encode() + after)
    outcomes = [0, 0]
    source = folder / (reader.source or next(iter(reader.files)))
    for number in range(count):
        name = list(reader.files)[number * len(reader.files) // count]
        data = before + _damaged(reader.files[name], rng) + after
        _write(folder / name, data)
        try:
            _check_result(reader.read(source))
            outcomes[0] += 1
        except InputError as error:
            _check_error(error, folder)
            outcomes[1] += 1
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error} at {data!r} in {name}") from error
        if (number + 1) * len(reader.files) // count > number * len(reader.files) // count:
            _write(folder / name, before + whole[name].encode() + after)
    return outcomes[0], outcomes[1]


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_record_is_read_or_named(name: str, tmp_path: Path) -> None:
    read, refused = _try(READERS[name], tmp_path, COUNT, name)
    assert read > COUNT / 50, "hardly anything was read: the undamaged record may be wrong"
    assert refused > COUNT / 50, "hardly anything was refused: the damage may be none"


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_ten_thousand_damaged_records_are_read_or_named(name: str, tmp_path: Path) -> None:
    assert sum(_try(READERS[name], tmp_path, 10_000, f"{name} again")) == 10_000
