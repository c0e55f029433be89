"""Fields of a record's JSON form: read by name, checked, and refused in a line that says what was found.

Every function takes the record and a field's name and raises `InputError`; whoever reads a file adds file and line.
"""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from typing import Any, TypeAlias, TypeVar

from cosup.errors import InputError, did_you_mean

Json: TypeAlias = Mapping[str, Any]
Scalar: TypeAlias = str | int | float | bool
T = TypeVar("T")


def check_names(record: Json, kind: type, others: tuple[str, ...] = ()) -> None:
    """Refuse a name that is nearly that of a field which may be missing and is; other names are no business of ours."""
    names = _names(kind)
    unknown = [name for name in record if name not in names and name not in others]
    if not unknown:
        return
    missing = tuple(name for name, optional in names.items() if optional and name not in record)
    for name in unknown:
        if near := _nearly(str(name), missing):
            raise InputError(f"no field '{name}' is known (did you mean '{near}'?); rename it, or take it out")


@cache
def _names(kind: type) -> dict[str, bool]:
    """Return the fields of a record, and whether they may be missing."""
    return {own.name: own.default is not dataclasses.MISSING for own in dataclasses.fields(kind)}


@lru_cache(maxsize=4096)
def _nearly(name: str, known: tuple[str, ...]) -> str | None:
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.8)
    return near[0] if near else None


def set_only(**values: Any) -> dict[str, Any]:
    """Return the fields that have a value, for a form that leaves the others out."""
    return {name: value for name, value in values.items() if value is not None}


def _missing(record: Json, name: str) -> InputError:
    return InputError(f"no field '{name}'{did_you_mean(name, record)}; found {', '.join(map(repr, record)) or 'none'}")


def wrong(name: str, value: Any, expected: str) -> InputError:
    """Return the error of a field's value, which it shows, cut where it is long."""
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return InputError(f"field '{name}' is {type(value).__name__} {shown}; expected {expected}")


def identity(record: Json) -> str:
    """Read `id`: text, or a whole number, which is taken as text."""
    value = record.get("id")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text(record, "id", filled=True)


def text(record: Json, name: str, default: str | None = None, filled: bool = False) -> str:
    """Read text; a default stands for a field that is missing or null, and `filled` wants more than white space."""
    value = record.get(name, default)
    if value is None:
        if name in record and default is not None:
            return default
        raise _missing(record, name) if name not in record else wrong(name, value, "text")
    if not isinstance(value, str):
        raise wrong(name, value, "text")
    if filled and not value.strip():
        raise wrong(name, value, "text that is not empty")
    return value


def optional_text(record: Json, name: str) -> str | None:
    """Read text, None where the field is missing or null."""
    return None if record.get(name) is None else text(record, name)


def _items(record: Json, name: str) -> list[Json]:
    value = record.get(name)
    value = [] if value is None else value
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise wrong(name, value, "a list of objects")
    return value


def each(record: Json, name: str, read: Callable[[Json], T]) -> tuple[T, ...]:
    """Read each object of a list; an error says which one it is of."""
    found = []
    for place, item in enumerate(_items(record, name)):
        try:
            found.append(read(item))
        except InputError as error:
            raise InputError(f"{name}[{place}]: {error}") from None
    return tuple(found)


def texts(record: Json, name: str) -> tuple[str, ...]:
    """Read a list of texts, empty where the field is missing or null."""
    value = record.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise wrong(name, value, "a list of texts")
    return tuple(value)


def text_lists(record: Json, name: str) -> tuple[tuple[str, ...], ...]:
    """Read a list of lists of texts, none of them empty; empty where the field is missing or null."""
    value = record.get(name)
    if value is None:
        return ()
    lists: list[Any] = value if isinstance(value, list) else [None]
    if not all(isinstance(item, list) and item and all(isinstance(one, str) for one in item) for item in lists):
        raise wrong(name, value, "a list of lists of texts, none of them empty")
    return tuple(tuple(item) for item in lists)


def metadata(record: Json) -> dict[str, Scalar]:
    """Read flat metadata; a field that is null is as good as not there."""
    value = record.get("metadata")
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise wrong("metadata", value, "an object")
    for key, item in value.items():
        if not (item is None or isinstance(item, str | bool) or _is_number(item)):
            raise wrong(f"metadata.{key}", item, "text, a number, true or false")
    return {key: item for key, item in value.items() if item is not None}


def number(record: Json, name: str) -> float:
    """Read a number, whole or not; never NaN, infinity, true or false."""
    value = record.get(name)
    if value is None:
        raise _missing(record, name)
    if not _is_number(value):
        raise wrong(name, value, "a number")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(abs(value) <= sys.float_info.max)


def whole(record: Json, name: str) -> int:
    """Read a whole number; 3.0 is one."""
    value = number(record, name)
    if not value.is_integer():
        raise wrong(name, value, "a whole number")
    return int(value)
