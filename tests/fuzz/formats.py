"""Every published format that `cosup convert` takes: valid records come out, or the place of what is wrong is named."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosup.data.convert import FORMATS, convert
from cosup.errors import CosupError
from tests.fuzz.damage import as_json, cases
from tests.fuzz.readers import ANSWER, DOCUMENT, LINE, PARSERS, PASSAGE, PASSAGES, QUESTION, check_records, named, write
from tests.fuzz.running import Run, Target

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
QUERY = {"_id": "q1", "text": "Where?", "metadata": {}}
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq2\td1\t1\n"
LIST, DATA = (b"[", b"]"), (b'{"data": [', b"]}")


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


FORMATTED = tuple(_published(name, form, file) for name, form in PUBLISHED.items() for file in form.files)
assert {form.name or name for name, form in PUBLISHED.items()} == FORMATS.keys() - {"folder", "parquet"}
