"""Gold and predicted records in KILT's format, checked: what the official scorer stops at is refused with its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cosup.data.jsonl import iter_jsonl
from cosup.errors import InputError

T = TypeVar("T", "Gold", "Guess")


@dataclass(frozen=True, slots=True)
class Gold:
    """A question's gold record.

    Attributes:
        line: 1-based line in the file.
        answers: distinct, stripped, none blank; empty where the outputs hold provenance alone.
        pages: ids of the pages of each output, where they are named; an empty set for an output without.
        evidence: the distinct sets of pages of the outputs that have `provenance`; an empty list gives the empty set,
            and an entry without a page the id "".
    """

    id: str
    line: int
    answers: tuple[str, ...]
    pages: tuple[frozenset[str], ...]
    evidence: tuple[frozenset[str], ...]


@dataclass(frozen=True, slots=True)
class Guess:
    """A prediction.

    Attributes:
        line: 1-based line in the file.
        answer: stripped; "" where nothing was answered.
        is_text: whether the answer was a text in the file; a number, for example, is scored as it is written.
        pages: ids of the predicted pages, distinct, best first.
        without_page: entries of the provenance that name no page; they are left out.
    """

    id: str
    line: int
    answer: str
    is_text: bool
    pages: tuple[str, ...]
    without_page: int


def read_golds(path: Path) -> dict[str, Gold]:
    """Read a gold file: id -> record, in the order of the file.

    Raises:
        InputError: the file is empty, an id comes twice, or a record lacks what the scorer needs; names the line.
    """
    return _by_id(path, _gold)


def read_guesses(path: Path) -> dict[str, Guess]:
    """Read a file of predictions: id -> record, in the order of the file.

    Raises:
        InputError: the file is empty, an id comes twice, or a record has not exactly one output with an answer.
    """
    return _by_id(path, _guess)


def _by_id(path: Path, parse: Callable[[str, int, list[dict[str, Any]]], T]) -> dict[str, T]:
    found: dict[str, T] = {}
    for line, record in iter_jsonl(path):
        try:
            read = parse(_id(record), line, _outputs(record))
        except InputError as error:
            raise InputError(str(error), path, line) from None
        if read.id in found:
            first = found[read.id].line
            raise InputError(f"id {read.id!r} comes twice (first on line {first}); expected distinct ids", path, line)
        found[read.id] = read
    if not found:
        raise InputError("the file is empty; expected one KILT record a line", path)
    return found


def _gold(identifier: str, line: int, outputs: list[dict[str, Any]]) -> Gold:
    if not outputs:
        raise InputError("field 'output' is empty; expected at least one entry with an answer or provenance")
    answers: dict[str, None] = {}
    evidence: dict[frozenset[str], None] = {}
    for output in outputs:
        answer = output.get("answer")
        if answer and not isinstance(answer, str):
            raise InputError(f"a gold answer is {_kind(answer)}; expected a text")
        if answer and answer.strip():
            answers[answer.strip()] = None
        if "provenance" in output:
            evidence[frozenset(_page(entry) or "" for entry in _provenance(output))] = None
    pages = tuple(frozenset(_named_pages(output)) for output in outputs)
    return Gold(identifier, line, tuple(answers), pages, tuple(evidence))


def _guess(identifier: str, line: int, outputs: list[dict[str, Any]]) -> Guess:
    if len(outputs) != 1:
        raise InputError(f"the prediction of {identifier!r} has {len(outputs)} outputs; expected exactly one")
    if "answer" not in outputs[0]:
        raise InputError(f"the prediction of {identifier!r} has no 'answer'; expected one (\"\" where there is none)")
    answer, named = outputs[0]["answer"], list(_named_pages(outputs[0]))
    without = len(_provenance(outputs[0])) - len(named)
    return Guess(identifier, line, str(answer).strip(), isinstance(answer, str), tuple(dict.fromkeys(named)), without)


def _id(record: dict[str, Any]) -> str:
    if "id" not in record:
        raise InputError("there is no field 'id'; expected the question's id")
    return str(record["id"]).strip()


def _outputs(record: dict[str, Any]) -> list[dict[str, Any]]:
    if "output" not in record:
        raise InputError("there is no field 'output'; expected a list of answers and provenance")
    return _objects(record["output"], "output")


def _provenance(output: dict[str, Any]) -> list[dict[str, Any]]:
    return _objects(output["provenance"], "provenance") if "provenance" in output else []


def _named_pages(output: dict[str, Any]) -> Iterator[str]:
    return (page for page in map(_page, _provenance(output)) if page is not None)


def _page(entry: dict[str, Any]) -> str | None:
    return str(entry["wikipedia_id"]).strip() if "wikipedia_id" in entry else None


def _objects(value: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        found = _kind(value) if not isinstance(value, list) else "a list of other things"
        raise InputError(f"field '{name}' is {found}; expected a list of objects")
    return value


def _kind(value: Any) -> str:
    kinds = {str: "a text", bool: "true or false", list: "a list", dict: "an object", type(None): "null"}
    return kinds.get(type(value), "a number")
