"""Records: what is read is checked field by field, and writing is its inverse."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosup.errors import CosupError, InputError, UsageError, did_you_mean
from cosup.records import (
    Answer,
    Citation,
    Evidence,
    Example,
    Hit,
    Passage,
    Question,
    Retrieval,
    RetrievalSegment,
    TextSegment,
)

TEXT = st.text(max_size=12)
FILLED = TEXT.filter(lambda t: t.strip() != "")
SCORES = st.floats(allow_nan=False, allow_infinity=False)
SEGMENTS = st.builds(TextSegment, TEXT) | st.builds(RetrievalSegment, FILLED, TEXT)


def some(strategy: st.SearchStrategy[Any], least: int = 0) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(strategy, min_size=least, max_size=3).map(tuple)


RECORDS = st.one_of(
    st.builds(Passage, FILLED, TEXT, FILLED),
    st.builds(
        Question,
        id=FILLED,
        question=FILLED,
        answers=some(TEXT),
        long_answer=st.none() | TEXT,
        evidence=some(st.builds(Evidence, FILLED, st.none() | TEXT)),
        candidates=st.none() | some(TEXT),
        instruction=st.none() | TEXT,
        label=st.none() | TEXT,
        answer_sets=some(some(TEXT, 1)),
        claims=some(TEXT),
        evidence_sets=some(some(TEXT, 1)),
    ),
    st.builds(Example, FILLED, FILLED, some(SEGMENTS, 1), some(TEXT), st.none() | TEXT),
    st.builds(
        Answer,
        id=FILLED,
        question=TEXT,
        text=TEXT,
        answer=TEXT,
        segments=some(SEGMENTS),
        citations=some(
            st.builds(Citation, st.integers(1, 9), TEXT, TEXT, st.integers(0, 99), st.integers(0, 99), SCORES)
        ),
        retrievals=some(st.builds(Retrieval, st.integers(0, 99), some(st.builds(Hit, TEXT, SCORES)))),
        finish_reason=st.sampled_from(["eos", "length", "context"]),
    ),
)


@given(RECORDS)
def test_writing_and_reading_give_the_record_back(record: Any) -> None:
    written = json.loads(json.dumps(record.to_dict()))
    assert type(record).from_dict(written) == record


def test_the_json_forms_are_these() -> None:
    """Literal: files of users depend on them."""
    assert Passage("1", "T", "x").to_dict() == {"id": "1", "title": "T", "text": "x"}
    question = Question("q", "Who?", ("A",), None, (Evidence("1"),))
    assert question.to_dict() == {
        "id": "q",
        "question": "Who?",
        "answers": ["A"],
        "long_answer": None,
        "evidence": [{"passage_id": "1", "sentence": None}],
    }
    more = dataclasses.replace(question, candidates=(), instruction="Do.", label="SUPPORTS").to_dict()
    assert {name: more[name] for name in ("candidates", "instruction", "label")} == {
        "candidates": [],
        "instruction": "Do.",
        "label": "SUPPORTS",
    }
    wanted = dataclasses.replace(question, answer_sets=(("A", "a"), ("B",)), claims=("It is so.",)).to_dict()
    assert dataclasses.replace(question, evidence_sets=(("1",), ("2", "3"))).to_dict()["evidence_sets"] == [
        ["1"],
        ["2", "3"],
    ]
    assert (wanted["answer_sets"], wanted["claims"]) == ([["A", "a"], ["B"]], ["It is so."])
    example = Example("e", "Who?", (RetrievalSegment("1", "c"), TextSegment("A")))
    assert example.to_dict() == {
        "id": "e",
        "prompt": "Who?",
        "output": [{"passage_id": "1", "claim": "c"}, {"text": "A"}],
    }
    assert dataclasses.replace(example, negatives=("2",)).to_dict()["negatives"] == ["2"]
    answer = Answer("q", "Who?", "A [1].", "A", (TextSegment("A"),), (Citation(1, "1", "A", 0, 1, 0.5),))
    answer = dataclasses.replace(answer, retrievals=(Retrieval(0, (Hit("1", 0.5),)),), finish_reason="length")
    assert answer.to_dict() == {
        "id": "q",
        "question": "Who?",
        "text": "A [1].",
        "answer": "A",
        "segments": [{"text": "A"}],
        "citations": [{"n": 1, "passage_id": "1", "claim": "A", "start": 0, "end": 1, "score": 0.5}],
        "retrievals": [{"position": 0, "hits": [{"passage_id": "1", "score": 0.5}]}],
        "finish_reason": "length",
    }


def test_a_passage_is_rendered_as_title_and_text() -> None:
    assert Passage("1", "Title", "Text.").rendered == "Title :: Text."
    assert Passage("1", "", "Text.").rendered == "Text."


def test_gold_ids_are_distinct_and_passage_ids_are_not() -> None:
    evidence = tuple(Evidence(i) for i in ("b", "a", "b"))
    assert Question("q", "?", evidence=evidence).gold_ids == ("b", "a")
    output = tuple(RetrievalSegment(i, "c") for i in ("b", "a", "b"))
    assert Example("e", "?", (TextSegment("x"), *output)).passage_ids == ("b", "a", "b")


def test_what_is_optional_may_be_missing_or_null() -> None:
    assert Passage.from_dict({"id": 7, "text": "x"}) == Passage("7", "", "x")
    assert Passage.from_dict({"id": "7", "title": None, "text": "x"}) == Passage("7", "", "x")
    fields = ("answers", "long_answer", "evidence", "candidates", "instruction", "label", "answer_sets", "claims")
    fields += ("evidence_sets",)
    nulls = dict.fromkeys(fields)
    assert Question.from_dict({"id": "q", "question": "?", **nulls}) == Question("q", "?")
    assert Answer.from_dict({"id": "q", "text": "A"}) == Answer("q", "", "A", "A")
    citation = {"n": 1, "passage_id": "1", "claim": "c", "start": 0, "end": 1}
    assert Answer.from_dict({"id": "q", "text": "A", "citations": [citation]}).citations[0].score == 0.0


def test_unknown_fields_are_left_alone() -> None:
    """Other systems' files have more."""
    assert Passage.from_dict({"id": "1", "text": "x", "url": "https://x", "n": 3}) == Passage("1", "", "x")


