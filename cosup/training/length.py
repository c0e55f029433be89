"""How long a run is: examples counted in files, steps of an epoch and of the run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosup.data.lines import iter_lines
from cosup.errors import InputError, UsageError


@dataclass(frozen=True)
class Steps:
    """How long a run is.

    Attributes:
        examples: training examples, or None where they could not be counted.
        reason: why not.
        examples_a_step: over all devices.
        an_epoch: steps of an epoch, or None.
        total: steps of the run, or None.
        epochs: how often the data is seen, as the recipe says; None where it says `max_steps`.
    """

    examples: int | None
    reason: str
    examples_a_step: int
    an_epoch: int | None
    total: int | None
    epochs: float | None


def steps_of(data: Any, config: Any, devices: int, examples: int | None = None) -> Steps:
    """Return how many steps a run takes; a last step of an epoch may be smaller than the others.

    Args:
        data: the recipe's `data`, which names the files.
        config: the run's settings.
        devices: number of devices.
        examples: number of examples; None counts them.
    """
    reason = ""
    if examples is None:
        try:
            examples = sum(count_records(path) for path in (*data.questions, *data.examples))
        except UsageError as error:
            reason = str(error)
    size = config.per_device_train_batch_size * config.gradient_accumulation_steps * devices
    an_epoch = None if examples is None else max(1, math.ceil(examples / size))
    if config.max_steps > 0:
        return Steps(examples, reason, size, an_epoch, config.max_steps, None)
    total = None if an_epoch is None else math.ceil(config.num_train_epochs * an_epoch)
    return Steps(examples, reason, size, an_epoch, total, float(config.num_train_epochs))


def count_records(path: str | Path) -> int:
    """Count the records of a data file without reading them into memory.

    Args:
        path: a JSONL file (its lines are counted), a Parquet file or a saved dataset (their heads have the number).

    Raises:
        InputError: there is no such file, or it is a data set on the hub.
    """
    place = Path(path)
    try:
        if place.is_dir() and any((place / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
            return _saved_records(place)
        if place.suffix.lower() == ".parquet" and place.is_file():
            import pyarrow.parquet as pq  # type: ignore[import-untyped]

            return int(pq.ParquetFile(place).metadata.num_rows)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read: {(str(error).splitlines() or [''])[0]}", path) from error
    if place.is_dir():
        raise InputError("found a folder; expected a file of questions or examples", path)
    if not place.is_file():
        raise InputError("no such file here", path)
    return sum(1 for _ in iter_lines(place))


def _saved_records(folder: Path) -> int:
    from datasets import DatasetDict, load_from_disk

    data = load_from_disk(str(folder))
    return len(data["train"] if isinstance(data, DatasetDict) and "train" in data else data)
