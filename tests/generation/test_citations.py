"""Text, marks and spans from what was written."""

from __future__ import annotations

import pytest

from cosup.generation.citations import Part, compose
from cosup.records import Hit, Question, Retrieval, RetrievalSegment, TextSegment

ASKED = Question("q", "Who?")


def _claim(text: str, passage: str, score: float = 1.0) -> Part:
    return Part(text, Retrieval(0, (Hit(passage, score), Hit("other", 0.1))))


def test_marks_stand_after_the_claim_and_before_the_full_stop() -> None:
    """The known form: claims, numbers by first citation, spans without mark and stop, the final answer."""
    parts = [
        Part("Well,"),
        _claim(" Ada wrote it.", "a", 0.9),
        Part(""),
        _claim("Bo was born in Elmford", "b", 0.8),
        _claim("Ada again!", "a", 0.7),
        Part(" Elmford"),
    ]
    answer = compose(ASKED, parts, "eos")
    assert answer.text == "Well, Ada wrote it [1]. Bo was born in Elmford [2] Ada again [1]! Elmford"
    assert answer.answer == "Elmford"
    assert [(c.n, c.passage_id, c.claim, c.score) for c in answer.citations] == [
        (1, "a", "Ada wrote it.", 0.9),
        (2, "b", "Bo was born in Elmford", 0.8),
        (1, "a", "Ada again!", 0.7),
    ]
    spans = [answer.text[c.start : c.end] for c in answer.citations]
    assert spans == ["Ada wrote it", "Bo was born in Elmford", "Ada again"]
    assert answer.segments == (
        TextSegment("Well,"),
        RetrievalSegment("a", "Ada wrote it."),
        RetrievalSegment("b", "Bo was born in Elmford"),
        RetrievalSegment("a", "Ada again!"),
        TextSegment("Elmford"),
    )
    assert [r.position for r in answer.retrievals] == [5, 23, 50]


def test_text_goes_on_where_nothing_was_read() -> None:
    """Not a space more or less than was written; the search stands where it was made."""
    none, more = Part("", Retrieval(0, (Hit("a", 0.1),), 0)), [Part("90 ", continues=True), Part(".", continues=True)]
    parts = [_claim("One.", "b"), Part(" Born in 19"), none, more[0], none, more[1]]
    answer = compose(ASKED, parts, "eos")
    assert answer.text == "One [1]. Born in 1990 ."
    assert answer.answer == "Born in 1990 ."
    assert answer.segments == (RetrievalSegment("b", "One."), TextSegment("Born in 1990 ."))
    before = ["", "One [1]. Born in 19", "One [1]. Born in 1990"]
    assert [answer.text[: r.position] for r in answer.retrievals] == before


@pytest.mark.parametrize(
    ("parts", "text", "final"),
    [
        ([Part("Just text.")], "Just text.", "Just text."),
        ([_claim("The last claim.", "a")], "The last claim [1].", "The last claim."),
        ([_claim("", "a"), Part("Answer")], "Answer", "Answer"),
        ([Part("Early."), _claim("Late.", "a")], "Early. Late [1].", "Late."),
        ([_claim("A.", "a"), Part("one"), Part("two")], "A [1]. one two", "one two"),
        ([_claim(".", "a")], ". [1]", "."),
        ([Part("")], "", ""),
    ],
)
def test_the_answer_is_what_follows_the_last_claim(parts: list[Part], text: str, final: str) -> None:
    """Or the last claim where nothing follows, or the whole text where nothing was cited."""
    answer = compose(ASKED, parts, "length")
    assert (answer.text, answer.answer, answer.finish_reason) == (text, final, "length")


def test_a_retrieval_without_a_claim_is_no_citation_but_a_retrieval() -> None:
    """Nothing was said about the passage, so nothing is cited; the search is still on record."""
    answer = compose(ASKED, [_claim("  ", "a"), _claim("B.", "b")], "eos")
    assert [c.passage_id for c in answer.citations] == ["b"]
    assert answer.citations[0].n == 1
    assert [r.hits[0].passage_id for r in answer.retrievals] == ["a", "b"]
