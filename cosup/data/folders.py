"""Passages from a folder of Markdown and plain text files."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cosup.data.jsonl import read_text
from cosup.data.paths import looked_up
from cosup.data.sentences import sentence_spans
from cosup.errors import InputError, UsageError
from cosup.records import Passage

logger = logging.getLogger(__name__)

MARKDOWN_SUFFIXES = frozenset({".md", ".markdown"})
TEXT_SUFFIXES = MARKDOWN_SUFFIXES | {".txt"}

_FRONT_MATTER = re.compile(r"\A(---|\+\+\+)[^\S\n]*\n(?:(.*?)\n)??(?:\1|\.\.\.)[^\S\n]*(?:\n|\Z)", re.DOTALL)
_FRONT_TITLE = re.compile(
    r"^title[^\S\n]*[:=][^\S\n]*(?P<quote>[\"']?)(?P<title>[^\n]*?)(?P=quote)[^\S\n]*$", re.MULTILINE
)
_KEY = re.compile(r"\s*[\w\"'][^\n:=]*[:=]")
_FENCE = re.compile(r"\s*(?P<mark>`{3,}|~{3,})(?P<info>[^\n]*)")
_HEADING = re.compile(r" {0,3}(?P<marks>#{1,6})(?:[^\S\n]+(?P<text>.*?))?(?:[^\S\n]+#+)?[^\S\n]*$")
_UNDERLINE = re.compile(r" {0,3}(?:=+|-{2,})[^\S\n]*$")
_LINK = re.compile(r"!?\[(?P<text>[^\]]*)\]\([^)]*\)")
_LONGEST_HEADING = 1000  # characters; a longer line is a paragraph
_ANCHOR = re.compile(r"\s*\{#[^}]*\}\s*$")
# What counts as a word: an ideograph or kana, or anything between white space, cut where it is endless.
_WORD = re.compile(r"[぀-ヿ㐀-鿿]|[^\s぀-ヿ㐀-鿿]{1,40}")


@dataclass(frozen=True, slots=True)
class _Block:
    """A paragraph or a code fence, with the headings it stands under."""

    trail: tuple[str, ...]
    text: str
    whole: bool = False  # never cut: a code fence


def chunk_folder(path: str | Path, words_per_chunk: int = 150) -> list[Passage]:
    """Cut the Markdown and text files of a folder (or one such file) into passages.

    Files (`.md`, `.markdown`, `.txt`) are taken in sorted order, in subfolders too; hidden files and folders and links
    to folders are left out. A chunk never crosses a heading; within a section it ends between paragraphs, in a long
    paragraph between sentences, and between words only where one sentence is longer than a chunk. A code fence is
    never cut, so a chunk may be longer.

    Args:
        path: the folder, or one file.
        words_per_chunk: the most words in a passage, above 0.

    Returns:
        Passages with ids `relative/path.md#1` and as title the trail of headings, `Guide > Install`; without headings
        the title in the front matter, else the file's name without its ending.

    Raises:
        InputError: nothing to read there, or a file is not UTF-8.
        UsageError: `words_per_chunk` is below 1.
    """
    if words_per_chunk < 1:
        raise UsageError(f"words_per_chunk is {words_per_chunk}; expected 1 or more")
    root = looked_up(path)
    passages: list[Passage] = []
    for name, file in _files(root):
        chunks = list(_chunk_file(file, words_per_chunk))
        if not chunks:
            logger.warning("%s: no text in it; skipped", file)
        for number, (title, text) in enumerate(chunks, start=1):
            passages.append(Passage(f"{name}#{number}", title, text))
    if not passages:
        raise InputError("found no Markdown or text file with text in it; expected .md, .markdown or .txt files", root)
    return passages


def _files(root: Path) -> list[tuple[str, Path]]:
    """Return `(relative name, path)` of the files to read, sorted by name."""
    if root.is_file():
        return [(_checked_name(root.name, root), root)]
    if not root.is_dir():
        raise InputError("no such file or folder; expected a folder of Markdown or text files", root)
    found = []
    for folder, subfolders, names in os.walk(root, onerror=_refuse):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        files = (Path(folder, name) for name in names if not name.startswith("."))
        found += [file for file in files if file.suffix.lower() in TEXT_SUFFIXES and file.is_file()]
    return sorted((_checked_name(file.relative_to(root).as_posix(), file), file) for file in found)


def _refuse(error: OSError) -> None:
    raise InputError(f"cannot be read: {error.strerror or error}", error.filename) from error


def _checked_name(name: str, file: Path) -> str:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError("the file's name is not UTF-8; rename it", ascii(str(file))) from None
    return name


def _chunk_file(file: Path, words_per_chunk: int) -> Iterator[tuple[str, str]]:
    text = read_text(file).replace("\r\n", "\n").replace("\r", "\n")
    if file.suffix.lower() in MARKDOWN_SUFFIXES:
        title, text = _split_front_matter(text)
        blocks = _markdown_blocks(text.split("\n"))
    else:
        title, blocks = "", (_Block((), paragraph) for paragraph in re.split(r"\n[^\S\n]*\n", text))
    yield from _chunks(blocks, title, file.stem, words_per_chunk)


def _split_front_matter(text: str) -> tuple[str, str]:
    """Return the title in a document's front matter (empty without one) and the text after it."""
    match = _FRONT_MATTER.match(text)
    if not match or not _KEY.match(match[2] or "a:"):
        return "", text
    title = _FRONT_TITLE.search(match[2] or "")
    return (title["title"].strip() if title else ""), text[match.end() :]


