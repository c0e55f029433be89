"""Where answers are cut and what is marked in passages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosup.evaluation.excerpts import Mark, Run, cut, passage_marks, utf16_offset, window
from cosup.records import Citation


def citation(n: int, start: int, end: int) -> Citation:
    return Citation(n, f"p{n}", "claim", start, end, 1.0)


def test_an_answer_is_cut_at_its_claims_and_marks() -> None:
    runs = cut("Oslo [1]. So [9]", [citation(1, 0, 4)])
    assert runs == [Run("Oslo", (0,)), Run(" "), Run("[1]", (), 1), Run(". So [9]")]


def test_claims_may_overlap_and_hold_marks() -> None:
    runs = cut("abcd[2]", [citation(1, 0, 3), citation(2, 2, 7)])
    assert runs == [Run("ab", (0,)), Run("c", (0, 1)), Run("d", (1,)), Run("[2]", (1,), 2)]


@pytest.mark.parametrize(("start", "end"), [(-5, 2), (0, 99), (3, 3), (4, 1), (50, 60), (-9, -3)])
def test_offsets_outside_the_text_are_limited_to_it(start: int, end: int) -> None:
    runs = cut("abcde", [citation(1, start, end)])
    cited = "".join(run.text for run in runs if run.citations)
    assert cited == "abcde"[max(0, start) : max(0, end)]


def test_an_empty_text_has_no_runs() -> None:
    assert cut("", [citation(1, 0, 4)]) == []


@given(
    st.text("ab[1]2 ", max_size=30),
    st.lists(st.tuples(st.integers(1, 3), st.integers(-5, 40), st.integers(-5, 40)), max_size=6),
)
def test_runs_joined_are_the_text(text: str, spans: list[tuple[int, int, int]]) -> None:
    runs = cut(text, [citation(*span) for span in spans])
    assert "".join(run.text for run in runs) == text
    assert all(run.text for run in runs)


PASSAGE = "Ada was born in Oslo. She wrote  The Sea.\nShe died in Rome."


def marked(gold: list[str], claims: list[str]) -> list[tuple[str, str]]:
    return [(PASSAGE[m.start : m.end], m.kind) for m in passage_marks(PASSAGE, gold, claims)]


def test_gold_sentences_are_found_white_space_aside() -> None:
    assert marked(["She wrote The Sea.", "Not there."], []) == [("She wrote  The Sea.", "gold")]


def test_a_claim_is_marked_where_it_stands_and_else_its_nearest_sentence() -> None:
    assert marked([], ["born in Oslo"]) == [("born in Oslo", "claim")]
    assert marked([], ["Her death was in Rome"]) == [("She died in Rome.", "near")]  # F1 of 2 / (5 + 4): 0.44
    assert marked([], ["Nothing of it"]) == []


def test_where_gold_sentences_stand_no_nearest_sentence_is_guessed() -> None:
    assert marked(["She died in Rome."], ["Born she was in Oslo"]) == [("She died in Rome.", "gold")]


def test_overlapping_marks_are_cut_and_gold_wins() -> None:
    claim, gold = "Ada was born in Oslo. She wrote The Sea.", "She wrote The Sea."
    assert marked([gold], [claim]) == [("Ada was born in Oslo. ", "claim"), ("She wrote  The Sea.", "gold")]


def test_marks_that_touch_and_are_of_one_kind_are_one() -> None:
    assert passage_marks("abcd", [], ["ab", "cd"]) == [Mark(0, 4, "claim")]


@given(st.lists(st.text("Ada bor.", min_size=1, max_size=12), max_size=5))
def test_marks_are_in_order_and_apart(claims: list[str]) -> None:
    marks = passage_marks(PASSAGE, claims[:2], claims)
    ends = [end for mark in marks for end in (mark.start, mark.end)]
    assert ends == sorted(ends)
    assert all(0 <= mark.start < mark.end <= len(PASSAGE) for mark in marks)


@pytest.mark.parametrize(
    ("length", "first", "expected"),
    [(10, 9, (0, 10)), (100, None, (0, 40)), (100, 5, (0, 40)), (100, 50, (40, 80)), (100, 95, (60, 100))],
)
def test_the_part_that_is_kept_holds_the_first_mark(length: int, first: int | None, expected: tuple[int, int]) -> None:
    assert window(length, first, most=40) == expected


def test_offsets_for_browsers_count_wide_characters_twice() -> None:
    assert [utf16_offset("a𝔸b", offset) for offset in range(4)] == [0, 1, 3, 4]
