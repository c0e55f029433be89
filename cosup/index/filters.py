"""Filters on passages' metadata: one form for every index.

A filter is a mapping from metadata keys to what they must be, all of it together:

    {"lang": "en"}                          equal
    {"lang": ["en", "de"]}                  one of these
    {"year": {"gte": 2000, "lt": 2010}}     in a range; also `gt`, `lte`, `ne`

A passage without the key does not match, but for `ne`. Text is compared with text and numbers with numbers: what is of
another kind does not match.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from cosup.errors import UsageError, did_you_mean
from cosup.fields import Scalar

Comparison: TypeAlias = Callable[[Any, Any], bool]

COMPARISONS: dict[str, Comparison] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}


@dataclass(frozen=True, eq=False)
class Condition:
    """One condition on one key; equal to another that asks the same.

    Attributes:
        key: of the metadata.
        comparison: a name of `COMPARISONS`, or `in`.
        value: what it is compared with; for `in` a tuple.
    """

    key: str
    comparison: str
    value: Scalar | tuple[Scalar, ...]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Condition) and self._asked == other._asked

    def __hash__(self) -> int:
        return hash(self._asked)

    @property
    def _asked(self) -> tuple[object, ...]:
        """What is asked, the kinds of values among it: to Python `1 == True`, but they hold of different passages."""
        values = self.value if isinstance(self.value, tuple) else (self.value,)
        return self.key, self.comparison, tuple((_kind(value), value) for value in values)

    def holds(self, metadata: Mapping[str, Scalar]) -> bool:
        """Whether a passage's metadata meets it."""
        if self.key not in metadata:
            return self.comparison == "ne"
        found = metadata[self.key]
        if isinstance(self.value, tuple):
            return any(_alike(found, value) and found == value for value in self.value)
        if not _alike(found, self.value):
            return self.comparison == "ne"
        return bool(COMPARISONS[self.comparison](found, self.value))


@dataclass(frozen=True)
class Filter:
    """Conditions that all must hold; see the top of the file for the form that `parse` reads."""

    conditions: tuple[Condition, ...]

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> Filter:
        """Check and read a filter.

        Raises:
            UsageError: it has no such form; says what was found.
        """
        if not isinstance(record, Mapping) or not record:
            raise UsageError(f'filter is {record!r}; expected a mapping such as {{"lang": "en"}}')
        return cls(tuple(c for key, wanted in record.items() for c in _conditions(key, wanted)))

    def holds(self, metadata: Mapping[str, Scalar]) -> bool:
        """Whether a passage's metadata meets every condition."""
        return all(condition.holds(metadata) for condition in self.conditions)


def _conditions(key: Any, wanted: Any) -> Sequence[Condition]:
    if not isinstance(key, str) or not key:
        raise UsageError(f"filter has the key {key!r}; expected the name of a metadata field")
    if isinstance(wanted, list | tuple):
        return [Condition(key, "in", tuple(_scalar(key, value) for value in wanted))]
    if not isinstance(wanted, Mapping):
        return [Condition(key, "eq", _scalar(key, wanted))]
    if not wanted:
        raise UsageError(f"filter has no comparison for '{key}'; expected one of {', '.join(COMPARISONS)}")
    for name in wanted:
        if name not in COMPARISONS:
            hint = did_you_mean(str(name), COMPARISONS)
            raise UsageError(f"filter compares '{key}' by '{name}'{hint}; expected one of {', '.join(COMPARISONS)}")
    return [Condition(key, name, _scalar(key, value)) for name, value in wanted.items()]


def _scalar(key: str, value: Any) -> Scalar:
    if not isinstance(value, str | int | float | bool):
        raise UsageError(f"filter compares '{key}' with {value!r}; expected text, a number, true or false")
    if isinstance(value, int | float) and not abs(value) <= sys.float_info.max:
        raise UsageError(f"filter compares '{key}' with a number that is not finite; expected one that is")
    return value


def _alike(a: Scalar, b: Scalar) -> bool:
    """Whether two values are of one kind: text, truth values, or numbers."""
    return _kind(a) == _kind(b)


def _kind(value: Scalar) -> str:
    if isinstance(value, bool):
        return "bool"
    return "text" if isinstance(value, str) else "number"