BAD: list[tuple[type[Any], dict[str, Any], str]] = [
    (Passage, {}, "no field 'id'; found none"),
    (Passage, {"_id": "1", "text": "x"}, "no field 'id' (did you mean '_id'?); found '_id', 'text'"),
    (Passage, {"id": "1", "txt": "x"}, "no field 'text' (did you mean 'txt'?); found 'id', 'txt'"),
    (Passage, {"id": "1", "text": None}, "field 'text' is NoneType None; expected text"),
    (Passage, {"id": "1", "text": " \n"}, "field 'text' is str ' \\n'; expected text that is not empty"),
    (Passage, {"id": "1", "text": 3}, "field 'text' is int 3; expected text"),
    (Passage, {"id": True, "text": "x"}, "field 'id' is bool True; expected text"),
    (Passage, {"id": "", "text": "x"}, "field 'id' is str ''; expected text that is not empty"),
    (Passage, {"id": "1", "text": "x", "title": 5}, "field 'title' is int 5; expected text"),
    (Passage, {"id": "1", "text": ["x" * 100]}, f"field 'text' is list ['{'x' * 55}...; expected text"),
    (Question, {"id": "q", "question": ""}, "field 'question' is str ''; expected text that is not empty"),
    (Question, {"id": "q", "question": "?", "answers": "A"}, "field 'answers' is str 'A'; expected a list of texts"),
    (Question, {"id": "q", "question": "?", "answers": [1]}, "field 'answers' is list [1]; expected a list of texts"),
    (Question, {"id": "q", "question": "?", "evidence": ["1"]}, "field 'evidence' is list ['1']; expected a list of"),
    (Question, {"id": "q", "question": "?", "evidence": [{}]}, "evidence[0]: no field 'passage_id'; found none"),
    (Question, {"id": "q", "question": "?", "candidates": "1"}, "field 'candidates' is str '1'; expected a list of"),
    (Question, {"id": "q", "question": "?", "label": 1}, "field 'label' is int 1; expected text"),
    (Question, {"id": "q", "question": "?", "answer_sets": ["A"]}, "field 'answer_sets' is list ['A']; expected a"),
    (Question, {"id": "q", "question": "?", "answer_sets": [[]]}, "field 'answer_sets' is list [[]]; expected a list"),
    (Question, {"id": "q", "question": "?", "answer_sets": "A"}, "field 'answer_sets' is str 'A'; expected a list of"),
    (Question, {"id": "q", "question": "?", "claims": [1]}, "field 'claims' is list [1]; expected a list of texts"),
    (Example, {"id": "e", "prompt": "?"}, "field 'output' is empty; expected at least one segment"),
    (
        Example,
        {"id": "e", "prompt": "?", "output": [{"x": 1}]},
        "output[0]: a segment has 'x'; expected 'text' or 'passage_id'",
    ),
    (
        Example,
        {"id": "e", "prompt": "?", "output": [{}]},
        "output[0]: a segment has no field; expected 'text' or 'passage_id'",
    ),
    (
        Example,
        {"id": "e", "prompt": "?", "output": [{"passage_id": "1"}]},
        "output[0]: no field 'claim'; found 'passage_id'",
    ),
    (Example, {"id": "e", "prompt": "", "output": [{"text": "x"}]}, "field 'prompt' is str ''; expected text that"),
    (Answer, {"id": "q"}, "no field 'text'; found 'id'"),
    (
        Answer,
        {"id": "q", "text": "A", "citations": [{"n": "1"}]},
        "citations[0]: field 'n' is str '1'; expected a number",
    ),
    (
        Answer,
        {"id": "q", "text": "A", "citations": [{"n": True}]},
        "citations[0]: field 'n' is bool True; expected a number",
    ),
    (Answer, {"id": "q", "text": "A", "retrievals": [{}]}, "retrievals[0]: no field 'position'; found none"),
    (
        Answer,
        {"id": "q", "text": "A", "retrievals": [{"position": 0, "read": -1}]},
        "retrievals[0]: field 'read' is int -1; expected",
    ),
    (
        Answer,
        {"id": "q", "text": "A", "retrievals": [{"position": 0, "hits": [{"passage_id": "1"}]}]},
        "retrievals[0]: hits[0]: no field 'score'; found 'passage_id'",
    ),
]


