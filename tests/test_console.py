"""What the terminal shows: citations where they belong, foreign text as text, progress that is quiet off a terminal."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from cosup.console import Meter, cited_text, draw_answer, draw_table, duration, progress, safe_text, supported_text
from cosup.records import Answer, Citation, Passage

LANTERN = Passage("w1", "The Lost Lantern", "The Lost Lantern came out in 1870. It was written by Anna Berg.")
ANNA = Passage("p1", "Anna Berg", "Anna Berg was born in Amber Falls. She played the cello.")
ANSWER = Answer(
    id="q1",
    question="Where was the author of The Lost Lantern born?",
    text="It was written by Anna Berg [1]. Anna Berg was born in Amber Falls [2]. Amber Falls",
    answer="Amber Falls",
    citations=(
        Citation(1, "w1", "It was written by Anna Berg.", 0, 27, 0.91),
        Citation(2, "p1", "Anna Berg was born in Amber Falls.", 33, 66, 0.87),
    ),
)


def make_console(terminal: bool = False, width: int = 100) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    colour = {"color_system": "truecolor"} if terminal else {}
    return Console(file=file, width=width, force_terminal=terminal, no_color=False, **colour), file


def drawn(answer: Answer, passages: list[Passage], terminal: bool = False) -> str:
    console, file = make_console(terminal)
    draw_answer(console, answer, {p.id: p for p in passages})
    return file.getvalue()


def test_an_answer_is_drawn_with_its_numbered_passages_and_scores() -> None:
    lines = [line.strip() for line in drawn(ANSWER, [ANNA, LANTERN]).splitlines()]
    assert lines[:2] == [ANSWER.question, ANSWER.text]
    assert lines[2:6] == ["[1] The Lost Lantern  w1  0.910", LANTERN.text, "[2] Anna Berg  p1  0.870", ANNA.text]


def test_claims_are_underlined_marks_and_the_answer_bold() -> None:
    spans = [(ANSWER.text[s.start : s.end], str(s.style)) for s in cited_text(ANSWER).spans]
    assert spans == [
        ("It was written by Anna Berg", "underline cyan"),
        (" [1]", "bold cyan"),
        ("Anna Berg was born in Amber Falls", "underline green"),
        (" [2]", "bold green"),
        ("Amber Falls", "bold"),
    ]


def test_the_supporting_sentence_is_set_off() -> None:
    exact = supported_text(LANTERN, ["It was  written\nby Anna Berg."], "cyan")
    near = supported_text(LANTERN, ["It was written by Anna Bergen."], "cyan")
    for text in (exact, near):
        assert [LANTERN.text[s.start : s.end] for s in text.spans] == ["It was written by Anna Berg."]
    assert supported_text(LANTERN, ["Nothing of the kind stands here.", ""], "cyan").spans == []


def test_two_claims_of_one_passage_share_its_heading() -> None:
    twice = tuple(Citation(1, "w1", claim, 0, 5, 0.5) for claim in ("It was", "The Lost"))
    assert drawn(Answer("q", "?", "It was", "", citations=twice), [LANTERN]).count("[1] The Lost Lantern") == 1


def test_a_long_passage_is_cut_around_its_support() -> None:
    long = Passage("l", "Long", "Filler here. " * 200 + "The key is here. " + "More filler. " * 200)
    text = supported_text(long, ["The key is here."], "cyan").plain
    assert "The key is here." in text
    assert len(text) < 720
    assert text[0] == text[-1] == "…"


def test_a_missing_passage_is_named_as_missing() -> None:
    assert "(this passage is not at hand)  p1" in drawn(ANSWER, [LANTERN])


@pytest.mark.parametrize("evil", ["\x1b[2J\x1b]0;title\x07", "\x9b31m", "\u202egnp.exe", "\ud800", "a\rb", "\x7f\x00"])
def test_control_characters_never_reach_the_terminal(evil: str) -> None:
    passage = Passage("e", f"T{evil}", f"Body {evil} end.")
    claim = f"Body {evil} end."
    answer = Answer("q", f"Q{evil}", claim, "", citations=(Citation(1, "e", claim, 0, len(claim), 0.0),))
    out = drawn(answer, [passage])
    assert not set(out) & set("\x1b\x07\x9b\u202e\ud800\r\x7f\x00")
    out.encode("utf-8")
    assert len(safe_text(evil)) == len(evil)


def test_rich_markup_in_text_is_text() -> None:
    evil = "[bold red]x[/bold red] [/] [link=http://a]y[/link] :smile:"
    passage = Passage("e", evil, evil)
    answer = Answer("q", evil, evil, "", citations=(Citation(1, "e", "x", 0, 1, 0.0),))
    assert drawn(answer, [passage]).count(evil) == 4
    console, file = make_console()
    draw_table(console, [["measure", evil], [evil, "1.0"]], title=evil)
    assert file.getvalue().count("[bold red]x[/bold red]") >= 2


def test_a_table_shows_every_cell() -> None:
    console, file = make_console()
    draw_table(console, [["measure", "all"], ["recall@1", "97.5"], ["exact_match", "8.0"]], title="Results")
    for cell in ("Results", "measure", "all", "recall@1", "97.5", "exact_match", " 8.0"):
        assert cell in file.getvalue()


def test_a_table_that_is_too_wide_is_told_in_lines() -> None:
    """No figure is cut, whatever the terminal's width; one that fits is drawn."""
    rows = [["measure", "co-supervised", "separate"], ["citation_precision", "78.1", "33.3"], ["f1", "8.0", "9.5"]]
    console, file = make_console(width=30)
    draw_table(console, rows, title="Results")
    assert file.getvalue().splitlines() == [
        "Results",
        "citation_precision",
        "  co-supervised: 78.1",
        "  separate: 33.3",
        "f1",
        "  co-supervised: 8.0",
        "  separate: 9.5",
    ]
    console, file = make_console(width=60)
    draw_table(console, rows)
    assert "citation_precision │" in file.getvalue()


