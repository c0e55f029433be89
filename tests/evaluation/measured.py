"""Files of two questions and of two systems' predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def lines(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Return files of two questions and two systems' predictions, the second of which is wrong once more."""
    passages = [{"id": "sea", "title": "The Sea", "text": "Ada Moor wrote The Sea."}]
    evidence = [{"passage_id": "sea", "sentence": "Ada Moor wrote The Sea."}]
    asked = [{"id": i, "question": "Who?", "answers": ["Ada Moor"], "evidence": evidence} for i in ("a", "b")]
    citation = {"n": 1, "passage_id": "sea", "claim": "Ada Moor wrote The Sea.", "start": 0, "end": 22, "score": 1}
    right = {"text": "Ada Moor wrote The Sea [1]. Ada Moor", "answer": "Ada Moor", "citations": [citation]}
    return {
        "passages": lines(tmp_path / "passages.jsonl", *passages),
        "questions": lines(tmp_path / "questions.jsonl", *asked),
        "predictions": lines(tmp_path / "p.jsonl", {"id": "a", **right}, {"id": "b", **right}),
        "against": lines(tmp_path / "q.jsonl", {"id": "a", **right}, {"id": "b", "text": "Bea"}),
    }


def options(files: dict[str, Path]) -> list[object]:
    return [word for name, path in files.items() for word in (f"--{name}", path)]
