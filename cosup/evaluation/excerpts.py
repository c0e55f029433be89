"""Where texts are cut and marked for reading: an answer at its citations, a passage at the sentences that support it.

Offsets are in characters (code points) of Python strings; whoever reads them in a browser converts them with
`utf16_offset`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from cosup.data.sentences import sentence_spans
from cosup.evaluation.answers import token_f1
from cosup.records import Citation

KINDS = ("gold", "claim", "near")  # the first one wins where marks overlap
LEAST_F1 = 0.25  # of a sentence that is marked as the nearest to a claim
LONGEST = 20_000  # characters of a passage or claim beyond which nothing is looked for

_MARK = re.compile(r"\[([0-9]{1,6})\]")


@dataclass(frozen=True, slots=True)
class Run:
    """A stretch of an answer's text.

    Attributes:
        citations: positions of the citations whose claims it belongs to.
        mark: the number of the `[n]` mark that it is, or None.
    """

    text: str
    citations: tuple[int, ...] = ()
    mark: int | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """A stretch of a passage that supports a claim.

    Attributes:
        kind: `gold` a gold sentence, `claim` the claim itself, `near` the sentence that is nearest to the claim.
    """

    start: int
    end: int
    kind: str


def cut(text: str, citations: Sequence[Citation]) -> list[Run]:
    """Cut an answer's text into runs; joined they are the text.

    A citation's offsets are limited to the text; a citation for which nothing is left has no run. A bracketed number
    is a mark only if a citation has that number.
    """
    spans = [(max(0, c.start), min(len(text), c.end)) for c in citations]
    numbers = {c.n for c in citations}
    marks = {m.span(): int(m[1]) for m in _MARK.finditer(text) if int(m[1]) in numbers}
    inside = {end for span in spans if span[0] < span[1] for end in span} | {end for span in marks for end in span}
    cuts = sorted({0, len(text)} | inside)
    return [_run(text, piece, spans, marks) for piece in pairwise(cuts)]


def passage_marks(text: str, gold: Iterable[str], claims: Iterable[str]) -> list[Mark]:
    """Find what to mark in a passage: its gold sentences and, for each claim, what supports it.

    A claim that stands in the passage is marked there, another one's nearest sentence is by token F1, from `LEAST_F1`
    on; where gold sentences were found, a claim that does not stand in the passage marks nothing more.

    Returns:
        Marks in order that do not overlap.
    """
    marks = [Mark(*span, "gold") for span in (_find(text, sentence) for sentence in gold) if span]
    any_gold = bool(marks)
    for claim in dict.fromkeys(claims):
        stands = _find(text, claim)
        nearest = None if stands or any_gold else _nearest(text, claim)
        if stands:
            marks.append(Mark(*stands, "claim"))
        elif nearest:
            marks.append(Mark(*nearest, "near"))
    return _flattened(marks)


def window(length: int, first_mark: int | None, most: int) -> tuple[int, int]:
    """Return which characters of a text of this length to keep where at most `most` may stay.

    The first mark (its offset; None without one) is kept in sight with a quarter of the room before it.
    """
    if length <= most:
        return 0, length
    start = max(0, min((first_mark or 0) - most // 4, length - most))
    return start, start + most


def utf16_offset(text: str, offset: int) -> int:
    """Return a character offset as browsers count it: characters beyond U+FFFF are two."""
    return offset + sum(1 for character in text[:offset] if character > "\uffff")


def _run(text: str, piece: tuple[int, int], spans: Sequence[tuple[int, int]], marks: dict[tuple[int, int], int]) -> Run:
    start, end = piece
    cited = tuple(i for i, span in enumerate(spans) if span[0] <= start and end <= span[1] and start < end)
    return Run(text[start:end], cited, marks.get(piece))


def _find(text: str, wanted: str) -> tuple[int, int] | None:
    """Return where `wanted` stands in the text, white space aside."""
    words = wanted.split() if len(wanted) <= LONGEST else []
    if not words or " ".join(words) not in " ".join(text.split()):
        return None
    found = re.search(r"\s+".join(map(re.escape, words)), text)
    return found.span() if found else None


def _nearest(text: str, claim: str) -> tuple[int, int] | None:
    spans = sentence_spans(text[:LONGEST]) if len(claim) <= LONGEST else []
    scored = [(token_f1(text[start:end], claim), (start, end)) for start, end in spans]
    best, span = max(scored, key=lambda pair: pair[0], default=(0.0, (0, 0)))
    return span if best >= LEAST_F1 else None


def _flattened(marks: Sequence[Mark]) -> list[Mark]:
    """Cut marks where they overlap; of two kinds over one stretch the first of `KINDS` stays."""
    cuts = sorted({end for mark in marks for end in (mark.start, mark.end)})
    flat: list[Mark] = []
    for start, end in pairwise(cuts):
        kinds = [mark.kind for mark in marks if mark.start <= start and end <= mark.end]
        if not kinds:
            continue
        kind = min(kinds, key=KINDS.index)
        if flat and flat[-1].end == start and flat[-1].kind == kind:
            start = flat.pop().start
        flat.append(Mark(start, end, kind))
    return flat