@pytest.mark.parametrize(("kind", "record", "message"), BAD, ids=lambda v: str(v)[:40])
def test_a_bad_field_is_named_with_what_was_found(kind: type[Any], record: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        kind.from_dict(record)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("value", [{}, "", 0, False])
@pytest.mark.parametrize(("kind", "name"), [(Question, "evidence"), (Example, "output"), (Answer, "citations")])
def test_an_empty_value_of_a_wrong_type_is_refused(kind: type[Any], name: str, value: Any) -> None:
    """Not taken for an empty list."""
    record = {"id": "1", "question": "?", "prompt": "?", "text": "A", "output": [{"text": "x"}]}
    with pytest.raises(InputError, match=rf"field '{name}' is \w+ .*; expected a list of obj"):
        kind.from_dict({**record, name: value})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["id", "text", "n"]), inner),
    max_leaves=4,
)
NAMES = [
    *("id", "title", "text", "question", "answers", "long_answer", "evidence", "candidates", "instruction", "label"),
    *("answer_sets", "claims", "evidence_sets"),
    *("prompt", "output", "negatives", "answer", "segments", "citations", "retrievals", "finish_reason"),
]


@given(st.sampled_from([Passage, Question, Example, Answer]), st.dictionaries(st.sampled_from(NAMES), JSON))
def test_any_json_object_is_read_or_refused(kind: type[Any], record: dict[str, Any]) -> None:
    """Nothing but `InputError` comes out, whatever stands in the fields."""
    record = {"id": "1", "text": "t", "question": "?", "prompt": "?", **record}
    try:
        found = kind.from_dict(record)
    except InputError:
        return
    assert isinstance(found, kind)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1.5, 10**400])
def test_a_position_is_a_whole_number(number: float) -> None:
    """NaN and infinity stand in JSON files that Python wrote."""
    with pytest.raises(InputError, match=r"field 'position' is \w+ .*; expected a (whole )?number"):
        Answer.from_dict({"id": "q", "text": "A", "retrievals": [{"position": number, "hits": []}]})


def test_a_name_that_is_nearly_that_of_a_missing_field_is_refused() -> None:
    """What it holds would go unseen; names that are like none, and those of gold answers, are others' business."""
    with pytest.raises(InputError, match=r"no field 'citation' is known \(did you mean 'citations'\?\)"):
        Answer.from_dict({"id": "q", "text": "A", "citation": []})
    with pytest.raises(InputError, match=r"no field 'answer' is known \(did you mean 'answers'\?\)"):
        Question.from_dict({"id": "q", "question": "?", "answer": "A"})
    with pytest.raises(InputError, match=r"did you mean 'negatives'"):
        Example.from_dict({"id": "q", "prompt": "?", "output": [{"text": "A"}], "negative": ["p"]})
    Answer.from_dict({"id": "q", "text": "A", "answers": ["A"], "model": "x", "citations": [], "citation": []})


# Errors


def test_errors_say_where_and_carry_an_exit_code() -> None:
    assert str(InputError("no field 'id'", "data/p.jsonl", 3)) == "data/p.jsonl:3: no field 'id'"
    assert str(InputError("empty", "data/p.jsonl")) == "data/p.jsonl: empty"
    assert str(InputError("empty")) == "empty"
    assert [kind.exit_code for kind in (CosupError, UsageError, InputError)] == [1, 2, 2]
    assert issubclass(InputError, UsageError)
    assert issubclass(UsageError, CosupError)


def test_the_nearest_name_is_suggested_only_where_it_is_near() -> None:
    assert did_you_mean("temprature", ["temperature", "similarity"]) == " (did you mean 'temperature'?)"
    assert did_you_mean("zzz", ["temperature"]) == ""
