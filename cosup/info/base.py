"""What a path holds, as pairs of a name and a value, and the words for numbers, shares and values."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosup.errors import InputError


@dataclass(frozen=True)
class Info:
    """What a path holds.

    Attributes:
        kind: what it is, in words.
        rows: pairs of a name and a value.
    """

    kind: str
    rows: tuple[tuple[str, str], ...]

    @property
    def lines(self) -> list[str]:
        """The rows under a head, names in one column."""
        width = max((len(name) for name, _ in self.rows), default=0)
        return [self.kind, *(f"  {name:<{width}}  {value}".rstrip() for name, value in self.rows)]


Rows = list[tuple[str, str]]


def spread(values: Sequence[int]) -> str:
    """Return the least, the most, the mean and the sum of numbers, in words."""
    return f"{min(values):,} to {max(values):,}, mean {statistics.fmean(values):.1f}, {sum(values):,} in all"


def share(count: int, total: int) -> str:
    """Return a count with its share of a total."""
    return f"{count:,} ({100 * count / total:.1f}%)"


def shown(value: Any) -> str:
    """Return a value as a row shows it: four digits of a number, a list on one line, no line breaks."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return value.encode("unicode_escape").decode("ascii") if isinstance(value, str) and "\n" in value else str(value)


def json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object. Raises `InputError` where it does not."""
    from cosup.data.jsonl import read_json

    record = read_json(path)
    if not isinstance(record, dict):
        raise InputError("expected a JSON object", path)
    return record
