"""HotpotQA becomes passages and questions with candidates and hops, in either of its forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cosup.data.convert import convert
from cosup.data.reading import check_references, read_passages, read_questions
from cosup.data.writing import write_jsonl
from cosup.errors import InputError
from cosup.records import Evidence, Passage
from tests.data.formats import published

WORK = ["The Lamp", ["The Lamp is a novel.", " Ada wrote it."]]
AUTHOR = ["Ada", ["Ada was a baker.", " She was born in Elm."]]
OTHER = ["Elm", ["Elm is small."]]


def _hotpot(name: str, **more: Any) -> dict[str, Any]:
    return {
        "_id": name,
        "question": "Where was the author of The Lamp born?",
        "answer": "Elm",
        "type": "bridge",
        "supporting_facts": [["Ada", 1], ["The Lamp", 1]],
        "context": [OTHER, AUTHOR, WORK],
        **more,
    }


def test_hotpotqa_gives_candidates_and_hops(tmp_path: Path) -> None:
    """In a bridge question the passage with the answer comes last; every context is the question's candidates."""
    source = published.json_file(
        tmp_path / "in.json", [_hotpot("a"), _hotpot("b", type="comparison", context=[WORK, AUTHOR])]
    )
    done = convert("hotpotqa", source, tmp_path)
    assert done.skipped == {}
    first, second = read_questions(tmp_path / "questions.jsonl")
    assert first.evidence == (Evidence("The Lamp", "Ada wrote it."), Evidence("Ada", "She was born in Elm."))
    assert first.candidates == ("Elm", "Ada", "The Lamp")
    assert first.answers == ("Elm",)
    assert [e.passage_id for e in second.evidence] == ["Ada", "The Lamp"]
    passages = read_passages(tmp_path)
    assert passages[1] == Passage("Ada", "Ada", "Ada was a baker. She was born in Elm.")
    assert len(passages) == 3
    check_references([first, second], passages, source)


def test_hotpotqa_in_columns_reads_the_same(tmp_path: Path) -> None:
    record = _hotpot("a")
    columns = record | {
        "context": {"title": [c[0] for c in record["context"]], "sentences": [c[1] for c in record["context"]]},
        "supporting_facts": {"title": ["Ada", "The Lamp"], "sent_id": [1, 1]},
    }
    columns["id"] = columns.pop("_id")
    convert("hotpotqa", published.json_file(tmp_path / "in.json", [record]), tmp_path / "one")
    write_jsonl(tmp_path / "in.jsonl", [columns])
    convert("hotpotqa", tmp_path / "in.jsonl", tmp_path / "two")
    for name in ("passages.jsonl", "questions.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_hotpotqa_counts_what_it_skips(tmp_path: Path) -> None:
    blind = {k: v for k, v in _hotpot("blind").items() if k not in ("answer", "supporting_facts")}
    lost, beyond = _hotpot("lost", context=[OTHER, WORK]), _hotpot("beyond", supporting_facts=[["Ada", 9], ["Elm", 0]])
    retold = _hotpot("retold", context=[["Ada", ["Another Ada,", "from Elm."]], WORK], supporting_facts=[["Ada", 0]])
    done = convert("hotpotqa", published.json_file(tmp_path / "in.json", [blind, lost, beyond, retold]), tmp_path)
    assert sorted(done.skipped.values()) == [1, 1, 1]
    questions = {q.id: q for q in read_questions(tmp_path / "questions.jsonl")}
    assert questions["beyond"].evidence == (Evidence("Ada", None), Evidence("Elm", "Elm is small."))
    assert questions["retold"].candidates == ("Ada#2", "The Lamp")
    assert read_passages(tmp_path)[-1] == Passage("Ada#2", "Ada", "Another Ada, from Elm.")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            _hotpot("a", context=[["Ada"]]),
            "[0].context[0]: found \"['Ada']\"; expected a pair of a title and sentences",
        ),
        (_hotpot("a", context=[["Ada", [3]]]), "[0].context['Ada']: found int 3; expected text"),
        (_hotpot("a", supporting_facts=[["Ada", "1"]]), "[0].supporting_facts[0][1]: found str '1'; expected a whole"),
        (_hotpot("a", supporting_facts={"title": ["Ada"], "sent_id": []}), "found 1 titles and 0 sent_id"),
        (_hotpot("a", question=" "), "[0]: field 'question' is empty"),
        (_hotpot("a", answer=None), "[0].answer: found NoneType None; expected text"),
    ],
)
def test_wrong_hotpotqa_names_the_place(record: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        convert("hotpotqa", published.json_file(tmp_path / "in.json", [record]), tmp_path)
    assert message in str(caught.value)
