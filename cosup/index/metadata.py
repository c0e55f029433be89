"""The metadata of a segment's passages in columns, so that a filter is one look at each distinct value.

    metadata.json   the keys, and of each key its distinct values
    metadata.bin    [K, N] int32: number of the value of each passage under each key; -1 where it has none

Neither is there where no passage has metadata. Both are read when the first filter comes. While they are written a key
takes 16 bytes of memory a passage; then, and once a filter came, all of a key's distinct values are in memory.

Shapes: N passages, K keys.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cosup.fields import Scalar
from cosup.index.base import damaged
from cosup.index.filters import Condition, Filter
from cosup.records import Passage

VALUES, CODES = "metadata.json", "metadata.bin"

Mask: TypeAlias = NDArray[np.bool_]


class MetadataWriter:
    """Gathers the metadata of passages as they go by."""

    def __init__(self) -> None:
        self._count = 0
        self._codes: dict[str, dict[tuple[type, Scalar], int]] = {}
        self._rows: dict[str, tuple[array[int], array[int]]] = {}

    def follow(self, passages: Iterable[Passage]) -> Iterator[Passage]:
        """Yield the passages, and keep what they hold."""
        for passage in passages:
            for key, value in passage.metadata.items():
                codes = self._codes.setdefault(key, {})
                rows, found = self._rows.setdefault(key, (array("q"), array("i")))
                rows.append(self._count)
                found.append(codes.setdefault((type(value), value), len(codes)))
            self._count += 1
            yield passage

    def write(self, folder: Path) -> None:
        """Write the columns, if any passage had metadata."""
        if not self._codes:
            return
        table = np.full((len(self._codes), self._count), -1, dtype="<i4")
        for column, (rows, found) in zip(table, self._rows.values(), strict=True):
            column[np.asarray(rows)] = found
        table.tofile(folder / CODES)
        values = {key: [value for _, value in codes] for key, codes in self._codes.items()}
        (folder / VALUES).write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")


class Metadata:
    """The columns of a segment whose passages have metadata.

    Args:
        folder: of the segment.
        count: N.

    Raises:
        OSError: a file cannot be opened; it may be gone with a segment that the index no longer has.
        InputError: a file is damaged; one whose content is looked at later raises it then.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self._folder = folder
        self._count = count
        self._columns: dict[str, tuple[list[Scalar], NDArray[np.int32]]] | None = None
        try:
            self._map = np.asarray(np.memmap(folder / CODES, "<i4", "r").reshape(-1, count))
        except ValueError as error:
            raise damaged(folder / CODES) from error
        try:
            self._values = np.memmap(folder / VALUES, np.uint8, "r")
        except ValueError as error:
            raise damaged(folder / VALUES) from error

    def mask(self, filter: Filter) -> Mask:
        """Return which passages meet a filter: [N]."""
        found = np.ones(self._count, dtype=np.bool_)
        for condition in filter.conditions:
            found &= self._holds(condition)
        return found

    def _holds(self, condition: Condition) -> Mask:
        absent = condition.holds({})
        if condition.key not in self._read():
            return np.full(self._count, absent)
        values, codes = self._read()[condition.key]
        met = np.array([*(condition.holds({condition.key: value}) for value in values), absent])
        return np.asarray(met[codes], dtype=np.bool_)

    def _read(self) -> dict[str, tuple[list[Scalar], NDArray[np.int32]]]:
        if self._columns is None:
            values = self._read_values()
            codes = list(self._map)
            if len(codes) != len(values):
                raise damaged(self._folder / CODES)
            for column, known in zip(codes, values.values(), strict=True):
                if column.min() < -1 or column.max() >= len(known):
                    raise damaged(self._folder / CODES)
            self._columns = {key: (values[key], column) for key, column in zip(values, codes, strict=True)}
        return self._columns

    def _read_values(self) -> dict[str, list[Scalar]]:
        """Return the distinct values of each key."""
        try:
            values = json.loads(self._values.tobytes().decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise damaged(self._folder / VALUES) from error
        columns = values.values() if isinstance(values, dict) else [None]
        if not all(isinstance(c, list) and all(isinstance(v, str | int | float) for v in c) for c in columns):
            raise damaged(self._folder / VALUES)
        return dict(values)
