"""HotpotQA, as published (and in the columns that `datasets` gives it)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from cosup.data.formats.base import Converted, PassagePool, Place, QuestionPool, as_type, get
from cosup.data.jsonl import iter_jsonl, read_json
from cosup.records import Evidence, Question

_GOLD_ELSEWHERE = "questions with a gold passage that is not in their context"
_NO_FACTS = "questions without supporting facts (a blind test set)"
_NO_SENTENCE = "sentence numbers that their passage does not have (the passage stays as evidence)"


def read_hotpotqa(source: Path) -> Converted:
    """Read questions whose candidates are the passages of their own context (the distractor setting).

    There is one evidence entry for each supporting fact, in the published order, except that in questions of the type
    `bridge` the facts in passages that hold the answer come last, as they are reached last.

    Raises:
        InputError: the file is not HotpotQA; names the place inside the JSON.
    """
    pool, questions = PassagePool(), QuestionPool()
    for record, place in _records(source):
        questions.add(_question(record, place, pool, questions.skipped), place)
    return questions.converted(pool)


def _records(source: Path) -> list[tuple[dict[str, Any], Place]]:
    if source.suffix.lower() == ".jsonl":
        return [(record, Place(source, line=line)) for line, record in iter_jsonl(source)]
    root = Place(source)
    items = as_type(read_json(source), list, root)
    return [(as_type(item, dict, root.at(f"[{i}]")), root.at(f"[{i}]")) for i, item in enumerate(items)]


def _question(record: dict[str, Any], place: Place, pool: PassagePool, skipped: Counter[str]) -> Question | str:
    """Return the question, or the reason to skip it; its context's passages join the pool either way."""
    question_id = get(record, "_id" if "_id" in record else "id", str, place)
    text = get(record, "question", str, place).strip()
    if not text:
        raise place.error("field 'question' is empty; expected a question")
    context = _context(record, place, pool)
    if not record.get("supporting_facts"):
        return _NO_FACTS
    answer = get(record, "answer", str, place).strip()
    evidence = []
    for title, number in _pairs(record, "supporting_facts", "sent_id", int, place):
        if title not in context:
            return _GOLD_ELSEWHERE
        passage_id, sentences = context[title]
        known = 0 <= number < len(sentences) and sentences[number].strip()
        skipped.update([] if known else [_NO_SENTENCE])
        evidence.append(Evidence(passage_id, sentences[number].strip() if known else None))
    if record.get("type") == "bridge":
        evidence.sort(key=lambda e: answer in pool.passages[e.passage_id].text)
    candidates = tuple(dict.fromkeys(passage_id for passage_id, _ in context.values()))
    answers = (answer,) if answer else ()
    return Question(question_id, text, answers, evidence=tuple(evidence), candidates=candidates)


def _context(record: dict[str, Any], place: Place, pool: PassagePool) -> dict[str, tuple[str, list[str]]]:
    """Put a question's passages into the pool; return id and sentences by title."""
    context: dict[str, tuple[str, list[str]]] = {}
    for title, sentences in _pairs(record, "context", "sentences", list, place):
        texts = [as_type(s, str, place.at(f".context[{title!r}]")) for s in sentences]
        text = _join(texts)
        if text:
            context.setdefault(title, (pool.add(title, text), texts))
    return context


def _join(sentences: list[str]) -> str:
    """Join sentences as published (each brings its leading space), adding a space only where none is there."""
    text = ""
    for sentence in sentences:
        gap = " " if text and sentence and not text[-1].isspace() and not sentence[0].isspace() else ""
        text += gap + sentence
    return text.strip()


def _pairs(record: dict[str, Any], name: str, second: str, kind: type[Any], place: Place) -> list[tuple[str, Any]]:
    """Return `(title, value)` pairs from `[[title, value], ..]` or `{"title": [..], second: [..]}`."""
    at = place.at(f".{name}")
    if isinstance(record.get(name), dict):
        columns = record[name]
        titles, values = get(columns, "title", list, at), get(columns, second, list, at)
        items: list[Any] = [list(pair) for pair in zip(titles, values, strict=False)]
        if len(titles) != len(values):
            raise at.error(f"found {len(titles)} titles and {len(values)} {second}; expected as many")
    else:
        items = get(record, name, list, place)
    pairs = []
    for index, item in enumerate(items):
        here = at.at(f"[{index}]")
        if not isinstance(item, list) or len(item) != 2:
            raise here.error(f"found {str(item)[:60]!r}; expected a pair of a title and {second}")
        pairs.append((as_type(item[0], str, here.at("[0]")), as_type(item[1], kind, here.at("[1]"))))
    return pairs
