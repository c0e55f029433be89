"""Reading passages, questions, examples and predictions; every error names the file and the line."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from cosup.data.folders import chunk_folder
from cosup.data.jsonl import iter_jsonl
from cosup.data.lines import iter_lines
from cosup.data.sources import Kind, kind_of
from cosup.data.tables import table_rows
from cosup.errors import InputError
from cosup.records import Answer, Example, Passage, Question


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


Record = TypeVar("Record", bound=_HasId)
Item = TypeVar("Item")


def read_passages(path: str | Path) -> list[Passage]:
    """Read a corpus, in its order.

    Args:
        path: a JSONL file (`{"id" or "_id", "title", "text"}`), a Parquet file with these columns, a Markdown or text
            file, a folder (with a `passages.jsonl`; a BEIR folder with a `corpus.jsonl`; a dataset saved by
            `datasets`; of Markdown and text files), or a `datasets` hub id `owner/name` or `owner/name:split`.

    Raises:
        InputError: nothing is there, or a record is wrong.
    """
    kind, place = kind_of(path)
    if kind is Kind.JSONL:
        return _read(place, passage_from_dict)
    if kind is Kind.TEXTS:
        return chunk_folder(place)
    return unique_records(table_rows(kind, path), passage_from_dict, path, unit="row")


def passage_from_dict(record: Mapping[str, Any]) -> Passage:
    """Read a passage, or a BEIR document: its id is called `_id`, and its title is the text where it has no text."""
    if "_id" in record and "id" not in record:
        title, text = record.get("title"), record.get("text")
        body = {"title": "", "text": title} if title and text == "" else {}
        record = {**record, "id": record["_id"], **body}
    return Passage.from_dict(record)


def read_questions(path: str | Path) -> list[Question]:
    """Read a `questions.jsonl`, in its order. Raises `InputError` naming file and line."""
    return _read(path, Question.from_dict)


def read_examples(path: str | Path) -> list[Example]:
    """Read an `examples.jsonl`, in its order. Raises `InputError` naming file and line."""
    return _read(path, Example.from_dict)


def read_answers(path: str | Path) -> list[Answer]:
    """Read a `predictions.jsonl`, in its order. Raises `InputError` naming file and line."""
    return _read(path, Answer.from_dict)


def read_ids(path: str | Path) -> list[str]:
    """Read a file of ids, one a line.

    Raises:
        InputError: the file cannot be read, has no id or is not UTF-8.
    """
    ids = []
    for number, _, data in iter_lines(path):
        try:
            found = data.decode("utf-8").strip()
        except UnicodeDecodeError:
            raise InputError("found no UTF-8 text; expected an id", path, number) from None
        ids += [found] if found else []
    if not ids:
        raise InputError("found no ids; expected one a line", path)
    return ids


def read_all(read: Callable[[str], Iterable[Record]], paths: Iterable[str | Path]) -> list[Record]:
    """Read several files of one kind, in their order.

    Args:
        read: reads one of them, such as `read_passages`.
        paths: the files.

    Raises:
        InputError: an id stands in two files; and what `read` raises.
    """
    seen: dict[str, str | Path] = {}
    records: list[Record] = []
    for path in paths:
        for record in read(str(path)):
            if record.id in seen:
                raise InputError(f"id {record.id!r} stands in {seen[record.id]} too; expected distinct ids", path)
            seen[record.id] = path
            records.append(record)
    return records


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """Return `most` of `items`, spread evenly over them and beginning with the first; all where there are no more.

    Neighbours in a file are often about one thing, so that its first lines would be a poor sample.

    Args:
        items: any.
        most: from 0.
    """
    most = min(most, len(items))
    return [items[i * len(items) // most] for i in range(most)]


def _read(path: str | Path, parse: Callable[[Mapping[str, Any]], Record]) -> list[Record]:
    return unique_records(iter_jsonl(path), parse, path)


def unique_records(
    rows: Iterable[tuple[int, Mapping[str, Any]]],
    parse: Callable[[Mapping[str, Any]], Record],
    path: str | Path,
    unit: str = "line",
) -> list[Record]:
    """Parse numbered rows into records with distinct ids.

    Args:
        rows: pairs of a number and a record's JSON form.
        parse: makes the record; raises `InputError` without a path.
        path: where the rows come from, for messages.
        unit: what the numbers count: `line`, or `row` in a table.

    Raises:
        InputError: a row is wrong, an id comes twice, or there are no rows.
    """
    seen: dict[str, int] = {}
    records: list[Record] = []
    for number, row in rows:
        try:
            record = parse(row)
            if record.id in seen:
                raise InputError(f"id {record.id!r} again, after {unit} {seen[record.id]}; expected distinct ids")
        except InputError as error:
            at_line = number if unit == "line" else None
            raise InputError(f"{error}" if at_line else f"{unit} {number}: {error}", path, at_line) from None
        seen[record.id] = number
        records.append(record)
    if not records:
        raise InputError(f"found no records; expected at least one {unit}", path)
    return records


def check_references(
    records: Iterable[Question | Example | Answer],
    passages: Iterable[Passage] | Mapping[str, Passage],
    path: str | Path,
) -> None:
    """Check that every passage id that `records` name is one of `passages`; of predictions, those read or cited.

    Args:
        records: what was read.
        passages: the corpus.
        path: the file that the records were read from, for the message.

    Raises:
        InputError: an id is unknown; names file, line, record and id.
    """
    known: Collection[str] = passages.keys() if isinstance(passages, Mapping) else {p.id for p in passages}
    for record in records:
        try:
            check_record(record, known)
        except InputError as error:
            raise InputError(str(error), path, line_of(path, record.id)) from None


def check_record(record: Question | Example | Answer, known: Collection[str]) -> None:
    """Check that every passage id that a record names is a known one; see `check_references`.

    Raises:
        InputError: one is not; names record and id.
    """
    for field, passage_id in references_of(record):
        if passage_id not in known:
            raise unknown_passage(field, record.id, passage_id, len(known))


def unknown_passage(field: str, record_id: str, passage_id: str, count: int) -> InputError:
    """Return the error of a record that names a passage which is none of `count`."""
    found = f"{field} of {record_id!r} names the passage {passage_id!r}"
    return InputError(f"{found}; expected the id of one of the {count:,} passages")


def references_of(record: Question | Example | Answer) -> Iterator[tuple[str, str]]:
    """Yield the passage ids that a record names, each with the field it stands in."""
    if isinstance(record, Answer):
        yield from (("retrievals", hit.passage_id) for r in record.retrievals for hit in r.hits[: r.read])
        yield from (("citations", c.passage_id) for c in record.citations)
    elif isinstance(record, Question):
        yield from (("evidence", e.passage_id) for e in record.evidence)
        yield from (("candidates", c) for c in record.candidates or ())
        yield from (("evidence_sets", passage_id) for ids in record.evidence_sets for passage_id in ids)
    else:
        yield from (("output", p) for p in record.passage_ids)
        yield from (("negatives", n) for n in record.negatives)


def line_of(path: str | Path, record_id: str) -> int | None:
    """Return the line of the record with this id, found by reading the file again; None where it isn't there."""
    if not Path(path).is_file():
        return None
    return next((n for n, record in iter_jsonl(path) if str(record.get("id")) == record_id), None)
