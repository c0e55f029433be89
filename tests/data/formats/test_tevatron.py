"""Tevatron becomes passages and questions with negatives, and comes back as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cosup.data.convert import convert
from cosup.data.reading import check_references, read_examples, read_passages, read_questions
from cosup.data.writing import write_jsonl
from cosup.errors import InputError
from cosup.records import Question, RetrievalSegment, TextSegment


def _tevatron(name: str | int, positives: list[str], negatives: list[str], **more: Any) -> dict[str, Any]:
    def passages(ids: list[str]) -> list[dict[str, str]]:
        return [{"docid": i, "title": f"T{i}", "text": f"First of doc-{i}. Second of doc-{i}."} for i in ids]

    shaped = {"positive_passages": passages(positives), "negative_passages": passages(negatives)}
    return {"query_id": name, "query": f"{name}?", **shaped, **more}


def test_tevatron_gives_candidates_and_negatives(tmp_path: Path) -> None:
    """Every positive is evidence; an example retrieves the first and must not pick the negatives."""
    records = [
        _tevatron(1, ["a", "b"], ["c", "c", "b"], answers=["Second of doc-a"]),
        _tevatron("2", ["c"], []),
        _tevatron("3", [], ["d"]),
    ]
    write_jsonl(tmp_path / "in.jsonl", records)
    done = convert("tevatron", tmp_path / "in.jsonl", tmp_path / "out")
    assert done.skipped == {"queries without a positive passage": 1}
    passages = read_passages(tmp_path / "out")
    assert [p.id for p in passages] == ["a", "b", "c", "d"]
    questions = read_questions(tmp_path / "out/questions.jsonl")
    assert questions[0].gold_ids == ("a", "b")
    assert questions[0].candidates == ("a", "b", "c")
    examples = read_examples(tmp_path / "out/examples.jsonl")
    assert examples[0].output == (RetrievalSegment("a", "Second of doc-a."), TextSegment("Second of doc-a"))
    assert examples[0].negatives == ("c",)
    assert examples[1].output == (RetrievalSegment("c", "First of doc-c."),)
    check_references([*questions, *examples], passages, "x")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"query_id": "1"}, "no field 'positive_passages'; found 'query_id'"),
        (_tevatron("1", ["a"], []) | {"query": 3}, "query: found int 3; expected text"),
        (_tevatron("1", ["a"], [], answers="x"), "field 'answers' is str 'x'; expected a list"),
        (
            _tevatron("1", ["a"], []) | {"negative_passages": [{"docid": "z", "text": ""}]},
            "negative_passages[0]: field",
        ),
        (_tevatron("1", ["a"], []) | {"negative_passages": [{"text": "x"}]}, "negative_passages[0]: no field 'docid'"),
        (_tevatron("1", ["a"], []) | {"negative_passages": [{"docid": "a", "text": "x"}]}, "docid 'a' again with"),
        (_tevatron("0", ["a"], []), "query_id '0' again"),
    ],
)
def test_wrong_tevatron_names_the_line(record: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", [_tevatron("0", ["a"], []), record])
    with pytest.raises(InputError) as caught:
        convert("tevatron", tmp_path / "in.jsonl", tmp_path / "out")
    assert str(caught.value).startswith(f"{tmp_path}/in.jsonl:2: ")
    assert message in str(caught.value)


def test_tevatron_comes_back_as_it_was(tmp_path: Path) -> None:
    records = [_tevatron("1", ["a", "b"], ["c"], answers=["Second of doc-a"]), _tevatron("2", ["c"], [])]
    write_jsonl(tmp_path / "in.jsonl", records)
    convert("tevatron", tmp_path / "in.jsonl", tmp_path / "out")
    convert("tevatron-output", tmp_path / "out", tmp_path / "back.jsonl")
    assert [json.loads(line) for line in (tmp_path / "back.jsonl").read_text().splitlines()] == records
    write_jsonl(tmp_path / "out/questions.jsonl", [Question("1", "?")])
    with pytest.raises(InputError, match=r"nothing there for tevatron.jsonl \(skipped 1 queries without a positive"):
        convert("tevatron-output", tmp_path / "out", tmp_path / "back.jsonl")
