"""Every reader of data: JSONL, Parquet and Markdown.

What is read must be valid records that can be written and read again; what is refused must name the file and the line.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from cosup.data.reading import read_answers, read_examples, read_ids, read_passages, read_questions
from cosup.data.store import PassageStore
from cosup.errors import CosupError, InputError
from cosup.records import Answer, Example, Passage, Question
from tests.fuzz.damage import ODD, as_json, cases, damaged_bytes
from tests.fuzz.running import Run, Target

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
DOCUMENT = {"_id": "d1", "title": "Elm", "text": "Elm is small.", "metadata": {}}
PASSAGES = {"passages.jsonl": json.dumps(PASSAGE) + "\n" + json.dumps(PASSAGE | {"id": "7:2"}) + "\n"}
LINE = (b"", b"\n")
PARSERS: dict[str, Callable[[Any], Any]] = {
    "passages": Passage.from_dict,
    "questions": Question.from_dict,
    "examples": Example.from_dict,
    "predictions": Answer.from_dict,
}
WHOLE_FILE = (  # errors that are about no line
    "found no records",
    "nothing there",
    "found no passage of a page",
    "has none of the questions",
    "the file is empty",
    "cannot be read as Parquet",
    "found the columns",
    "found no ids",
    "with text in it",
)


def check_records(name: str, records: Iterable[Any]) -> None:
    """Check that records can be written and read again, with distinct ids."""
    seen = set()
    parse = PARSERS[name]
    for record in records:
        value = record if isinstance(record, dict) else record.to_dict()
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        again = parse(value)
        assert isinstance(record, dict) or again == record
        assert again.id not in seen
        seen.add(again.id)


@contextmanager
def named(folder: Path) -> Iterator[None]:
    """Check that what a block refuses names a file of the folder, with a line or a place where there is one."""
    try:
        yield
    except InputError as error:
        message = str(error)
        assert message.startswith(str(folder)), message
        in_document = str(error.path).endswith(".json")
        located = error.line is not None or in_document or ": row " in message
        assert located or any(text in message for text in WHOLE_FILE), message
        raise


def write(path: Path, data: bytes) -> None:
    """Overwrite a file; emptying it on opening is slow on some disks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r+b" if path.exists() else "wb") as stream:
        stream.write(data)
        stream.truncate()


# -- cosup's own files ---------------------------------------------------------------------------------------------


def _own(kind: str, read: Callable[[Path], list[Any]], record: Any) -> Target:
    def prepare(folder: Path) -> Run:
        path = folder / "in.jsonl"

        def run(data: bytes) -> None:
            write(path, data)
            with named(folder):
                check_records(kind, read(path))

        return run

    return Target(kind, prepare, cases([as_json(record) + b"\n"], record, around=LINE), (as_json(record) + b"\n",))


def _store(folder: Path) -> Run:
    """A store on disk takes what a list in memory takes, and nothing else."""
    path, place = folder / "in.jsonl", folder / "store"

    def run(data: bytes) -> None:
        write(path, data)
        shutil.rmtree(place, ignore_errors=True)
        found: dict[str, Any] = {}
        for name, read in (("list", _read_list), ("store", _read_store)):
            try:
                found[name] = read(path, place)
            except InputError as error:
                found[name] = str(error)
        assert found["list"] == found["store"]
        if isinstance(found["store"], str):
            assert not place.exists()
            raise CosupError(found["store"])

    return run


def _read_list(path: Path, _: Path) -> list[Passage]:
    return read_passages(path)


def _read_store(path: Path, place: Path) -> list[Passage]:
    return list(PassageStore.build(path, place).in_order())


def _compressed(folder: Path) -> Run:
    path = folder / "in.jsonl.gz"

    def run(data: bytes) -> None:
        write(path, data)
        with named(folder):
            check_records("passages", read_passages(path))

    return run


def _ids(folder: Path) -> Run:
    path = folder / "ids.txt"

    def run(data: bytes) -> None:
        write(path, data)
        with named(folder):
            assert all(read_ids(path))

    return run


def _folder(suffix: str) -> Callable[[Path], Run]:
    def prepare(folder: Path) -> Run:
        path = folder / "pages" / f"a{suffix}"

        def run(data: bytes) -> None:
            write(path, data)
            with named(folder):
                check_records("passages", read_passages(path.parent))

        return run

    return prepare


def _parquet(folder: Path) -> Run:
    path = folder / "in.parquet"

    def run(data: bytes) -> None:
        write(path, data)
        with named(folder):
            check_records("passages", read_passages(path))

    return run


def _as_parquet(columns: dict[str, Any]) -> bytes:
    """Return a Parquet file; columns that pyarrow cannot hold are left out."""
    made = {}
    for name, values in columns.items():
        try:
            made[name] = pa.array(values)
        except (pa.ArrowException, UnicodeEncodeError, OverflowError):
            continue
    length = min(map(len, made.values()), default=0)
    stream = io.BytesIO()
    try:
        pq.write_table(pa.table({name: values[:length] for name, values in made.items()}), stream)
    except pa.ArrowException:  # an empty struct
        return _as_parquet(TABLE)
    return stream.getvalue()


TABLE = {"id": ["a", "b"], "title": ["Elm", ""], "text": ["Elm is small.", "Ash is big."]}
COLUMN = st.lists(st.sampled_from([*ODD, 1, "a", "b", b"\xff", 2.0]), min_size=2, max_size=2)
TABLES = st.dictionaries(st.sampled_from(["id", "_id", "title", "text", "metadata", "x"]), COLUMN).map(
    lambda found: _as_parquet({**TABLE, **found})
)
WHOLE_TABLE = _as_parquet(TABLE)
MARKDOWN = (
    b"---\ntitle: A Guide\n---\n# Elm\n\nElm is *small*. It is [low](x).\n\n## Ash ##\n```sh\nmake\n```\n- one\n"
    b"\nHead\n====\n\nText. More text! \xe6\x9c\xa8\xe3\x80\x82\n",
    b"+++\ntitle = 'x'\n+++\n~~~\nopen\n",
    b"word " * 400 + b"\n\n" + b"a" * 3000,
)


# -- published formats -----------------------------------------------------------------------------------------------


def _line(value: Any) -> bytes:
    return as_json(value) + b"\n"


OWN = (
    _own("passages", read_passages, PASSAGE),
    _own("questions", read_questions, QUESTION),
    _own("examples", read_examples, EXAMPLE),
    _own("predictions", read_answers, ANSWER),
    Target("store", _store, cases([_line(PASSAGE), _line(DOCUMENT)], PASSAGE, around=LINE), (_line(PASSAGE),)),
    Target(
        "passages-gz",
        _compressed,
        damaged_bytes([gzip.compress(_line(PASSAGE), mtime=0)]),
        (gzip.compress(_line(PASSAGE), mtime=0),),
    ),
    Target("ids", _ids, cases([b"a\nb\n\n c\n"]), (b"a\nb\n\n c\n",)),
    Target("markdown", _folder(".md"), cases(MARKDOWN), MARKDOWN),
    Target("text", _folder(".txt"), cases(MARKDOWN), MARKDOWN),
    Target("parquet", _parquet, st.one_of(TABLES, damaged_bytes([WHOLE_TABLE])), (WHOLE_TABLE,)),
)