def test_a_terminal_gets_a_bar_with_rate_and_time_left() -> None:
    console, file = make_console(terminal=True)
    now = iter(float(second) for second in range(1000))
    with progress("training", 10, console=console, clock=lambda: next(now)) as meter:
        meter.update(5, "loss 0.5")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
    assert re.search(r"training .* 5/10 +\d\.\d steps/s, 0:\d\d left loss 0.5", plain)


def test_without_a_terminal_there_is_a_line_every_ten_seconds_and_one_at_the_end() -> None:
    console, file = make_console()
    now = [0.0]
    with progress("indexing", 100, "passages", console=console, clock=lambda: now[0]) as meter:
        for _ in range(100):
            now[0] += 0.25
            meter.advance()
    assert file.getvalue().splitlines() == [
        "indexing: 40/100 passages, 4.0 passages/s, 0:15 left",
        "indexing: 80/100 passages, 4.0 passages/s, 0:05 left",
        "indexing: 100/100 passages, 4.0 passages/s, 0:00 left",
    ]


def test_work_done_before_does_not_count_towards_the_rate() -> None:
    now = [0.0]
    meter = Meter("x", 100, "steps", lambda m: None, lambda: now[0], first=50)
    assert meter.speed == ""
    now[0] = 10.0
    meter.advance(10)
    assert meter.line == "x: 60/100 steps, 1.0 steps/s, 0:40 left"


def test_what_takes_long_is_told_by_its_seconds() -> None:
    now = [0.0]
    meter = Meter("x", 10, "steps", lambda m: None, lambda: now[0])
    now[0] = 45.0
    meter.advance(2)
    assert meter.speed == "22.5 s each, 3:00 left"


def test_durations_are_written_as_clocks_write_them() -> None:
    assert [duration(s) for s in (0, 59.6, 61, 3661)] == ["0:00", "1:00", "1:01", "1:01:01"]
