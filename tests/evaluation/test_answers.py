"""Answer measures, against values worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosup.evaluation.answers import (
    ANSWER_METRICS,
    answer_scores,
    contains,
    contains_raw,
    exact_match,
    normalise,
    token_f1,
    without_marks,
)
from cosup.records import Answer, Question

words = st.text(alphabet="aAbtheEno .,[1]?é北", max_size=30)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Cat's  whiskers!", "cats whiskers"),
        ("An apple, a day", "apple day"),
        ("Theatre and Anatomy", "theatre and anatomy"),
        ("twenty-one", "twentyone"),
        ("3.14", "314"),
        ("$1,000", "1000"),
        ("BEYONCÉ\tKnowles\u00a0", "beyoncé knowles"),
        ("1920–1930", "1920–1930"),
        ("东京", "东京"),
        ("the", ""),
        ("?!", ""),
        ("", ""),
    ],
)
def test_normalise_is_squads(text: str, expected: str) -> None:
    assert normalise(text) == expected


@pytest.mark.parametrize(
    ("prediction", "gold", "exact", "f1"),
    [
        ("The Eiffel Tower.", "eiffel tower", True, 1.0),
        ("tower in Paris", "Eiffel Tower", False, 2 / 5),  # 1 token in common of 3 and 2
        ("red red blue", "red blue blue", False, 4 / 6),  # repeats are counted: red once, blue once
        ("Beyoncé", "BEYONCÉ", True, 1.0),
        ("Beyonce", "Beyoncé", False, 0.0),
        ("1,000", "1000", True, 1.0),
        ("1000.5", "1000", False, 0.0),
        ("", "Paris", False, 0.0),
        ("...", "Paris", False, 0.0),
        ("the", "Paris", False, 0.0),
        ("Paris", "", False, 0.0),
        ("", "", False, 0.0),
    ],
)
def test_exact_match_and_f1_by_hand(prediction: str, gold: str, exact: bool, f1: float) -> None:
    assert exact_match(prediction, gold) is exact
    assert token_f1(prediction, gold) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("prediction", "gold", "exact", "f1"),
    [
        ("", "The", False, 0.0),  # plain SQuAD would call these two equal: both normalise to nothing
        ("?", "!", False, 0.0),
        ("a", "The", False, 0.0),
        ("A.", "a", True, 1.0),
        ("type A", "A", False, 2 / 3),  # the article stays on both sides
        ("?", "?", True, 1.0),
    ],
)
def test_gold_that_normalises_to_nothing_is_compared_with_less_taken_away(
    prediction: str, gold: str, exact: bool, f1: float
) -> None:
    assert exact_match(prediction, gold) is exact
    assert token_f1(prediction, gold) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("text", "gold", "whole", "raw"),
    [
        ("Go north.", "no", False, True),
        ("No, go on.", "no", True, True),
        ("She lived in New York City.", "the New York", True, True),
        ("New and York", "New York", False, False),
        ("in 1920s", "1920", False, True),
        ("首都是北京市", "北京", False, True),
        ("blood type A", "A", True, True),
        ("all is well", "A", False, True),
        ("", "x", False, False),
        ("anything", "", False, False),
        ("anything", "  ", False, False),
    ],
)
def test_contains_whole_tokens_and_raw(text: str, gold: str, whole: bool, raw: bool) -> None:
    assert contains(text, gold) is whole
    assert contains_raw(text, gold) is raw


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Born in Oslo [1]. Lived in Rome[2].", "Born in Oslo. Lived in Rome."),
        ("Oslo[1][12], Norway", "Oslo, Norway"),
        ("Oslo [1]Rome", "Oslo Rome"),
        ("Oslo [1] Rome", "Oslo Rome"),
        ("In Oslo [1].Rome", "In Oslo. Rome"),
        ("In Oslo [1]?[2]Rome", "In Oslo? Rome"),
        ("[a] [1b] no mark", "[a] [1b] no mark"),
    ],
)
def test_marks_are_removed(text: str, expected: str) -> None:
    assert without_marks(text) == expected


def test_scores_take_the_best_alias_and_the_share_of_wanted_answers() -> None:
    """`answer` decides EM and F1, `text` the rest; a mark between two words of the answer does not hide it."""
    question = Question("q", "Where?", answers=("Rome", "New York", "Oslo", "  "))
    answer = Answer("q", "", text="She was in New [1] York, then in Oslo [2].", answer="in Oslo")
    assert answer_scores(answer, question) == {
        "exact_match": 0.0,
        "f1": pytest.approx(2 / 3),
        "contains_answer": 1.0,
        "contains_answer_raw": 1.0,
        "answer_correct": 1.0,
        "answers_found": pytest.approx(2 / 3),
    }


@pytest.mark.parametrize(
    ("text", "final", "gold", "correct"),
    [
        ("There is no sea. Yes", "Yes", "no", 0.0),  # the text has the word, and the answer is the other
        ("There is a sea. No.", "No.", "no", 1.0),
        ("She came from Oslo.", "from Oslo", "Oslo", 1.0),
        ("She came from there.", "from there", "Oslo", 0.0),
    ],
)
def test_yes_and_no_must_be_the_answer(text: str, final: str, gold: str, correct: float) -> None:
    scores = answer_scores(Answer("q", "", text=text, answer=final), Question("q", "?", answers=(gold,)))
    assert scores["answer_correct"] == correct


def test_final_answer_is_scored_without_marks() -> None:
    """Files of other systems have no `answer`: it is then the whole text, marks included."""
    prediction = Answer.from_dict({"id": "q", "text": "Paris [1]."})
    assert answer_scores(prediction, Question("q", "?", answers=("Paris",)))["exact_match"] == 1.0


@pytest.mark.parametrize("answers", [(), ("",), (" ", "\u00a0")])
def test_question_without_answers_is_not_scored(answers: tuple[str, ...]) -> None:
    question = Question("q", "Why?", answers=answers, long_answer="Because.")
    assert answer_scores(Answer("q", "", "Because.", "Because."), question) == {}


@given(text=words, final=words, golds=st.lists(words, min_size=1, max_size=4))
def test_scores_are_bounded_and_ordered(text: str, final: str, golds: list[str]) -> None:
    """Every score lies in 0..1; whole tokens imply the raw substring; an exact match implies F1 1."""
    scores = answer_scores(Answer("q", "", text, final), Question("q", "?", answers=tuple(golds)))
    assert set(scores) in (set(), set(ANSWER_METRICS))
    assert all(0 <= value <= 1 for value in scores.values())
    if scores:
        assert scores["answers_found"] <= scores["contains_answer"] <= scores["contains_answer_raw"]
        assert scores["exact_match"] <= scores["f1"]


@given(gold=words.filter(str.strip))
def test_an_answer_always_equals_and_contains_itself(gold: str) -> None:
    assert exact_match(gold, gold)
    assert token_f1(gold, gold) == 1
    assert contains(gold, gold)


@given(st.text(max_size=50))
def test_normalise_ends_in_its_own_normal_form_of_spaces(text: str) -> None:
    assert normalise(text) == " ".join(normalise(text).split())
