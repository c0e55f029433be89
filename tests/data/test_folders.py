"""A folder of Markdown and text becomes passages that keep their words, their headings and their code."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosup.data.folders import chunk_folder
from cosup.data.reading import read_passages
from cosup.errors import InputError, UsageError
from cosup.records import Passage

GUIDE = """---
title: "The Guide"
tags: [secret]
---
Before any heading.

# Start *here* {#start}

## Install `cosup`
1. Get it.
2. Run it.

~~~python
# not a heading

x = 1
~~~

Usage
-----
See [the docs](http://x/y).

### Deep ###
Deep text.

# Other
Last text.
"""


def _chunks(folder: Path, text: str, name: str = "a.md", words: int = 150) -> list[tuple[str, str]]:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return [(p.title, p.text) for p in chunk_folder(folder / name, words)]


def test_headings_become_the_title_trail(tmp_path: Path) -> None:
    """Front matter is dropped but for its title; code fences stay text; deeper trails end where they should."""
    assert _chunks(tmp_path, GUIDE) == [
        ("The Guide", "Before any heading."),
        (
            "The Guide > Start here > Install cosup",
            "1. Get it.\n2. Run it.\n\n~~~python\n# not a heading\n\nx = 1\n~~~",
        ),
        ("The Guide > Start here > Usage", "See [the docs](http://x/y)."),
        ("The Guide > Start here > Usage > Deep", "Deep text."),
        ("The Guide > Other", "Last text."),
    ]


@pytest.mark.parametrize(
    ("text", "chunks"),
    [
        ("Only text.", [("a", "Only text.")]),
        ("Guide\n=====\ntext", [("Guide", "text")]),
        ("#no heading\n\n#\ttab\nx", [("a", "#no heading"), ("tab", "x")]),
        ("---\ntitle: T\n---\n# T\nx", [("T", "x")]),
        ("+++\ntitle = 'T'\n+++\nx", [("T", "x")]),
        ("---\n\nNot front matter.\n\n---\n\nMore.", [("a", "Not front matter.\n\nMore.")]),
        ("---\ntitle: never closed\n", [("a", "---\ntitle: never closed")]),
        ("---\n---\nx", [("a", "x")]),
        ("# A\n```\n# open fence\n\nto the end", [("A", "```\n# open fence\n\nto the end")]),
        ("# A\n````\n```\n# in\n````\n# B\nx", [("A", "````\n```\n# in\n````"), ("B", "x")]),
        (
            "- item\n\n      ```sh\n# in\n      ```\n# B\nx",
            [("a", "- item\n\n      ```sh\n# in\n      ```"), ("B", "x")],
        ),
        ("`` `x` ``\n```inline``` code\n# B\nx", [("a", "`` `x` ``\n```inline``` code"), ("B", "x")]),
        ("# A\n```\n```\n# B\nx", [("B", "x")]),
        ("# A\n## B\n# C\nx", [("C", "x")]),
        ("### A\n# B\n## C\nx\n# snake_case_name\ny", [("B > C", "x"), ("snake_case_name", "y")]),
        ("# A\r\n\r\nx\r\ny\r\n", [("A", "x\ny")]),
        ("\ufeff# A\nx", [("A", "x")]),
    ],
)
def test_markdown(text: str, chunks: list[tuple[str, str]], tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes(text.encode())
    assert [(p.title, p.text) for p in chunk_folder(tmp_path)] == chunks


@pytest.mark.parametrize(
    "line", ["# a" + " " * 100_000 + "x", "# " + "[" * 100_000 + "x", "[" * 100_000 + "x\n==="], ids=lambda v: v[:3]
)
def test_a_gigantic_heading_is_a_paragraph_and_takes_no_time(line: str, tmp_path: Path) -> None:
    """Read as a heading, each of these would take minutes."""
    (tmp_path / "a.md").write_text(line + "\n\nThe end.\n", encoding="utf-8")
    start = time.monotonic()
    passages = chunk_folder(tmp_path)
    assert time.monotonic() - start < 5
    assert {p.title for p in passages} == {"a"}
    assert "The end." in passages[-1].text


def test_plain_text_has_no_headings(tmp_path: Path) -> None:
    assert _chunks(tmp_path, "# A\nx\n\n```\ny", "notes.txt") == [("notes", "# A\nx\n\n```\ny")]


def test_chunks_end_between_paragraphs_then_sentences_then_words(tmp_path: Path) -> None:
    text = "One two. Three four.\n\nFive six.\n\nSeven eight nine. Ten. Eleven twelve 13 14 15 16 17."
    assert [text for _, text in _chunks(tmp_path, text, words=4)] == [
        "One two. Three four.",
        "Five six.",
        "Seven eight nine. Ten.",
        "Eleven twelve 13 14",
        "15 16 17.",
    ]


def test_a_code_fence_is_never_cut(tmp_path: Path) -> None:
    fence = "```\n" + "a b c\n\n" * 50 + "```"
    assert [text for _, text in _chunks(tmp_path, f"Before it.\n\n{fence}\n\nAfter it.", words=5)] == [
        "Before it.",
        fence,
        "After it.",
    ]


def test_text_without_spaces_is_cut_too(tmp_path: Path) -> None:
    """Ideographs count as words, and an endless word counts as many."""
    assert [len(text) for _, text in _chunks(tmp_path, "漢" * 25, words=10)] == [10, 10, 5]
    assert [len(text) for _, text in _chunks(tmp_path, "x" * 1000, words=10)] == [400, 400, 200]


WORDS = st.lists(st.sampled_from(["word", "Word.", "It.", "# ", "\n", "\n\n", "```", "---", "- ", "漢字。", "x" * 90]))


@given(WORDS, st.integers(1, 7), st.sampled_from(["a.md", "a.txt"]))
def test_no_word_is_lost_and_no_chunk_too_long(
    tmp_path_factory: pytest.TempPathFactory, words: list[str], limit: int, name: str
) -> None:
    """Everything but headings (and rules) comes through in order; chunks without a fence keep to the limit."""
    folder = tmp_path_factory.mktemp("chunk")
    body = "Begin. " + " ".join(w for w in words if name == "a.txt" or w not in ("# ", "---", "```")) + "\nend."
    chunks = [text for _, text in _chunks(folder, body, name, limit)]
    letters = "".join(c for c in body if c.isalnum())
    assert "".join(c for chunk in chunks for c in chunk if c.isalnum()) == letters
    assert all(len(chunk.split()) <= limit and chunk.strip() for chunk in chunks)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_can_be_read(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("any")
    for passage in [*_passages(folder, "Seen.\n\n" + text, "a.md"), *_passages(folder, "Seen.\n\n" + text, "a.txt")]:
        assert Passage.from_dict(passage.to_dict()) == passage


def _passages(folder: Path, text: str, name: str) -> list[Passage]:
    (folder / name).write_bytes(text.encode())
    return chunk_folder(folder / name)


def test_a_tree_is_read_in_order_without_hidden_files_and_loops(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("b.md", "a/z.txt", "a/Y.MARKDOWN", ".hidden.md", ".git/c.md", "image.png", "empty.md", "bare.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("" if name == "empty.md" else "# Head\n" if name == "bare.md" else "text")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "self.md").symlink_to(tmp_path / "self.md")
    (tmp_path / "dangling.md").symlink_to(tmp_path / "gone.md")
    (tmp_path / "folder.md").mkdir()
    with caplog.at_level(logging.WARNING):
        passages = chunk_folder(tmp_path)
    assert [(p.id, p.title) for p in passages] == [("a/Y.MARKDOWN#1", "Y"), ("a/z.txt#1", "z"), ("b.md#1", "b")]
    assert [r.getMessage() for r in caplog.records] == [
        f"{tmp_path}/{name}: no text in it; skipped" for name in ("bare.md", "empty.md")
    ]
    assert passages == chunk_folder(tmp_path) == read_passages(tmp_path)


def test_one_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# A\nx")
    assert read_passages(tmp_path / "a.md") == [Passage("a.md#1", "A", "x")]


def test_nothing_to_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.pdf").touch()
    (tmp_path / "empty.md").write_text(" \n---\n")
    with pytest.raises(InputError, match=r"found no Markdown or text file with text in it; expected \.md"):
        chunk_folder(tmp_path)
    with pytest.raises(InputError, match="no such file or folder"):
        chunk_folder(tmp_path / "none")
    with pytest.raises(UsageError, match="words_per_chunk is 0"):
        chunk_folder(tmp_path, 0)


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "good.md").write_text("x")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "old.txt").write_bytes(b"first\ncaf\xe9\n")
    with pytest.raises(InputError, match=r"sub/old.txt:2: found byte 0xe9 at byte 4 of the line; expected UTF-8"):
        chunk_folder(tmp_path)


def test_a_file_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    """Its passages' ids could not be written."""
    with open(os.fsencode(tmp_path) + b"/caf\xe9.md", "wb") as stream:  # noqa: PTH123
        stream.write(b"x")
    with pytest.raises(InputError, match="the file's name is not UTF-8"):
        chunk_folder(tmp_path)
