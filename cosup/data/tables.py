"""Rows of passages from Parquet files and from `datasets`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from cosup.errors import InputError, did_you_mean

Rows: TypeAlias = Iterator[tuple[int, dict[str, Any]]]

_COLUMNS = ("id", "_id", "title", "text")


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
        with pq.ParquetFile(path, buffer_size=2**18, pre_buffer=False) as table:  # never a whole row group at once
            columns = _known_columns(table.schema_arrow.names, path)
            batches = table.iter_batches(columns=columns)
            yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read as Parquet: {_first_line(error)}", path) from error


def saved_rows(folder: Path) -> Rows:
    """Yield the rows of a dataset that `datasets` saved with `save_to_disk`; one split, or the split `train`."""
    from datasets import load_from_disk

    try:
        data = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot be read as a saved dataset: {_first_line(error)}", folder) from error
    yield from _dataset_rows(data, None, folder)


def hub_rows(name: str) -> Rows:
    """Yield the rows of the hub dataset `owner/name` or `owner/name:split`."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    repository, _, split = name.partition(":")
    try:
        data = load_dataset(repository)
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        found = "no such file or folder, and the hub gave no such dataset"
        raise InputError(f"{found}: {_first_line(error)}", name) from error
    yield from _dataset_rows(data, split or None, name)


def _dataset_rows(data: Any, split: str | None, path: str | Path) -> Rows:
    """Number the rows of a dataset, or of the wanted split of a dictionary of them."""
    if isinstance(data, dict):
        split = split or (next(iter(data)) if len(data) == 1 else "train")
        if split not in data:
            raise InputError(f"no split '{split}'{did_you_mean(split, data)}; found {', '.join(data)}", path)
        data = data[split]
    columns = _known_columns(data.column_names, path)
    yield from enumerate(data.select_columns(columns), start=1)


def _known_columns(names: list[str], path: str | Path) -> list[str]:
    columns = [name for name in _COLUMNS if name in names]
    if "text" not in columns or not {"id", "_id"} & set(columns):
        raise InputError(f"found the columns {', '.join(names) or 'none'}; expected id, title and text", path)
    return columns


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
