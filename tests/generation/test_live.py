"""What is streamed is the answer's text, mark for mark."""

from __future__ import annotations

import pytest

from cosup.generation.citations import Part, compose
from cosup.generation.events import Event, Finished, Retrieved, TextDelta
from cosup.generation.live import LiveText
from cosup.records import Hit, Question, Retrieval

QUESTION = Question("q", "Who?")


def events_of(parts: list[tuple[str, str | None]], size: int) -> list[Event]:
    """Return the events of an answer whose text comes `size` characters at a time."""
    events: list[Event] = []
    drafts = []
    for text, passage_id in parts:
        hits = None if passage_id is None else (Hit(passage_id, 1.0),)
        drafts.append(Part(text, None if hits is None else Retrieval(0, hits)))
        if hits is not None:
            events.append(Retrieved(hits))
        events += [TextDelta(text[i : i + size], hits is not None) for i in range(0, len(text), size)]
    return [*events, Finished(compose(QUESTION, drafts, "eos"))]


@pytest.mark.parametrize("size", [1, 2, 7, 100])
@pytest.mark.parametrize(
    "parts",
    [
        [("She was born in Rome. ", "a"), (" Rome", None)],
        [("Before: ", None), ("One claim.", "a"), ("Another claim!", "b"), ("The end.", None)],
        [("", "a"), ("x", "b")],
        [("Version 2.5 came. It went.", "a"), (" ", None), ("And again.", "a")],
        [("No citation at all.", None)],
        [("...", "a")],
    ],
)
def test_the_joined_pieces_are_the_text(parts: list[tuple[str, str | None]], size: int) -> None:
    live = LiveText(QUESTION)
    pieces = [live.add(event) for event in events_of(parts, size)]
    assert live.answer is not None
    assert "".join(pieces) == live.answer.text


def test_text_that_goes_on_after_an_abstention_is_joined_to_what_was_there() -> None:
    live, hits = LiveText(QUESTION), (Hit("a", 0.1),)
    events = [TextDelta("Born in 19", False), Retrieved(hits, 0), TextDelta("90.", False, continues=True)]
    assert "".join(live.add(event) for event in events) == "Born in 1990."


def test_text_comes_before_the_end() -> None:
    live = LiveText(QUESTION)
    pieces = [live.add(event) for event in events_of([("One claim.", "a"), ("The end.", None)], 3)]
    assert "".join(pieces[:4]) == "One claim"
    assert "".join(pieces[:6]).startswith("One claim [1]. The")


def test_a_text_that_turns_out_different_is_shown_whole() -> None:
    """A character that was cut in two may leave the answer other than what was shown."""
    live = LiveText(QUESTION)
    live.add(TextDelta("caf", False))
    answer = compose(QUESTION, [Part("tea")], "eos")
    assert live.add(Finished(answer)) == "\ntea"
