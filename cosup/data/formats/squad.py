"""SQuAD 1.1 and 2.0, as published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cosup.data.formats.base import Converted, PassagePool, Place, QuestionPool, as_type, get
from cosup.data.jsonl import read_json
from cosup.data.sentences import sentence_spans
from cosup.records import Evidence, Question

_UNANSWERABLE = "questions that the passage does not answer (SQuAD 2.0)"
_NO_ANSWER = "questions without an answer"
_LOST_ANSWER = "questions whose answers are not in their passage"


def read_squad(source: Path) -> Converted:
    """Read paragraphs and questions; the evidence is the sentence around the answer's offset.

    The answer given most often comes first among `answers`, and it is the one whose sentence is taken. Questions
    that cannot be answered from their paragraph are skipped; their paragraphs stay.

    Raises:
        InputError: the file is not SQuAD; names the place inside the JSON.
    """
    pool, questions = PassagePool(), QuestionPool()
    for title, paragraph, place in _paragraphs(source):
        context = get(paragraph, "context", str, place)
        if not context.strip():
            raise place.at(".context").error("found no text; expected a paragraph")
        passage_id = pool.add(title, context)
        for record, at in _objects(get(paragraph, "qas", list, place), place.at(".qas")):
            questions.add(_question(record, at, context, passage_id), at)
    return questions.converted(pool)


def _paragraphs(source: Path) -> Iterator[tuple[str, dict[str, Any], Place]]:
    root = Place(source)
    document = as_type(read_json(source), dict, root)
    for article, place in _objects(get(document, "data", list, root), root.at("data")):
        title = get(article, "title", str, place).replace("_", " ") if "title" in article else ""
        for paragraph, at in _objects(get(article, "paragraphs", list, place), place.at(".paragraphs")):
            yield title, paragraph, at


def _objects(items: list[Any], place: Place) -> Iterator[tuple[dict[str, Any], Place]]:
    for index, item in enumerate(items):
        at = place.at(f"[{index}]")
        yield as_type(item, dict, at), at


def _question(record: dict[str, Any], place: Place, context: str, passage_id: str) -> Question | str:
    """Return the question, or the reason to skip it."""
    text, answers = get(record, "question", str, place).strip(), get(record, "answers", list, place)
    if record.get("is_impossible"):
        return _UNANSWERABLE
    if not answers or not text:
        return _NO_ANSWER
    offsets: dict[str, int] = {}
    counts = Counter[str]()
    for answer, at in _objects(answers, place.at(".answers")):
        wording = get(answer, "text", str, at)
        offset = _offset(context, wording, get(answer, "answer_start", int, at))
        if wording.strip() and offset is not None:
            counts[wording.strip()] += 1
            offsets.setdefault(wording.strip(), offset + len(wording) - len(wording.lstrip()))
    if not counts:
        return _LOST_ANSWER
    aliases = tuple(answer for answer, _ in counts.most_common())
    sentence = sentence_around(context, offsets[aliases[0]], len(aliases[0]))
    return Question(get(record, "id", str, place), text, aliases, evidence=(Evidence(passage_id, sentence),))


def _offset(context: str, answer: str, stated: int) -> int | None:
    """Return where the answer stands: at the stated offset, else at its occurrence nearest to it, else None."""
    if stated >= 0 and context.startswith(answer, stated):
        return stated
    nearby = [context.find(answer, max(0, stated)), context.rfind(answer, 0, max(0, stated) + len(answer))]
    found = [offset for offset in nearby if offset >= 0]
    return min(found, key=lambda offset: abs(offset - stated), default=None)


def sentence_around(context: str, offset: int, length: int) -> str:
    """Return the sentence, or the neighbouring sentences, that hold `context[offset:offset + length]`."""
    spans = [span for span in sentence_spans(context) if span[1] > offset and span[0] < offset + length]
    return context[spans[0][0] : spans[-1][1]]
