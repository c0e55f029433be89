"""What happens while an answer is written, in the order in which it happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cosup.generation.citations import Part, compose
from cosup.generation.rows import Piece, Row, Stage
from cosup.records import Answer, Citation, Hit, Passage, Retrieval

HALF_CHARACTER = "\ufffd"  # what a character decodes to whose last bytes are still missing


@dataclass(frozen=True)
class TextDelta:
    """New text of an answer.

    Attributes:
        text: what is new.
        claim: whether it stands inside a citation.
        continues: whether it goes on with the text before the last retrieval, of which nothing was read.
    """

    text: str
    claim: bool
    continues: bool = False


@dataclass(frozen=True)
class Retrieved:
    """A `[Ret]` was answered: the hits, best first; the first `read` of them are read, none where it abstains."""

    hits: tuple[Hit, ...]
    read: int = 1


@dataclass(frozen=True)
class PassageOpened:
    """A passage is being read."""

    passage: Passage


@dataclass(frozen=True)
class ClaimClosed:
    """A claim is complete: its citations (one a passage that was read), with its span in the answer's text."""

    citations: tuple[Citation, ...]


@dataclass(frozen=True)
class Finished:
    """The answer is complete."""

    answer: Answer


Event = TextDelta | Retrieved | PassageOpened | ClaimClosed | Finished


class EventStream:
    """Tells what is new in a row since it was asked last.

    Args:
        row: the row.
        decode: turns a piece into text.
        passage: looks a passage up by id.
    """

    def __init__(self, row: Row, decode: Callable[[Piece], str], passage: Callable[[str], Passage]) -> None:
        self.row = row
        self.decode = decode
        self.passage = passage
        self._piece = 0
        self._shown = ""

    def news(self) -> Iterator[Event]:
        """Yield the events since the last call; `Finished` is the last of all."""
        while True:
            yield from self._text()
            if self._piece + 1 == len(self.row.pieces):
                break
            yield from self._closed()
            self._piece, self._shown = self._piece + 1, ""
            yield from self._opened(self.row.pieces[self._piece])
        if self.row.stage is Stage.DONE:
            yield from self._closed()
            yield Finished(answer_of(self.row, self.decode))

    def _text(self) -> Iterator[Event]:
        piece = self.row.pieces[self._piece]
        text = self.decode(piece).rstrip(HALF_CHARACTER)
        if len(text) > len(self._shown):
            yield TextDelta(text[len(self._shown) :], piece.hits is not None, bool(piece.before))
            self._shown = text

    def _opened(self, piece: Piece) -> Iterator[Event]:
        if piece.hits is None:
            return
        yield Retrieved(piece.hits, piece.read)
        for hit in piece.hits[: piece.read]:
            yield PassageOpened(self.passage(hit.passage_id))

    def _closed(self) -> Iterator[Event]:
        """Tell of the claim that the present piece is, once it is complete and not empty."""
        piece = self.row.pieces[self._piece]
        if not piece.read or not self._shown.strip():
            return
        written = compose(self.row.question, parts_of(self.row.pieces[: self._piece + 1], self.decode), "")
        yield ClaimClosed(written.citations[-piece.read :])


def parts_of(pieces: list[Piece], decode: Callable[[Piece], str]) -> list[Part]:
    """Turn a row's pieces into parts of text."""
    parts = [
        Part(decode(p), None if p.hits is None else Retrieval(0, p.hits, p.read), continues=bool(p.before))
        for p in pieces
    ]
    for part in parts:  # what was cut off within a character is no text, whatever follows
        part.text = part.text.rstrip(HALF_CHARACTER)
    return parts


def answer_of(row: Row, decode: Callable[[Piece], str]) -> Answer:
    """Put a row's answer together."""
    return compose(row.question, parts_of(row.pieces, decode), row.finish_reason)
