"""Files in published formats, as small as they can be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cosup.data.writing import write_jsonl

CONTEXT = "Mr. Fox was born in Oakdale. He moved to Elm in 1820. Elm is small."


def json_file(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def qa(name: str, *answers: tuple[str, int], **more: Any) -> dict[str, Any]:
    shaped = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": name, "question": f" What about {name}?", "answers": shaped, **more}


def squad(*qas: dict[str, Any], title: str = "Red_Fox", context: str = CONTEXT) -> dict[str, Any]:
    return {"version": "1.1", "data": [{"title": title, "paragraphs": [{"context": context, "qas": list(qas)}]}]}


def beir(folder: Path, qrels: str = "query-id\tcorpus-id\tscore\nq1\td2\t1\nq1\td1\t2\nq2\td1\t0\n") -> Path:
    write_jsonl(
        folder / "corpus.jsonl",
        [
            {"_id": "d1", "title": "One", "text": "First."},
            {"_id": "d2", "title": "Two", "text": ""},
            {"_id": "d3", "title": "", "text": ""},
        ],
    )
    write_jsonl(folder / "queries.jsonl", [{"_id": "q1", "text": "one?", "metadata": {}}, {"_id": "q2", "text": "2?"}])
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text(qrels)
    return folder
