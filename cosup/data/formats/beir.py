"""BEIR folders, read and written: `corpus.jsonl`, `queries.jsonl`, `qrels/*.tsv`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cosup.data.formats.base import Converted, Place, iter_passages
from cosup.data.jsonl import iter_jsonl, read_text
from cosup.data.reading import line_of, passage_from_dict, read_questions, unique_records
from cosup.data.writing import JsonRecord
from cosup.errors import InputError
from cosup.records import Evidence, Passage, Question

_EMPTY = "documents with neither a title nor a text"
_UNKNOWN_PASSAGE = "judgements of documents that the corpus lacks or that are empty"
_UNKNOWN_QUERY = "judgements of queries that are not in queries.jsonl"
_NOT_RELEVANT = "judgements with a score of 0 or less"


def read_beir(source: Path) -> Converted:
    """Read a BEIR folder: one `questions.<split>.jsonl` for each file of `qrels`, evidence best score first.

    A document without text has its title as text. Questions are those with at least one judgement above 0.

    Raises:
        InputError: a file is missing or wrong; names file and line.
    """
    skipped: Counter[str] = Counter()
    corpus = source / "corpus.jsonl"
    known = _ids(corpus, skipped)
    queries = _queries(source / "queries.jsonl")
    splits = sorted((source / "qrels").glob("*.tsv"))
    if not splits:
        raise InputError("found no .tsv file there; expected the relevance judgements of BEIR", source / "qrels")
    files: dict[str, Iterable[JsonRecord | str]] = {"passages.jsonl": _passages(corpus, Counter())}
    for split in splits:
        files[f"questions.{split.stem}.jsonl"] = _questions(split, queries, known, skipped)
    return Converted(files, skipped)


def _ids(path: Path, skipped: Counter[str]) -> set[str]:
    """Read the corpus once to check it; its texts stay on disk."""
    known: set[str] = set()
    for passage in _passages(path, skipped, known):
        known.add(passage.id)
    return known


def _passages(path: Path, skipped: Counter[str], known: Collection[str] = ()) -> Iterator[Passage]:
    """Yield the documents with a title or a text; an id of `known` is refused."""
    for line, record in iter_jsonl(path):
        if record.get("text") == "" and not record.get("title"):
            skipped[_EMPTY] += 1
            continue
        with Place(path, line=line).named():
            passage = passage_from_dict(record)
            if passage.id in known:
                raise InputError(f"id {passage.id!r} again; expected distinct ids")
            yield passage


def _queries(path: Path) -> dict[str, str]:
    return {query.id: query.question for query in unique_records(iter_jsonl(path), _query_from_dict, path)}


def _query_from_dict(record: Mapping[str, Any]) -> Question:
    missing = next((name for name in ("_id", "text") if name not in record), None)
    if missing:
        raise InputError(f"no field '{missing}'; found {', '.join(map(repr, record)) or 'none'}")
    return Question.from_dict({"id": record["_id"], "question": record["text"]})


def _questions(path: Path, queries: dict[str, str], known: set[str], skipped: Counter[str]) -> list[Question]:
    relevant: dict[str, dict[str, float]] = {}
    for query_id, passage_id, score in _judgements(path):
        reason = _NOT_RELEVANT if score <= 0 else _UNKNOWN_QUERY if query_id not in queries else None
        reason = reason or (_UNKNOWN_PASSAGE if passage_id not in known else None)
        if reason:
            skipped[reason] += 1
        else:
            relevant.setdefault(query_id, {})[passage_id] = score
    return [_question(query_id, queries[query_id], scores) for query_id, scores in relevant.items()]


def _question(query_id: str, text: str, scores: dict[str, float]) -> Question:
    best_first = sorted(scores, key=lambda passage_id: -scores[passage_id])
    return Question(query_id, text, evidence=tuple(Evidence(passage_id) for passage_id in best_first))


def _judgements(path: Path) -> Iterator[tuple[str, str, float]]:
    """Yield `(query id, document id, score)`; the header line is left out."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        cells = [cell.strip() for cell in line.split("\t")]
        if not line.strip() or (number == 1 and cells[-1].lower() == "score"):
            continue
        place = Place(path, line=number)
        if len(cells) != 3:
            raise place.error(f"found {len(cells)} columns; expected query-id, corpus-id and score between tabs")
        yield cells[0], cells[1], _score(cells[2], place)


def _score(cell: str, place: Place) -> float:
    try:
        score = float(cell)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise place.error(f"found the score {cell!r}; expected a number")
    return score


def write_beir(source: Path) -> Converted:
    """Turn a folder of ours into one of BEIR's: each `questions.<split>.jsonl` becomes `qrels/<split>.tsv`.

    Every gold passage has the score 1, in the order of the evidence; `questions.jsonl` is the split `test`.

    Raises:
        InputError: a file is missing or wrong, a question differs between two splits, or an id has a tab or a line end.
    """
    splits = question_files(source)
    queries: dict[str, str] = {}
    qrels: dict[str, list[str]] = {}
    for split, path in splits.items():
        questions = read_questions(path)
        for question in questions:
            if queries.setdefault(question.id, question.question) != question.question:
                message = f"question {question.id!r} has another text in another file; expected one"
                raise InputError(message, path, line_of(path, question.id))
        rows = [row for question in questions for row in _rows(question, path)]
        qrels[f"qrels/{split or 'test'}.tsv"] = [f"query-id\tcorpus-id\tscore\n{rows[0]}", *rows[1:]] if rows else []
    texts = ({"_id": name, "text": text} for name, text in queries.items())
    return Converted({"corpus.jsonl": _documents(source / "passages.jsonl"), "queries.jsonl": texts, **qrels})


def question_files(source: Path) -> dict[str, Path]:
    """Return the `questions.jsonl` and `questions.<split>.jsonl` of a folder by split; the first has none.

    Raises:
        InputError: there are none.
    """
    files = sorted(source.glob("questions*.jsonl"))
    if not files:
        raise InputError("found no questions.jsonl or questions.*.jsonl there; expected a folder with them", source)
    return {file.name.removeprefix("questions").removesuffix("jsonl").strip("."): file for file in files}


def _documents(path: Path) -> Iterator[dict[str, str]]:
    for passage, _ in iter_passages(path):
        yield {"_id": passage.id, "title": passage.title, "text": passage.text}


def _rows(question: Question, path: Path) -> Iterator[str]:
    """Yield the judgements of a question as rows of a table."""
    for name in (question.id, *question.gold_ids) if question.evidence else ():
        if name != name.strip() or "\t" in name or len(name.splitlines()) > 1:
            message = f"id {name!r} has white space that a table cannot hold; expected none at its ends, no tabs"
            raise InputError(message, path, line_of(path, question.id))
    yield from (f"{question.id}\t{gold}\t1" for gold in question.gold_ids)
