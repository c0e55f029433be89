"""From what a row wrote to text with `[n]` marks, citations and segments."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from cosup.records import Answer, Citation, Question, Retrieval, RetrievalSegment, Segment, TextSegment

_STOPS = ".!?。！？"


@dataclass
class Part:
    """A stretch of output of one kind: text outside citations, or the claim that follows a retrieval.

    Attributes:
        text: what was written, decoded.
        retrieval: what the stretch follows; None outside citations. Where nothing was read, the stretch is empty.
        continues: whether the stretch goes on with the text before the last retrieval, of which nothing was read.
    """

    text: str = ""
    retrieval: Retrieval | None = None
    continues: bool = False


@dataclass
class _Draft:
    text: str = ""
    numbers: dict[str, int] = field(default_factory=dict)
    citations: list[Citation] = field(default_factory=list)
    retrievals: list[Retrieval] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    left_off: str = ""  # spaces at the end of the last text


def compose(question: Question, parts: list[Part], finish_reason: str) -> Answer:
    """Put an answer together.

    Parts are joined by one space, but for text that continues. A claim's mark stands after the claim and before its
    closing full stop; the claim's span ends before the mark; where several passages were read, it has a mark for each.
    A claim without text is a retrieval that nothing was said about: no citation.

    Args:
        question: what was asked.
        parts: the output in order.
        finish_reason: see `Answer`.
    """
    draft = _Draft()
    for part in parts:
        if part.retrieval is not None:
            draft.retrievals.append(replace(part.retrieval, position=len(draft.text)))
            _add_claim(draft, part.text.strip(), part.retrieval)
        else:
            _add_text(draft, part)
    return Answer(
        id=question.id,
        question=question.question,
        text=draft.text,
        answer=_final(parts),
        segments=tuple(draft.segments),
        citations=tuple(draft.citations),
        retrievals=tuple(draft.retrievals),
        finish_reason=finish_reason,
    )


def _add_claim(draft: _Draft, claim: str, retrieval: Retrieval) -> None:
    read = retrieval.hits[: retrieval.read]
    if read:
        draft.segments.append(RetrievalSegment(read[0].passage_id, claim))
    if not claim or not read:
        return
    body = claim[:-1].rstrip() if claim[-1] in _STOPS and len(claim) > 1 else claim
    stop = claim[-1] if body != claim else ""
    start = _join(draft, body)
    end, marks = len(draft.text), ""
    for hit in read:
        n = draft.numbers.setdefault(hit.passage_id, len(draft.numbers) + 1)
        draft.citations.append(Citation(n, hit.passage_id, claim, start, end, hit.score))
        marks += f"[{n}]"
    draft.text += f" {marks}{stop}"


def _add_text(draft: _Draft, part: Part) -> None:
    if part.continues and draft.text and isinstance(draft.segments[-1], TextSegment):
        written = (draft.left_off + part.text).rstrip()
        draft.text += written
        draft.segments[-1] = TextSegment(draft.segments[-1].text + written)
    else:
        written = part.text.strip()
        if not written:
            return
        _join(draft, written)
        draft.segments.append(TextSegment(written))
    draft.left_off = part.text[len(part.text.rstrip()) :]


def _join(draft: _Draft, piece: str) -> int:
    """Append a piece after one space and return where it starts."""
    draft.text += " " if draft.text else ""
    start = len(draft.text)
    draft.text += piece
    return start


def _final(parts: list[Part]) -> str:
    """The text after the last claim, or the last claim where nothing follows."""
    claims = [i for i, part in enumerate(parts) if part.retrieval is not None and part.retrieval.read]
    after = parts[claims[-1] + 1 :] if claims else parts
    text = ""
    for part in after:
        if part.retrieval is None:
            text += part.text if part.continues else f" {part.text.strip()}"
    return text.strip() or (parts[claims[-1]].text.strip() if claims else "")
