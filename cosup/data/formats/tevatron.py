"""Tevatron (version 1) training files, read and written: queries with positive and negative passages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cosup.data.formats.base import Converted, Place, as_type, get
from cosup.data.formats.beir import question_files
from cosup.data.jsonl import iter_jsonl
from cosup.data.reading import check_references, read_passages, read_questions
from cosup.data.writing import JsonRecord
from cosup.errors import InputError
from cosup.records import Evidence, Example, Passage, Question

_NO_POSITIVE = "queries without a positive passage"


def read_tevatron(source: Path) -> Converted:
    """Read passages, questions limited to their own candidates, and training examples with hard negatives.

    Every positive passage is evidence of its question. An example retrieves the first of them, as positives are
    alternatives, and must not pick the negatives.

    Raises:
        InputError: a line is wrong, or two passages share an id; names file and line.
    """
    passages: dict[str, Passage] = {}
    questions: dict[str, Question] = {}
    examples: list[Example] = []
    skipped: Counter[str] = Counter()
    for line, record in iter_jsonl(source):
        place = Place(source, line=line)
        positives = _passages(record, "positive_passages", place, passages)
        negatives = _passages(record, "negative_passages", place, passages)
        if not positives:
            skipped[_NO_POSITIVE] += 1
            continue
        question = _question(record, place, positives, negatives)
        if question.id in questions:
            raise place.error(f"query_id {question.id!r} again; expected distinct ids")
        questions[question.id] = question
        examples.append(_example(question, passages))
    files: dict[str, Iterable[JsonRecord | str]] = {
        "passages.jsonl": list(passages.values()),
        "questions.jsonl": list(questions.values()),
        "examples.jsonl": examples,
    }
    return Converted(files, skipped)


def _question(record: dict[str, Any], place: Place, positives: list[str], negatives: list[str]) -> Question:
    fields = {"id": get(record, "query_id", object, place), "question": get(record, "query", str, place)}
    try:
        question = Question.from_dict({**fields, "answers": record.get("answers")})
    except InputError as error:
        raise place.error(str(error)) from None
    evidence = tuple(Evidence(passage_id) for passage_id in positives)
    return replace(question, evidence=evidence, candidates=tuple(dict.fromkeys(positives + negatives)))


def _example(question: Question, passages: dict[str, Passage]) -> Example:
    from cosup.data.templates import question_to_example

    gold = set(question.gold_ids)
    negatives = tuple(c for c in question.candidates or () if c not in gold)
    return replace(
        question_to_example(replace(question, evidence=question.evidence[:1]), passages), negatives=negatives
    )


def _passages(record: dict[str, Any], name: str, place: Place, passages: dict[str, Passage]) -> list[str]:
    """Keep the passages of one list and return their distinct ids in order."""
    ids = []
    for index, item in enumerate(get(record, name, list, place)):
        at = place.at(f"{name}[{index}]")
        entry = as_type(item, dict, at)
        try:
            passage = Passage.from_dict({**entry, "id": get(entry, "docid", object, at)})
        except InputError as error:
            raise error if error.path else at.error(str(error)) from None
        if passages.setdefault(passage.id, passage) != passage:
            raise at.error(f"docid {passage.id!r} again with another title or text; expected one passage an id")
        ids.append(passage.id)
    return list(dict.fromkeys(ids))


def write_tevatron(source: Path) -> Converted:
    """Turn a folder of ours into Tevatron's: `questions.<split>.jsonl` becomes `tevatron.<split>.jsonl`.

    Gold passages are positive; candidates that are not gold are negative.

    Raises:
        InputError: a file is missing or wrong, or a question names a passage that is not there.
    """
    files = question_files(source)
    passages = {passage.id: passage for passage in read_passages(source / "passages.jsonl")}
    skipped: Counter[str] = Counter()
    names = {f"tevatron.{split}.jsonl" if split else "tevatron.jsonl": path for split, path in files.items()}
    return Converted({name: _written(path, passages, skipped) for name, path in names.items()}, skipped)


def _written(path: Path, passages: Mapping[str, Passage], skipped: Counter[str]) -> Iterator[dict[str, Any]]:
    questions = read_questions(path)
    check_references(questions, passages, path)
    for question in questions:
        gold = question.gold_ids
        if not gold:
            skipped[_NO_POSITIVE] += 1
            continue
        negatives = [c for c in question.candidates or () if c not in gold]
        yield {
            "query_id": question.id,
            "query": question.question,
            **({"answers": list(question.answers)} if question.answers else {}),
            "positive_passages": [_document(passages[passage_id]) for passage_id in gold],
            "negative_passages": [_document(passages[passage_id]) for passage_id in negatives],
        }


def _document(passage: Passage) -> dict[str, str]:
    return {"docid": passage.id, "title": passage.title, "text": passage.text}
