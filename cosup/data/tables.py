"""Tables: rows of passages from Parquet files and from `datasets`, and what every reader of tables shares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from cosup.data.sources import Kind, Source
from cosup.errors import InputError, did_you_mean

Rows: TypeAlias = Iterator[tuple[int, dict[str, Any]]]

ROWS_AT_ONCE = 256
PAGE = 2**18  # bytes of a Parquet column that are read at a time, in place of a whole row group
_COLUMNS = ("id", "_id", "title", "text")


def table_rows(kind: Kind, source: Source) -> Rows:
    """Yield `(row number from 1, record)` of a source of passages that is a table.

    Raises:
        InputError: it cannot be read, or lacks a column.
    """
    if kind is Kind.PARQUET:
        return parquet_rows(Path(source))
    return saved_rows(Path(source)) if kind is Kind.SAVED else hub_rows(str(source))


def parquet_rows(path: Path) -> Rows:
    """Yield `(row number from 1, record)` of a Parquet file with columns `id` (or `_id`), `title` and `text`.

    Raises:
        InputError: the file is missing or is no Parquet, or a column is missing.
    """
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    if not path.is_file():
        raise InputError("found a folder; expected a Parquet file" if path.is_dir() else "no such file", path)
    try:
        with pq.ParquetFile(path, buffer_size=PAGE, pre_buffer=False) as table:
            columns = _known_columns(table.schema_arrow.names, path)
            batches = table.iter_batches(columns=columns)
            yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read as Parquet: {first_line(error)}", path) from error


def saved_rows(folder: Path) -> Rows:
    """Yield the rows of a dataset that `datasets` saved with `save_to_disk`; one split, or the split `train`."""
    yield from _dataset_rows(saved_dataset(folder, "", folder), folder)


def hub_rows(name: str) -> Rows:
    """Yield the rows of the hub dataset `owner/name` or `owner/name:split`."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    repository, _, split = name.partition(":")
    try:
        data = load_dataset(repository)
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        found = "no such file or folder, and the hub gave no such dataset"
        raise InputError(f"{found}: {first_line(error)}", name) from error
    yield from _dataset_rows(split_of(data, split, name), name)


def saved_dataset(folder: Path, split: str, name: str | Path) -> Any:
    """Open a dataset that `datasets` saved with `save_to_disk`, or a split of it; see `split_of`.

    Args:
        folder: where it lies.
        split: the wanted one, empty where none is named.
        name: what a message calls it.

    Raises:
        InputError: it cannot be read, or has no such split.
    """
    from datasets import load_from_disk

    try:
        data = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot be read as a saved dataset: {first_line(error)}", name) from error
    return split_of(data, split, name)


def split_of(data: Any, split: str, name: str | Path) -> Any:
    """Return the wanted split of a dictionary of datasets: the one there is, or `train`, where none is named."""
    if not isinstance(data, dict):
        return data
    split = split or (next(iter(data)) if len(data) == 1 else "train")
    if split not in data:
        raise InputError(f"no split '{split}'{did_you_mean(split, data)}; found {', '.join(data)}", name)
    return data[split]


def first_line(error: Exception) -> str:
    """Return the first line of what another library says is wrong."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _dataset_rows(data: Any, path: str | Path) -> Rows:
    columns = _known_columns(data.column_names, path)
    yield from enumerate(data.select_columns(columns), start=1)


def _known_columns(names: list[str], path: str | Path) -> list[str]:
    columns = [name for name in _COLUMNS if name in names]
    if "text" not in columns or not {"id", "_id"} & set(columns):
        raise InputError(f"found the columns {', '.join(names) or 'none'}; expected id, title and text", path)
    return columns
