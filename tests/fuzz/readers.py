"""Every reader of data: JSONL, Parquet, Markdown, and what `cosup convert` takes.

What is read must be valid records that can be written and read again; what is refused must name the file and the line.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from cosup.data.convert import FORMATS, convert
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

PASSAGES = {"passages.jsonl": json.dumps(PASSAGE) + "\n" + json.dumps(PASSAGE | {"id": "7:2"}) + "\n"}
LIST, DATA, LINE = (b"[", b"]"), (b'{"data": [', b"]}"), (b"", b"\n")
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


@dataclass(frozen=True)
class Published:
    """A format that `cosup convert` takes.

    Attributes:
        files: a whole record of each file that is read; each is damaged in turn.
        around: put around a record: a whole line, or what makes a document of it.
        source: what is named on the command line; the first file where nothing is said.
        beside: other files that are needed.
        name: of the format, where it is not the target's.
    """

    files: dict[str, Any]
    around: tuple[bytes, bytes] = LINE
    source: str = ""
    beside: dict[str, str] | None = None
    name: str = ""


PUBLISHED = {
    "squad": Published({"in.json": SQUAD}, DATA),
    "hotpotqa": Published({"in.json": HOTPOT}, LIST),
    "tevatron": Published({"in.jsonl": TEVATRON}),
    "selfrag": Published({"in.jsonl": SELFRAG}),
    "selfrag-list": Published({"in.json": SELFRAG}, LIST, name="selfrag"),
    "kilt": Published({"in.jsonl": KILT}),
    "kilt-resolved": Published({"in.jsonl": KILT, "passages.jsonl": PASSAGE}, name="kilt"),
    "kilt-knowledge": Published({"in.jsonl": PAGE}),
    "alce": Published({"in.json": ALCE}, LIST),
    "beir": Published({"corpus.jsonl": DOCUMENT, "queries.jsonl": QUERY, "qrels/test.tsv": QRELS}, source="."),
    "examples": Published({"questions.jsonl": QUESTION}, source=".", beside=PASSAGES),
    "examples-corpus": Published(
        {"passages.jsonl": PASSAGE},
        (b"", b"\n" + as_json(PASSAGE | {"id": "7:2"}) + b"\n"),
        source=".",
        beside={"questions.jsonl": json.dumps(QUESTION) + "\n"},
        name="examples",
    ),
    "beir-output": Published({"passages.jsonl": PASSAGE, "questions.jsonl": QUESTION}, source="."),
    "tevatron-output": Published({"questions.jsonl": QUESTION}, source=".", beside=PASSAGES),
    "trec": Published({"in.jsonl": ANSWER}),
    "kilt-submission": Published({"in.jsonl": ANSWER}, beside=PASSAGES),
    "alce-output": Published({"in.jsonl": ANSWER, "gold.jsonl": ALCE | {"sample_id": "q1"}}, beside=PASSAGES),
}


def _published(name: str, form: Published, damaged: str) -> Target:
    before, after = form.around
    whole = {
        file: before + (record.encode() if isinstance(record, str) else as_json(record)) + after
        for file, record in form.files.items()
    }
    whole = {**{file: text.encode() for file, text in (form.beside or {}).items()}, **whole}

    def prepare(folder: Path) -> Run:
        source, output = folder / "in", folder / "out"
        for file, data in whole.items():
            write(source / file, data)

        def run(data: bytes) -> None:
            write(source / damaged, data)
            shutil.rmtree(output, ignore_errors=True)
            try:
                with named(source):
                    convert(form.name or name, source / (form.source or next(iter(form.files))), output)
            except CosupError:
                assert not output.exists() or not list(output.rglob("*.*")), "something half-written"
                raise
            for path in output.iterdir():
                assert path.suffix != ".tmp"
                kind = path.name.split(".")[0]
                records = [json.loads(line) for line in path.read_bytes().splitlines()] if kind in PARSERS else []
                if kind in PARSERS:
                    check_records(kind, records)

        return run

    record = form.files[damaged]
    strategy = cases([whole[damaged]], None if isinstance(record, str) else record, around=form.around)
    several = len(form.files) > 1
    return Target(
        f"convert-{name}-{Path(damaged).stem}" if several else f"convert-{name}", prepare, strategy, (whole[damaged],)
    )


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
FORMATTED = tuple(_published(name, form, file) for name, form in PUBLISHED.items() for file in form.files)
assert {form.name or name for name, form in PUBLISHED.items()} == FORMATS.keys() - {"folder", "parquet"}
