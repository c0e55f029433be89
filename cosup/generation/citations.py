"""From what a row wrote to text with `[n]` marks, citations and segments."""

from __future__ import annotations

from dataclasses import dataclass, field

from cosup.records import Answer, Citation, Question, Retrieval, RetrievalSegment, Segment, TextSegment

_STOPS = ".!?。！？"


@dataclass
class Part:
    """A stretch of output of one kind: text outside citations, or the claim that follows a retrieval.

    Attributes:
        text: what was written, decoded.
        retrieval: hits that the stretch follows, best first and read; None outside citations.
    """

    text: str = ""
    retrieval: Retrieval | None = None


@dataclass
class _Draft:
    text: str = ""
    numbers: dict[str, int] = field(default_factory=dict)
    citations: list[Citation] = field(default_factory=list)
    retrievals: list[Retrieval] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)


def compose(question: Question, parts: list[Part], finish_reason: str) -> Answer:
    """Put an answer together.

    Parts are joined by one space. A claim's mark stands after the claim and before its closing full stop; the claim's
    span ends before the mark. A claim without text is a retrieval that nothing was said about: no citation.

    Args:
        question: what was asked.
        parts: the output in order.
        finish_reason: see `Answer`.
    """
    draft = _Draft()
    for part in parts:
        written = part.text.strip()
        if part.retrieval is not None:
            draft.retrievals.append(Retrieval(len(draft.text), part.retrieval.hits))
            _add_claim(draft, written, part.retrieval)
        elif written:
            _join(draft, written)
            draft.segments.append(TextSegment(written))
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
    best = retrieval.hits[0]
    draft.segments.append(RetrievalSegment(best.passage_id, claim))
    if not claim:
        return
    n = draft.numbers.setdefault(best.passage_id, len(draft.numbers) + 1)
    body = claim[:-1].rstrip() if claim[-1] in _STOPS and len(claim) > 1 else claim
    stop = claim[-1] if body != claim else ""
    start = _join(draft, body)
    draft.citations.append(Citation(n, best.passage_id, claim, start, len(draft.text), best.score))
    draft.text += f" [{n}]{stop}"


def _join(draft: _Draft, piece: str) -> int:
    """Append a piece after one space and return where it starts."""
    draft.text += " " if draft.text else ""
    start = len(draft.text)
    draft.text += piece
    return start


def _final(parts: list[Part]) -> str:
    """The text after the last claim, or the last claim where nothing follows."""
    claims = [i for i, part in enumerate(parts) if part.retrieval is not None]
    after = parts[claims[-1] + 1 :] if claims else parts
    text = " ".join(part.text.strip() for part in after if part.text.strip())
    return text or (parts[claims[-1]].text.strip() if claims else "")
