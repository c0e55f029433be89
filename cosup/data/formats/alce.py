"""ALCE's evaluation files, and predictions as ALCE's scorer reads them.

Format (princeton-nlp/ALCE): a JSON list of `{"question", "docs": [{"id", "title", "text"}], "answer", ..}`, where
ASQA has `sample_id`, `qa_pairs: [{"question", "short_answers"}]` and `annotations: [{"long_answer"}]`, QAMPARI `id`
and `answers: [[aliases]]`, and ELI5 `claims`. What the scorer reads is `{"data": [..]}` with the same entries and an
`output` in each, whose `[n]` marks count that entry's `docs` from 1.

Reading gives `passages.jsonl` (all docs once), `questions.jsonl` (each limited to its own docs as candidates) and
`gold.jsonl`, a line a question with its id and every field but `docs` and `output`, from which the scorer's file can
be made again. In a question `answer_sets` are the `short_answers` of each `qa_pairs` entry, or the lists in
`answers`; `claims` are the claims; `long_answer` is the first annotation's, else `answer`, and none for a list of
answers. A question without an id has its number in the list.

Writing puts back together what was read: the entry of `gold.jsonl` (or of the published file) with the prediction's
text as `output` and the passages that it cites as `docs`, in the order of their marks. Line ends in it become spaces,
as the scorer reads the first line only.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cosup.data.formats.base import (
    Converted,
    Job,
    PassagePool,
    Place,
    as_type,
    get,
    iter_passages,
    iter_records,
    objects,
)
from cosup.data.reading import line_of, read_answers
from cosup.data.writing import JsonRecord
from cosup.errors import InputError
from cosup.records import Answer, Passage, Question

_EMPTY_DOC = "docs without text"
_NO_DOCS = "lists of candidates that are empty (those questions search the whole corpus)"
_NO_QUESTION = "entries without a question"
_UNANSWERED = "questions of the gold file have no prediction (written with an empty output)"
_NOT_GOLD = "predictions of questions that the gold file lacks"
_NO_GOLD = "gold answers, as there is neither gold.jsonl nor --gold (ALCE's scorer needs them)"
_LINE_ENDS = "line ends in outputs are written as spaces"
_LOOSE_MARKS = "marks in outputs are no citation (the scorer counts their sentence as unsupported)"
_MARK = re.compile(r"\[(\d{1,9})")


def read_alce(source: Path) -> Converted:
    """Read passages, questions and gold answers; the module says where each field goes.

    Raises:
        InputError: an entry is wrong or an id comes twice; names the place inside the JSON, or the line.
    """
    pool, skipped = PassagePool(), Counter[str]()
    questions: dict[str, Question] = {}
    gold: list[dict[str, Any]] = []
    for number, (entry, place) in enumerate(iter_records(source), start=1):
        question_id = _id(entry, number, place)
        if question_id in questions:
            raise place.error(f"id {question_id!r} again; expected distinct ids")
        question = _question(entry, question_id, place, pool, skipped)
        if question is None:
            skipped[_NO_QUESTION] += 1
            continue
        questions[question_id] = question
        kept = {name: value for name, value in entry.items() if name not in ("id", "docs", "output")}
        gold.append({"id": question_id, **kept})
    files: dict[str, Iterable[JsonRecord | str]] = {"questions.jsonl": list(questions.values()), "gold.jsonl": gold}
    if pool.passages or not questions:
        files = {"passages.jsonl": list(pool.passages.values()), **files}
    return Converted(files, skipped)


def _id(entry: Mapping[str, Any], number: int, place: Place) -> str:
    """Return the id of an entry: `sample_id`, else `id`, else its number."""
    value = entry.get("sample_id", entry.get("id"))
    if value is None:
        return str(number)
    with place.named():
        return Question.from_dict({"id": value, "question": "?"}).id


def _question(
    entry: dict[str, Any], question_id: str, place: Place, pool: PassagePool, skipped: Counter[str]
) -> Question | None:
    text = get(entry, "question", str, place).strip()
    if not text:
        return None
    candidates = []
    for doc, at in objects(entry, "docs", place):
        title, body = get(doc, "title", str, at, default="").strip(), get(doc, "text", str, at).strip()
        if body:
            name = doc.get("id")
            candidates.append(pool.add(title, body, str(name).strip() if isinstance(name, str | int) else ""))
        else:
            skipped[_EMPTY_DOC] += 1
    skipped.update([] if candidates else [_NO_DOCS])
    return Question(
        question_id,
        text,
        long_answer=_long_answer(entry, place),
        candidates=tuple(dict.fromkeys(candidates)) or None,
        answer_sets=_answer_sets(entry, place),
        claims=_texts(entry.get("claims"), place.at(".claims")),
    )


def _answer_sets(entry: dict[str, Any], place: Place) -> tuple[tuple[str, ...], ...]:
    """Return the aliases of each answer that is wanted."""
    at = place.at(".answers")
    sets = [_texts(pair.get("short_answers"), here) for pair, here in objects(entry, "qa_pairs", place)]
    sets += [_texts(aliases, at) for aliases in get(entry, "answers", list, place, default=[])]
    return tuple(aliases for aliases in sets if aliases)


def _texts(value: Any, place: Place) -> tuple[str, ...]:
    """Return the texts of a list, which may be null, without the empty ones."""
    texts = [as_type(text, str, place).strip() for text in as_type([] if value is None else value, list, place)]
    return tuple(text for text in texts if text)


def _long_answer(entry: dict[str, Any], place: Place) -> str | None:
    """Return an answer in sentences; where a list is asked for (QAMPARI), `answer` is that list and no sentence."""
    for annotation, at in objects(entry, "annotations", place):
        return get(annotation, "long_answer", str, at)
    text = get(entry, "answer", str, place, default="").strip()
    return None if entry.get("answers") else text or None


def write_alce_output(job: Job) -> Converted:
    """Turn `predictions.jsonl` into the JSON file that ALCE scores.

    The entries are those of the gold file in its order: the one in the job, else `gold.jsonl` in or beside the source
    or the output; without any, those of the predictions.

    Args:
        job: the source is the predictions; `passages` where `passages.jsonl` is not in or beside source or output.

    Raises:
        InputError: there are no passages, a citation names none of them, marks do not count from 1, or no prediction
            belongs to the gold file.
    """
    source = job.source_file("predictions.jsonl")
    answers = {answer.id: answer for answer in read_answers(source)}
    path = job.passages_file()
    if path is None:
        raise InputError("found no passages.jsonl in or beside IN or OUT; expected the passages that are cited", source)
    docs = _cited(answers.values(), path)
    skipped, noted = Counter[str](), Counter[str]()
    gold_path = job.gold or job.beside("gold.jsonl")
    gold = _gold(gold_path, answers) if gold_path else {name: {"id": name} for name in answers}
    unknown = len(answers.keys() - gold.keys())
    skipped.update({_NOT_GOLD: unknown} if unknown else {})
    skipped.update({} if gold_path else {_NO_GOLD: len(answers)})
    entries = [_entry(entry, answers.get(name), docs, source, noted) for name, entry in gold.items()]
    return Converted({"alce-output.json": _document(entries)}, skipped, noted)


def _gold(path: Path, answers: Mapping[str, Answer]) -> dict[str, dict[str, Any]]:
    """Return the entries of the gold file by id; of entries without a question none."""
    gold: dict[str, dict[str, Any]] = {}
    for number, (entry, place) in enumerate(iter_records(path), start=1):
        name = _id(entry, number, place)
        if name in gold:
            raise place.error(f"id {name!r} again; expected distinct ids")
        if get(entry, "question", str, place).strip():
            gold[name] = entry
    if not gold.keys() & answers.keys():
        some = ", ".join(map(repr, list(answers)[:3]))
        raise InputError(f"has none of the questions that were predicted ({some}, ..); expected their gold file", path)
    return gold


def _cited(answers: Iterable[Answer], path: Path) -> dict[str, Passage]:
    """Return the cited passages by id, as far as they are there."""
    wanted = {citation.passage_id for answer in answers for citation in answer.citations}
    return {passage.id: passage for passage, _ in iter_passages(path) if passage.id in wanted}


def _entry(
    gold: dict[str, Any], answer: Answer | None, docs: Mapping[str, Passage], source: Path, noted: Counter[str]
) -> dict[str, Any]:
    entry = dict(gold)
    entry.setdefault("question", "" if answer is None else answer.question)
    if answer is None:
        noted[_UNANSWERED] += 1
        return entry | {"docs": [], "output": ""}
    try:
        cited = _numbered(answer, docs)
    except InputError as error:
        raise InputError(str(error), source, line_of(source, answer.id)) from None
    lines = answer.text.splitlines()
    noted.update({_LINE_ENDS: len(lines) - 1} if len(lines) > 1 else {})
    loose = sum(int(mark) > len(cited) for mark in _MARK.findall(answer.text))
    noted.update({_LOOSE_MARKS: loose} if loose else {})
    return entry | {"docs": cited, "output": " ".join(line.strip() for line in lines).strip()}


def _numbered(answer: Answer, docs: Mapping[str, Passage]) -> list[dict[str, str]]:
    """Return the cited passages in the order of their marks."""
    by_mark: dict[int, str] = {}
    for citation in answer.citations:
        if citation.passage_id not in docs:
            raise InputError(f"{answer.id!r} cites {citation.passage_id!r}, which is not in passages.jsonl")
        if by_mark.setdefault(citation.n, citation.passage_id) != citation.passage_id:
            raise InputError(f"{answer.id!r} has the mark [{citation.n}] for two passages; expected one")
    if sorted(by_mark) != list(range(1, len(by_mark) + 1)):
        raise InputError(f"{answer.id!r} has the marks {sorted(by_mark)}; expected 1, 2, .. without a gap")
    passages = [docs[by_mark[n]] for n in sorted(by_mark)]
    return [{"id": passage.id, "title": passage.title, "text": passage.text} for passage in passages]


def _document(entries: list[dict[str, Any]]) -> list[str]:
    """Return the lines of `{"data": [..]}`, one an entry."""
    lines = [json.dumps(entry, ensure_ascii=False) for entry in entries]
    ends = [","] * (len(lines) - 1) + ["]}"]
    starts = ['{"data": ['] + [""] * (len(lines) - 1)
    return [start + line + end for start, line, end in zip(starts, lines, ends, strict=True)]
