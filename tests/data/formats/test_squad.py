"""SQuAD becomes passages and questions: the sentence at the offset, what is skipped, what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cosup.data.convert import convert
from cosup.data.reading import read_passages, read_questions
from cosup.errors import InputError
from cosup.records import Evidence, Passage, Question
from tests.data.formats import published
from tests.data.formats.published import CONTEXT


def test_squad_gives_the_sentence_at_the_offset(tmp_path: Path) -> None:
    """The sentence is that of the offset, not of the answer's first occurrence; the commonest answer comes first."""
    elm = CONTEXT.rindex("Elm")
    source = published.json_file(
        tmp_path / "in.json", published.squad(published.qa("a", ("Elm is", elm), ("Elm", elm), ("Elm", elm)))
    )
    done = convert("squad", source, tmp_path / "out")
    assert dict(done.written) == {tmp_path / "out/passages.jsonl": 1, tmp_path / "out/questions.jsonl": 1}
    assert read_passages(tmp_path / "out") == [Passage("Red Fox", "Red Fox", CONTEXT)]
    evidence = (Evidence("Red Fox", "Elm is small."),)
    question = Question("a", "What about a?", ("Elm", "Elm is"), evidence=evidence)
    assert read_questions(tmp_path / "out/questions.jsonl") == [question]


@pytest.mark.parametrize(
    ("answer", "start", "sentence"),
    [
        ("Oakdale", 20, "Mr. Fox was born in Oakdale."),
        (" Oakdale", 19, "Mr. Fox was born in Oakdale."),
        ("Elm", 43, "He moved to Elm in 1820."),  # a wrong offset: the nearest occurrence
        ("Elm", 9999, "Elm is small."),
        ("Elm", -5, "He moved to Elm in 1820."),
        ("1820. Elm", CONTEXT.index("1820"), "He moved to Elm in 1820. Elm is small."),
    ],
)
def test_squad_offsets(answer: str, start: int, sentence: str, tmp_path: Path) -> None:
    convert(
        "squad",
        published.json_file(tmp_path / "in.json", published.squad(published.qa("a", (answer, start)))),
        tmp_path,
    )
    [question] = read_questions(tmp_path / "questions.jsonl")
    assert question.answers == (answer.strip(),)
    assert question.evidence[0].sentence == sentence


def test_squad_counts_what_it_skips(tmp_path: Path) -> None:
    data = published.squad(
        published.qa("a", ("Oakdale", 20)),
        published.qa("b", is_impossible=True, plausible_answers=[]),
        published.qa("c", is_impossible=True),
        published.qa("d"),
        published.qa("e", ("Paris", 3)),
    )
    data["data"] += published.squad(published.qa("f", ("1820", 0)), context="It was 1820.")["data"]
    done = convert("squad", published.json_file(tmp_path / "in.json", data), tmp_path)
    assert sorted(done.skipped.values()) == [1, 1, 2]
    assert done.skipped["questions that the passage does not answer (SQuAD 2.0)"] == 2
    assert [q.id for q in read_questions(tmp_path / "questions.jsonl")] == ["a", "f"]
    assert [p.id for p in read_passages(tmp_path)] == ["Red Fox", "Red Fox#2"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "found list []; expected an object"),
        ({"dat": []}, "no field 'data' (did you mean 'dat'?); found 'dat'"),
        ({"data": [3]}, "data[0]: found int 3; expected an object"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, "data[0].paragraphs[0]: no field 'context'; found 'qas'"),
        (published.squad(context=" "), "data[0].paragraphs[0].context: found no text"),
        (
            published.squad(published.qa("a", ("x", 1)), published.qa("b", ("x", None))),
            "qas[1].answers[0].answer_start: found NoneType None",
        ),  # type: ignore[arg-type]
        (
            published.squad(published.qa("a", ("Elm", 1)), published.qa("a", ("Elm", 1))),
            "data[0].paragraphs[0].qas[1]: id 'a' again",
        ),
        (
            published.squad(published.qa(" ", ("Elm", 1))),
            "qas[0]: the id is empty; expected one that no other question has",
        ),
        (
            published.squad(published.qa("a", is_impossible=True)),
            "nothing there for questions.jsonl (skipped 1 questions that",
        ),
    ],
)
def test_wrong_squad_names_the_place(data: Any, message: str, tmp_path: Path) -> None:
    source = published.json_file(tmp_path / "in.json", data)
    with pytest.raises(InputError) as caught:
        convert("squad", source, tmp_path / "out")
    assert str(caught.value).startswith(f"{source}: ")
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()
