"""What the page's script is given: questions with their answers, citations and searches, and the passages they use.

Passages stand once, in a list; questions name them by their position there. Scores stand in the order of `measures`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cosup.evaluation.attribution import Verdict
from cosup.evaluation.excerpts import Mark, Run, cut, passage_marks, utf16_offset, window
from cosup.evaluation.outcomes import Outcome
from cosup.evaluation.report import QuestionResult
from cosup.records import Answer, Passage, Question, Retrieval

# Of one question, so that a single odd record cannot fill the page.
MOST_CITATIONS, MOST_SEARCHES, MOST_GOLD, MOST_ANSWERS, MOST_SHORT = 100, 20, 50, 50, 600


@dataclass(frozen=True, slots=True)
class Detail:
    """How much of each question the page keeps.

    Attributes:
        passage: characters of a passage.
        text: characters of an answer's text, of a long answer and of a question.
        hits: hits of a search.
        hit_texts: whether hits that were not read have their passages' text.
    """

    passage: int
    text: int
    hits: int
    hit_texts: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """A question with what takes time to find out: its outcome and, by passage id, what is marked in passages."""

    result: QuestionResult
    outcome: Outcome
    marks: Mapping[str, Sequence[Mark]]


def entry(result: QuestionResult, outcome: Outcome, passages: Mapping[str, Passage]) -> Entry:
    """Find the marks in the question's cited and gold passages."""
    marks = {}
    for passage_id in _reading(result):
        passage = passages.get(passage_id)
        if passage is not None:
            gold = [e.sentence for e in result.question.evidence if e.passage_id == passage_id and e.sentence]
            claims = [c.claim for c in result.answer.citations[:MOST_CITATIONS] if c.passage_id == passage_id]
            marks[passage_id] = passage_marks(passage.text, gold, claims)
    return Entry(result, outcome, marks)


def page_data(
    entries: Sequence[Entry], passages: Mapping[str, Passage], measures: Sequence[str], detail: Detail
) -> dict[str, Any]:
    """Return the JSON value that the page's script reads.

    Args:
        passages: by id; an id that is not there is shown without a text.
        measures: the names whose scores are kept, in this order.
    """
    shelf = _Shelf(passages, detail)
    for held in entries:
        shelf.reserve(held)
    questions = [_question(held, shelf, measures, detail) for held in entries]
    return {
        "outcomes": [{"name": o.value, "label": o.label, "failed": o.failed} for o in Outcome],
        "measures": list(measures),
        "questions": questions,
        "passages": shelf.records(),
    }


class _Shelf:
    """The passages of the page, each once, in order of first use, and which part of each is kept."""

    def __init__(self, passages: Mapping[str, Passage], detail: Detail) -> None:
        self._passages, self._detail = passages, detail
        self._places: dict[str, int] = {}
        self._first_marks: dict[str, int] = {}
        self._with_text: set[str] = set()
        self._held: dict[str, Passage | None] = {}

    def reserve(self, held: Entry) -> None:
        """Keep room for the text of the passages that a question reads, around their first mark."""
        for passage_id in _reading(held.result):
            self._with_text.add(passage_id)
            for mark in held.marks.get(passage_id, ())[:1]:
                self._first_marks[passage_id] = min(mark.start, self._first_marks.get(passage_id, mark.start))

    def place(self, passage_id: str) -> int:
        """Return a passage's position in the list."""
        return self._places.setdefault(passage_id, len(self._places))

    def marks(self, passage_id: str, marks: Sequence[Mark]) -> list[list[Any]]:
        """Return marks as `[start, end, kind]` in the kept part, counted as browsers count."""
        passage = self._passage(passage_id)
        if passage is None:
            return []
        start, end = self._window(passage)
        kept, shift = passage.text[start:end], int(start > 0)
        clipped = [(max(m.start, start) - start, min(m.end, end) - start, m.kind) for m in marks]
        return [
            [utf16_offset(kept, first) + shift, utf16_offset(kept, last) + shift, kind]
            for first, last, kind in clipped
            if first < last
        ]

    def records(self) -> list[dict[str, Any]]:
        """Return the passages: id, title, and the text where it is kept; an ellipsis stands where it was cut."""
        return [self._record(passage_id) for passage_id in self._places]

    def _record(self, passage_id: str) -> dict[str, Any]:
        passage = self._passage(passage_id)
        record: dict[str, Any] = {"id": passage_id, "title": shorten(passage.title, MOST_SHORT) if passage else ""}
        if passage is None or not (self._detail.hit_texts or passage_id in self._with_text):
            return record
        start, end = self._window(passage)
        before, after = "…" if start else "", "…" if end < len(passage.text) else ""
        return record | {"text": before + passage.text[start:end] + after}

    def _passage(self, passage_id: str) -> Passage | None:
        if passage_id not in self._held:
            self._held[passage_id] = self._passages.get(passage_id)
        return self._held[passage_id]

    def _window(self, passage: Passage) -> tuple[int, int]:
        return window(len(passage.text), self._first_marks.get(passage.id), self._detail.passage)


