"""BEIR folders: `corpus.jsonl`, `queries.jsonl`, `qrels/*.tsv`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cosup.data.formats.base import Converted, Place
from cosup.data.jsonl import iter_jsonl, read_text
from cosup.data.reading import passage_from_dict, unique_records
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
    passages = _passages(source / "corpus.jsonl", skipped)
    known = {passage.id for passage in passages}
    queries = _queries(source / "queries.jsonl")
    splits = sorted((source / "qrels").glob("*.tsv"))
    if not splits:
        raise InputError("found no .tsv file there; expected the relevance judgements of BEIR", source / "qrels")
    files: dict[str, Sequence[JsonRecord]] = {"passages.jsonl": passages}
    for split in splits:
        files[f"questions.{split.stem}.jsonl"] = _questions(split, queries, known, skipped)
    return Converted(files, skipped)


def _passages(path: Path, skipped: Counter[str]) -> list[Passage]:
    rows = []
    for line, record in iter_jsonl(path):
        if record.get("text") == "" and not record.get("title"):
            skipped[_EMPTY] += 1
        else:
            rows.append((line, record))
    return unique_records(rows, passage_from_dict, path)


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
        try:
            yield cells[0], cells[1], float(cells[2])
        except ValueError:
            raise place.error(f"found the score {cells[2]!r}; expected a number") from None