def _markdown_blocks(lines: list[str]) -> Iterator[_Block]:
    """Yield paragraphs and code fences in order, each with the trail of headings above it."""
    headings: dict[int, str] = {}
    paragraph: list[str] = []
    position = 0
    while position < len(lines):
        line = lines[position]
        fence = _opening_fence(line)
        heading = _HEADING.match(line) if len(line) <= _LONGEST_HEADING else None
        underlined = len(paragraph) == 1 and len(paragraph[0]) <= _LONGEST_HEADING and _UNDERLINE.match(line)
        if underlined:
            _enter(headings, 1 if "=" in line else 2, paragraph.pop())
        elif fence or heading or not line.strip():
            yield from _take(paragraph, headings)
        else:
            paragraph.append(line)
        end = position + 1
        if heading and not underlined:
            _enter(headings, len(heading["marks"]), heading["text"] or "")
        elif fence and not underlined:
            end = _fence_end(lines, position, fence["mark"])
            yield _Block(tuple(headings.values()), "\n".join(lines[position:end]), whole=True)
        position = end
    yield from _take(paragraph, headings)


def _take(paragraph: list[str], headings: dict[int, str]) -> Iterator[_Block]:
    """Yield the paragraph gathered so far, if any, and empty it."""
    if paragraph:
        yield _Block(tuple(headings.values()), "\n".join(paragraph))
        paragraph.clear()


def _opening_fence(line: str) -> re.Match[str] | None:
    match = _FENCE.fullmatch(line)
    return None if match and match["mark"][0] == "`" and "`" in match["info"] else match


def _fence_end(lines: list[str], start: int, mark: str) -> int:
    """Return the index after the fence's closing line, or after the last line where it stays open."""
    closing = re.compile(rf"\s*{re.escape(mark[0])}{{{len(mark)},}}\s*")
    ends = (i + 1 for i in range(start + 1, len(lines)) if closing.fullmatch(lines[i]))
    return next(ends, len(lines))


def _enter(headings: dict[int, str], level: int, text: str) -> None:
    """Note a heading: it replaces those of its own level and below."""
    for deeper in [other for other in headings if other >= level]:
        del headings[deeper]
    plain = _LINK.sub(lambda link: link["text"], _ANCHOR.sub("", text))
    plain = " ".join(re.sub(r"[*`]|(?<!\w)_+|_+(?!\w)", "", plain).split())
    if plain:
        headings[level] = plain


def _chunks(blocks: Iterator[_Block], title: str, stem: str, limit: int) -> Iterator[tuple[str, str]]:
    """Gather neighbouring blocks under the same headings into chunks of at most `limit` words."""
    pieces: list[str] = []
    trail: tuple[str, ...] = ()
    words = 0
    for block in blocks:
        for piece in _pieces(block, limit):
            size = _count_words(piece)
            if pieces and (block.trail != trail or words + size > limit):
                yield _title(trail, title, stem), "\n\n".join(pieces)
                pieces, words = [], 0
            trail = block.trail
            pieces.append(piece)
            words += size
    if pieces:
        yield _title(trail, title, stem), "\n\n".join(pieces)


def _title(trail: tuple[str, ...], title: str, stem: str) -> str:
    if title and trail[:1] != (title,):
        trail = (title, *trail)
    return " > ".join(trail) or stem


def _pieces(block: _Block, limit: int) -> Iterator[str]:
    """Cut a paragraph into substrings of at most `limit` words: between sentences, else between words.

    A block without a letter or digit (a rule, an empty fence) has no pieces.
    """
    text = block.text.strip("\n").rstrip()
    if not any(character.isalnum() for character in text):
        return
    if block.whole or _count_words(text) <= limit:
        yield text
        return
    start = end = words = 0
    for first, last, size in _units(text, limit):
        if words and words + size > limit:
            yield text[start:end]
            words = 0
        start = start if words else first
        end, words = last, words + size
    yield text[start:end]


def _units(text: str, limit: int) -> Iterator[tuple[int, int, int]]:
    """Yield `(start, end, words)` of the sentences; a sentence past `limit` comes in runs of that many words."""
    for start, end in sentence_spans(text):
        spans = [match.span() for match in _WORD.finditer(text, start, end)]
        for i in range(0, len(spans), limit):
            run = spans[i : i + limit]
            yield run[0][0], run[-1][1], len(run)


def _count_words(text: str) -> int:
    return sum(1 for _ in _WORD.finditer(text))
