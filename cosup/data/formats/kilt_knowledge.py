"""The knowledge source of KILT, one page of Wikipedia a line, as passages of at most 100 words.

Format (facebookresearch/KILT): `{"wikipedia_id", "wikipedia_title", "text": [paragraphs], "anchors", ..}`, 35 GB of
JSON lines. The first paragraph repeats the title; a paragraph `Section::::Name.` begins a section; `BULLET::::` marks
an item of a list. Provenance in the tasks names a page, and paragraphs by their number in `text`.

Neighbouring paragraphs of a section are put together while they have at most 100 words. A paragraph with more is cut
between sentences, and a sentence with more between words. Every passage says in its metadata where its text stands:

    {"id": "12:3", "title": "Anarchism", "text": "..", "metadata": {"wikipedia_id": "12", "start_paragraph_id": 4,
     "start_character": 0, "end_paragraph_id": 5, "end_character": 311}}

with characters counted within the paragraph, so that the text reaches from the first character of the first paragraph
to before the last one of the last. Titles, section names and bullet marks are no part of it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cosup.data.formats.base import Converted, Place, as_type, get
from cosup.data.jsonl import iter_jsonl
from cosup.data.sentences import sentence_spans
from cosup.fields import Scalar
from cosup.records import Passage

WORDS_PER_PASSAGE = 100
_SECTION, _BULLET = "Section::::", "BULLET::::"
_EMPTY = "pages without text"
_WORD = re.compile(r"\S+")


class _Piece(NamedTuple):
    """Part of a paragraph: its number, character offsets in it, and how many words it has."""

    paragraph: int
    start: int
    end: int
    words: int


class _SeenPages:
    """Which pages came already: a bit for each id below 2**27, as Wikipedia's are, so that all take 16 MiB at most."""

    def __init__(self) -> None:
        self._bits = bytearray()
        self._others: set[str] = set()

    def add(self, page_id: str) -> bool:
        """Note a page; return whether it was there before."""
        if not (
            page_id.isascii() and page_id.isdecimal() and page_id == str(int(page_id[:9])) and int(page_id) < 2**27
        ):
            was_there = page_id in self._others
            self._others.add(page_id)
            return was_there
        place, bit = int(page_id) // 8, 1 << int(page_id) % 8
        if place >= len(self._bits):
            self._bits.extend(bytes(place + 1 - len(self._bits)))
        was_there = bool(self._bits[place] & bit)
        self._bits[place] |= bit
        return was_there


def read_kilt_knowledge(source: Path) -> Converted:
    """Read passages page by page; memory does not grow with the file.

    Args:
        source: JSON lines, whatever the name ends in; compressed with gzip if it ends in `.gz`.

    Raises:
        InputError: a page is wrong or comes twice; names file and line.
    """
    skipped: Counter[str] = Counter()
    return Converted({"passages.jsonl": _passages(source, skipped)}, skipped)


def _passages(source: Path, skipped: Counter[str]) -> Iterator[Passage]:
    seen = _SeenPages()
    for line, record in iter_jsonl(source):
        place = Place(source, line=line)
        page_id = page_id_of(record, place)
        if seen.add(page_id):
            raise place.error(f"page {page_id!r} again; expected distinct pages")
        passages = list(_page(record, page_id, place))
        skipped.update([] if passages else [_EMPTY])
        yield from passages


def page_id_of(record: dict[str, Any], place: Place) -> str:
    """Return the `wikipedia_id` of a page or a provenance, which is a text or a whole number.

    Raises:
        InputError: it is missing, empty or something else.
    """
    value = get(record, "wikipedia_id", object, place)
    page_id = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    page_id = as_type(page_id, str, place.at(".wikipedia_id")).strip()
    if not page_id:
        raise place.at(".wikipedia_id").error("found no id; expected that of a page")
    return page_id


def _page(record: dict[str, Any], page_id: str, place: Place) -> Iterator[Passage]:
    title = get(record, "wikipedia_title", str, place).strip()
    at = place.at(".text")
    paragraphs = [as_type(text, str, at) for text in get(record, "text", list, place)]
    for number, pieces in enumerate(_gathered(paragraphs, title), start=1):
        first, last = pieces[0], pieces[-1]
        text = " ".join(paragraphs[p.paragraph][p.start : p.end].removeprefix(_BULLET).strip() for p in pieces)
        where: dict[str, Scalar] = {
            "wikipedia_id": page_id,
            "start_paragraph_id": first.paragraph,
            "start_character": first.start,
            "end_paragraph_id": last.paragraph,
            "end_character": last.end,
        }
        yield Passage(f"{page_id}:{number}", title, text, where)


def _gathered(paragraphs: list[str], title: str) -> Iterator[list[_Piece]]:
    """Yield the pieces of each passage."""
    pieces: list[_Piece] = []
    for number, paragraph in enumerate(paragraphs):
        begins_section = paragraph.lstrip().startswith(_SECTION)
        if begins_section and pieces:
            yield pieces
            pieces = []
        if begins_section or (number == 0 and paragraph.strip() == title):
            continue
        for piece in _pieces(number, paragraph):
            if pieces and sum(p.words for p in pieces) + piece.words > WORDS_PER_PASSAGE:
                yield pieces
                pieces = []
            pieces.append(piece)
    if pieces:
        yield pieces


def _pieces(number: int, paragraph: str) -> Iterator[_Piece]:
    """Cut a paragraph: whole, else runs of sentences, else of words. Without a letter or digit there is no piece."""
    words = [match.span() for match in _WORD.finditer(paragraph)]
    if not any(map(str.isalnum, paragraph.removeprefix(_BULLET))):
        return
    if len(words) <= WORDS_PER_PASSAGE:
        yield _Piece(number, words[0][0], words[-1][1], len(words))
        return
    run: list[tuple[int, int]] = []
    for start, end in sentence_spans(paragraph):
        sentence = [match.span() for match in _WORD.finditer(paragraph, start, end)]
        if run and len(run) + len(sentence) > WORDS_PER_PASSAGE:
            yield _Piece(number, run[0][0], run[-1][1], len(run))
            run = []
        run += sentence
        while len(run) > WORDS_PER_PASSAGE:
            yield _Piece(number, run[0][0], run[WORDS_PER_PASSAGE - 1][1], WORDS_PER_PASSAGE)
            run = run[WORDS_PER_PASSAGE:]
    if run:
        yield _Piece(number, run[0][0], run[-1][1], len(run))
