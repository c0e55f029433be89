"""What a source of passages is: the one place that decides it, for all that read, index or convert one."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TypeAlias

from cosup.data.folders import TEXT_SUFFIXES
from cosup.data.paths import looked_up

Source: TypeAlias = str | Path

_JSONL_NAMES = ("passages.jsonl", "corpus.jsonl")
_DATASET_FILES = ("dataset_info.json", "dataset_dict.json")


class Kind(Enum):
    """How a source is read."""

    JSONL = "JSON objects, one a line"
    PARQUET = "a Parquet file"
    SAVED = "a folder that `datasets` saved"
    HUB = "a hub dataset"
    TEXTS = "a Markdown or text file, or a folder of them"


def kind_of(source: Source) -> tuple[Kind, Path]:
    """Return how a source is read, and its place: of a folder with a JSONL file of a known name, that file.

    What is none of the others is taken for a JSONL file, there or not.
    """
    place = looked_up(source)
    if place.is_dir():
        return _kind_of_folder(place)
    suffix = place.suffix.lower()
    if suffix in TEXT_SUFFIXES:
        return Kind.TEXTS, place
    if suffix == ".parquet":
        return Kind.PARQUET, place
    return (Kind.HUB if looks_like_hub_id(str(source)) else Kind.JSONL), place


def _kind_of_folder(folder: Path) -> tuple[Kind, Path]:
    named = next((folder / name for name in _JSONL_NAMES if (folder / name).is_file()), None)
    if named is not None:
        return Kind.JSONL, named
    return (Kind.SAVED if is_saved_dataset(folder) else Kind.TEXTS), folder


def is_saved_dataset(folder: Path) -> bool:
    """Whether `datasets` has saved a dataset in a folder."""
    return any((folder / name).is_file() for name in _DATASET_FILES)


def looks_like_hub_id(name: str) -> bool:
    """Whether a name that is no file here may be `owner/name` on the hub: its owner is no folder here either."""
    parts = name.split("/")
    if len(parts) != 2 or not all(parts) or Path(name).exists() or Path(parts[0]).is_dir():
        return False
    return not parts[0].startswith((".", "~")) and Path(parts[1]).suffix.lower() not in {".jsonl", ".json"}
