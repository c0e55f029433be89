"""Sources of streamed records, cut into shards: stretches of files and of datasets, read where they lie.

A shard is 1,024 records of a JSONL file, a row group of a Parquet file, a stretch of a saved dataset or a data file
of a hub dataset.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from cosup.data.lines import iter_lines
from cosup.data.sources import is_saved_dataset, looks_like_hub_id
from cosup.data.tables import PAGE, ROWS_AT_ONCE, first_line, saved_dataset, split_of
from cosup.errors import InputError

LINES_A_SHARD = 1024


@dataclass(frozen=True, slots=True)
class Raw:
    """A record that is not parsed yet: a line's bytes, or a table's row."""

    path: str
    number: int
    unit: str
    data: bytes | Mapping[str, Any]


class Shard(Protocol):
    """A stretch of a source; `rows` is None where it is not known how many it has."""

    @property
    def path(self) -> str:
        """Where its records are, for messages."""
        ...

    @property
    def rows(self) -> int | None:
        """How many it has."""
        ...

    def read(self, start: int) -> Iterator[Raw]:
        """Yield its records from number `start` on, which counts from 0."""
        ...


Opened: TypeAlias = tuple[Sequence[Shard], int | None]


def open_source(source: str | Path) -> Opened:
    """Return the shards of a source and the number of its records, None where unknown."""
    name = str(source)
    place, split = Path(source), ""
    if not place.exists() and Path(name.rpartition(":")[0] or ":").is_dir():
        place, split = Path(name.rpartition(":")[0]), name.rpartition(":")[2]
    if place.suffix.lower() == ".parquet" and not place.is_dir():
        return _parquet_shards(place)
    if is_saved_dataset(place):
        return _saved_shards(place, split, name)
    if place.is_dir():
        return _hub_shards(str(place), split, name)
    if looks_like_hub_id(name):
        repository, _, split = name.partition(":")
        return _hub_shards(repository, split, name)
    return _jsonl_shards(place)


def _checked(shards: Sequence[Shard], unit: str, path: str | Path) -> Opened:
    """Count the records of shards that know theirs."""
    count = sum(shard.rows or 0 for shard in shards)
    if not count:
        raise InputError(f"found no records; expected at least one {unit}", path)
    return [shard for shard in shards if shard.rows], count


@dataclass(frozen=True, slots=True)
class _Lines:
    """Consecutive lines of a JSONL file: where they begin, the first one's number, and how many."""

    path: str
    offset: int
    first: int
    rows: int

    def read(self, start: int) -> Iterator[Raw]:
        for line in islice(iter_lines(self.path, self.offset, self.first), start, self.rows):
            yield Raw(self.path, line.number, "line", line.data)


def _jsonl_shards(path: Path) -> Opened:
    """Cut a JSONL file, reading it once."""
    shards: list[Shard] = []
    lines = iter_lines(path)
    for line in lines:
        more = sum(1 for _ in islice(lines, LINES_A_SHARD - 1))
        shards.append(_Lines(str(path), line.offset, line.number, 1 + more))
    return _checked(shards, "line", path)


@dataclass(frozen=True, slots=True)
class _RowGroup:
    """A row group of a Parquet file; `first` is the number of its first row in the file, from 1."""

    path: str
    group: int
    first: int
    rows: int

    def read(self, start: int) -> Iterator[Raw]:
        import pyarrow as pa  # type: ignore[import-untyped]
        import pyarrow.parquet as pq  # type: ignore[import-untyped]

        number = self.first
        try:
            with pq.ParquetFile(self.path, buffer_size=PAGE, pre_buffer=False) as table:
                for batch in table.iter_batches(ROWS_AT_ONCE, row_groups=[self.group], use_threads=False):
                    skipped = min(start, batch.num_rows)
                    for index, row in enumerate(batch.slice(skipped).to_pylist(), start=number + skipped):
                        yield Raw(self.path, index, "row", row)
                    number += batch.num_rows
                    start -= skipped
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot be read as Parquet: {first_line(error)}", self.path) from error


def _parquet_shards(path: Path) -> Opened:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise InputError("no such file", path)
    try:
        with pq.ParquetFile(path) as table:
            sizes = [table.metadata.row_group(i).num_rows for i in range(table.num_row_groups)]
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"cannot be read as Parquet: {first_line(error)}", path) from error
    firsts = np.cumsum([1, *sizes]).tolist()
    return _checked([_RowGroup(str(path), i, firsts[i], size) for i, size in enumerate(sizes)], "row", path)


@dataclass(frozen=True, slots=True)
class _Slice:
    """Consecutive rows of a dataset that `datasets` has mapped into memory; `first` counts from 0."""

    path: str
    data: Any
    first: int
    rows: int

    def read(self, start: int) -> Iterator[Raw]:
        for index in range(self.first + start, self.first + self.rows):
            yield Raw(self.path, index + 1, "row", self.data[index])


def _saved_shards(folder: Path, split: str, name: str) -> Opened:
    data = saved_dataset(folder, split, name)
    starts = range(0, len(data), ROWS_AT_ONCE)
    shards = [_Slice(name, data, start, min(ROWS_AT_ONCE, len(data) - start)) for start in starts]
    return _checked(shards, "row", name)


@dataclass(frozen=True, slots=True)
class _Streamed:
    """A data file of a dataset that is streamed; rows are numbered within it."""

    path: str
    data: Any
    index: int
    rows: None = None

    def read(self, start: int) -> Iterator[Raw]:
        from datasets.exceptions import DatasetsError

        shards = self.data.num_shards
        unit = "row" if shards == 1 else f"file {self.index + 1} row"
        part = self.data.shard(num_shards=shards, index=self.index)
        try:
            # Not iter(part): in a loader's worker that would be cut among the workers once more.
            rows = (row for batch in part.iter(ROWS_AT_ONCE) for row in _rows_of(batch))
            for number, row in enumerate(islice(rows, start, None), start=start + 1):
                yield Raw(self.path, number, unit, row)
        except (DatasetsError, OSError, ValueError, RuntimeError) as error:
            raise InputError(f"cannot be read: {first_line(error)}", self.path) from error


def _rows_of(batch: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    return (dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True))


def _hub_shards(repository: str, split: str, name: str) -> Opened:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        data = load_dataset(repository, streaming=True)
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        found = "cannot be read as a dataset" if Path(repository).is_dir() else "no such file, and no such hub dataset"
        raise InputError(f"{found}: {first_line(error)}", name) from error
    data = split_of(data, split, name)
    known = (data.info.splits or {}).get(str(data.split))
    return [_Streamed(name, data, i) for i in range(data.num_shards)], known.num_examples if known else None
