"""Passages, ids and filters in the language of Milvus: rows, and expressions in which every value stays a value.

Metadata is kept by kind, `{"text": {..}, "number": {..}, "flag": {..}}`, so that a comparison only ever meets values of
its own kind: what Milvus makes of text against a number differs between its versions. Keys whose spelling could mean
something in an expression are written in hexadecimal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from cosup.errors import InputError
from cosup.fields import Scalar
from cosup.index.base import Vectors
from cosup.index.filters import Condition, Filter
from cosup.records import Passage

Row: TypeAlias = dict[str, Any]

LONGEST_TEXT = 65_535  # bytes of a text that Milvus holds
FIELDS = ("id", "number", "title", "text", "metadata")

_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_OPERATORS = {"eq": "==", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_PLAIN_KEY = re.compile(r"(?!x_)[A-Za-z][A-Za-z0-9_]*")
_LARGEST = 2**63 - 1


def row_of(passage: Passage, number: int, vector: Vectors) -> Row:
    """Return a passage as a row of Milvus.

    Args:
        passage: the passage.
        number: its place in the order of the corpus.
        vector: [D].

    Raises:
        InputError: it holds what Milvus cannot; names the passage.
    """
    for name in ("id", "title", "text"):
        size = len(getattr(passage, name).encode("utf-8"))
        if size > LONGEST_TEXT:
            raise InputError(
                f"passage {passage.id[:60]!r}: its {name} has {size:,} bytes, and Milvus holds {LONGEST_TEXT:,}; "
                "cut it into shorter passages"
            )
    row: Row = {"id": passage.id, "number": number, "title": passage.title, "text": passage.text}
    return row | {"vector": vector, "metadata": _by_kind(passage)}


def passage_of(row: Mapping[str, Any]) -> Passage:
    """Return the passage of a row with `FIELDS`."""
    kinds: Mapping[str, Mapping[str, Scalar]] = row["metadata"] or {}
    metadata = {_read_key(key): value for kind in kinds.values() for key, value in kind.items()}
    return Passage(row["id"], row["title"], row["text"], metadata)


def ids_expression(ids: Iterable[str]) -> str:
    """Return the expression for "its id is one of these"."""
    return f"id in [{', '.join(map(text_literal, ids))}]"


def filter_expression(filter: Filter) -> str:
    """Return the expression of a filter; it holds of the rows of whose passages the filter holds.

    Raises:
        UsageError: a number in it is not finite.
    """
    return " and ".join(f"({_condition(condition)})" for condition in filter.conditions)


def text_literal(text: str) -> str:
    """Return a text as a literal: whatever it holds, it stays one text."""
    return '"' + "".join(_ESCAPES.get(character, character) for character in text) + '"'


def _condition(condition: Condition) -> str:
    if isinstance(condition.value, tuple):
        return " or ".join(_comparison(condition.key, "==", value) for value in condition.value) or "id in []"
    if condition.comparison == "ne":
        path = _path(condition.key, condition.value)
        return f"(not (exists {path})) or {path} != {_literal(condition.value)}"
    return _comparison(condition.key, _OPERATORS[condition.comparison], condition.value)


def _comparison(key: str, operator: str, value: Scalar) -> str:
    if isinstance(value, bool) and operator not in ("==", "!="):
        met = [flag for flag in (False, True) if _ORDER[operator](flag, value)]
        return " or ".join(_comparison(key, "==", flag) for flag in met) or "id in []"
    return f"{_path(key, value)} {operator} {_literal(value)}"


_ORDER: dict[str, Any] = {
    ">": bool.__gt__,
    ">=": bool.__ge__,
    "<": bool.__lt__,
    "<=": bool.__le__,
}


def _path(key: str, value: Scalar) -> str:
    return f'metadata["{_kind(value)}"]["{_written_key(key)}"]'


def _literal(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return text_literal(value)
    return repr(value if isinstance(value, int) and abs(value) <= _LARGEST else float(value))


def _by_kind(passage: Passage) -> dict[str, dict[str, Scalar]]:
    kinds: dict[str, dict[str, Scalar]] = {}
    for key, value in passage.metadata.items():
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise InputError(
                f"passage {passage.id[:60]!r}: metadata.{key} is {value}, and Milvus holds whole numbers up to 2^63"
            )
        kinds.setdefault(_kind(value), {})[_written_key(key)] = value
    return kinds


def _kind(value: Scalar) -> str:
    if isinstance(value, bool):
        return "flag"
    return "text" if isinstance(value, str) else "number"


def _written_key(key: str) -> str:
    return key if _PLAIN_KEY.fullmatch(key) else "x_" + key.encode("utf-8").hex()


def _read_key(written: str) -> str:
    return bytes.fromhex(written[2:]).decode("utf-8") if written.startswith("x_") else written


def in_batches(rows: Sequence[Row], most_rows: int, most_bytes: int) -> Iterable[list[Row]]:
    """Yield rows in batches that one message can hold."""
    batch: list[Row] = []
    size = 0
    for row in rows:
        own = 4 * len(row["vector"]) + 4 * (len(row["text"]) + len(row["title"]) + len(row["id"])) + 200
        if batch and (len(batch) == most_rows or size + own > most_bytes):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += own
    if batch:
        yield batch
