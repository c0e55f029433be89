"""Sentences are exact substrings in order, and only real ends split."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import cosup.data.sentences
from cosup.data.sentences import sentence_spans, sentences

# Made of what decides: full stops, closers, gaps, abbreviations and words.
STOPS = (". ", "! ", "? ", "... ", "。", "\n\n", "\n", " ", '." ', ".) ", ". '' ", ".[12] ", "\t", "\u2028")
WORDS = ("Dr", "J", "U.S", "e.g", "No", "word", "Word", "The", "12", "1", "3.5", "(", '"', "“", "”", "—", "日本")
TEXTS = st.one_of(st.text(), st.lists(st.sampled_from(STOPS + WORDS)).map("".join))


@given(TEXTS)
@example("")
@example(" . . ")
def test_nothing_but_white_space_is_lost(text: str) -> None:
    """The spans are in order, do not overlap, have no outer white space, and leave only white space between them."""
    end = 0
    for start, stop in sentence_spans(text):
        assert text[end:start].strip() == ""
        assert text[start:stop].strip() == text[start:stop] != ""
        end = stop
    assert text[end:].strip() == ""
    assert sentences(text) == [text[start:stop] for start, stop in sentence_spans(text)]


@pytest.mark.parametrize(
    "text",
    [
        "Dr. Smith met Mrs. Jones at St. Mary's.",
        "J. R. R. Tolkien wrote it.",
        "It costs 3.50 in the U.S. Army, i.e. Nothing.",
        "See Fig. 3 and No. 5 on p. 12.",
        "Warner Bros. Pictures made it with Acme Inc. Partners.",
        "He was born on Jan. 5 at 5 p.m. Eastern time.",
        "Sture (b. 1517, d. 1567) was a count.",
        "He reigned from c. 1200 on.",
        "version v1.2.3 of foo.bar works",
        "1. Install the package.",
        "He asked “why?” and left.",
        "She said etc. and so on ... and stopped.",
        "a non-issue . . . a diversion.",
        "The rate (approx. Five) stays.",
        "( i.e. , blood sugar ) counts.",
    ],
)
def test_one_sentence_stays_whole(text: str) -> None:
    assert sentences(text) == [text]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("It ended.", "Then more."),
        ("It was 1999.", "2000 came next."),
        ("He lived in the U.S.", "The end came."),
        ("He works for Acme Inc.", "He likes it."),
        ("Take vitamin C.", "It helps."),
        ("Solve for x.", "Next, y."),
        ("“Go!”", "“No.”"),
        ("He left (at noon.)", "She stayed."),
        ("Cited.[12]", "Again."),
        ("Really?!", "Yes."),
        ("Wait…", "What?"),
        ("Tokenised `` text . ''", "Next one ."),
        ("Is it? No.", "It is not."),
        ("今日は。", "明日は。"),
        ("A heading without a stop", "\nA paragraph."),
        ("Émile came.", "Était-ce vrai?"),
    ],
)
def test_two_sentences_split(first: str, second: str) -> None:
    separator = "" if first.endswith("。") else "\n" if second.startswith("\n") else " "
    found = sentences(first + separator + second)
    assert found[-1] == second.strip()
    assert "".join(found).replace(" ", "") == (first + second.strip()).replace(" ", "")


def test_list_numbers_do_not_split() -> None:
    assert sentences("1. Install it\n2. Run it.\n\nDone in 1999. Good.") == [
        "1. Install it\n2. Run it.",
        "Done in 1999.",
        "Good.",
    ]


def test_long_text_without_ends_takes_linear_time() -> None:
    """A hostile megabyte is split at once: no regular expression backtracks over it."""
    for unit in (". ", " ", "\n ", "a.", "''", ".'' ", "[1]", ".\t"):
        text = unit * (1_000_000 // len(unit))
        assert "".join("".join(sentences(text)).split()) == "".join(text.split())


def test_docstring_example_runs() -> None:
    assert doctest.testmod(cosup.data.sentences) == (0, 1)