def shorten(text: str, most: int) -> str:
    """Return at most `most` characters of a text, an ellipsis in place of the rest."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def _reading(result: QuestionResult) -> tuple[str, ...]:
    """Return the passages whose text the page shows beside the answer: the cited ones, then gold ones not cited."""
    cited = [c.passage_id for c in result.answer.citations[:MOST_CITATIONS]]
    return tuple(dict.fromkeys([*cited, *result.question.gold_ids[:MOST_GOLD]]))


def _question(held: Entry, shelf: _Shelf, measures: Sequence[str], detail: Detail) -> dict[str, Any]:
    result, question, answer = held.result, held.result.question, held.result.answer
    record: dict[str, Any] = {
        "id": question.id,
        "outcome": held.outcome.value,
        "question": shorten(question.question, detail.text),
        "answers": [shorten(a, MOST_SHORT) for a in question.answers[:MOST_ANSWERS]],
        "scores": [_rounded(result.scores.get(name)) for name in measures],
        "gold": [shelf.place(i) for i in question.gold_ids[:MOST_GOLD]],
        "citations": _citations(answer, result.verdicts, shelf),
        "marks": {str(shelf.place(i)): found for i, m in held.marks.items() if (found := shelf.marks(i, m))},
    }
    if not result.missing:
        record |= _written(answer, detail)
    record["searches"] = [_search(r, shelf, detail) for r in answer.retrievals[:MOST_SEARCHES]]
    return record | _said(question, result.task, detail) | _judged(result)


def _said(question: Question, task: str | None, detail: Detail) -> dict[str, Any]:
    """Return what only some questions have."""
    values = {"long": question.long_answer, "label": question.label, "instruction": question.instruction}
    kept: dict[str, Any] = {name: shorten(value, detail.text) for name, value in values.items() if value}
    sets = [[shorten(a, MOST_SHORT) for a in aliases[:MOST_ANSWERS]] for aliases in question.answer_sets[:MOST_ANSWERS]]
    lists = {"sets": sets, "claims": [shorten(c, MOST_SHORT) for c in question.claims[:MOST_ANSWERS]]}
    return kept | {name: value for name, value in lists.items() if value} | ({} if task is None else {"task": task})


def _written(answer: Answer, detail: Detail) -> dict[str, Any]:
    text = shorten(answer.text, detail.text)
    runs = cut(text, answer.citations[:MOST_CITATIONS])
    return {
        "text": [_run_record(run) for run in runs],
        "final": shorten(answer.answer, MOST_SHORT) if answer.answer != answer.text else "",
        "finish": shorten(answer.finish_reason, MOST_SHORT),
    }


def _run_record(run: Run) -> list[Any]:
    record = [run.text, list(run.citations), run.mark]
    while not record[-1] and len(record) > 1:
        record.pop()
    return record


def _citations(answer: Answer, verdicts: Sequence[Verdict], shelf: _Shelf) -> list[dict[str, Any]]:
    cited = answer.citations[:MOST_CITATIONS]
    judged: Iterable[Verdict | None] = verdicts if len(verdicts) == len(answer.citations) else [None] * len(cited)
    return [
        {"n": c.n, "passage": shelf.place(c.passage_id), "claim": shorten(c.claim, MOST_SHORT)} | _verdict(v)
        for c, v in zip(cited, judged, strict=False)
    ]


def _verdict(verdict: Verdict | None) -> dict[str, Any]:
    if verdict is None:
        return {"verdict": "unjudged"}
    return {"verdict": _word(verdict.right), "reason": shorten(verdict.reason, MOST_SHORT)}


def _word(decided: bool | None) -> str:
    return "undecided" if decided is None else "right" if decided else "wrong"


def _judged(result: QuestionResult) -> dict[str, Any]:
    """Return a judge's verdicts: on sentences with those on their citations, and on the question's claims."""
    sentences = [
        _verdict_record(own.sentence, own.supported, own.reason)
        | {"citations": [[v.number, _word(v.needed), shorten(v.reason, MOST_SHORT)] for v in own.verdicts]}
        for own in result.sentences[:MOST_CITATIONS]
    ]
    claims = [_verdict_record(own.claim, own.entailed, own.reason) for own in result.claims[:MOST_CITATIONS]]
    return {name: found for name, found in (("sentences", sentences), ("judged_claims", claims)) if found}


def _verdict_record(text: str, decided: bool | None, reason: str) -> dict[str, Any]:
    return {"text": shorten(text, MOST_SHORT), "verdict": _word(decided), "reason": shorten(reason, MOST_SHORT)}


def _search(retrieval: Retrieval, shelf: _Shelf, detail: Detail) -> dict[str, Any]:
    hits = [[shelf.place(h.passage_id), _rounded(h.score)] for h in retrieval.hits[: detail.hits]]
    return {"at": retrieval.position, "read": retrieval.read, "count": len(retrieval.hits), "hits": hits}


def _rounded(value: float | None) -> float | None:
    return round(value, 4) if value is not None and math.isfinite(value) else None
