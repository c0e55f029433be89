"""Whether what lies in a folder can be read: nothing but temporaries may be half-written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

INDEX = "index.json"
CLOCKED = ("seconds", "runtime", "per_second")


def unreadable(folder: str) -> list[str]:
    """Return what whoever reads a folder's files would stumble over, a line each.

    Hidden files and folders, and segments that no manifest of an index names, are temporaries: nothing reads them.
    """
    return [f"{path}: {trouble}" for path, trouble in _troubles(Path(folder))]


def temporaries(folder: str) -> list[str]:
    """Return the hidden files and folders that lie directly in a folder or in one below it, without locks."""
    place = Path(folder)
    found = [p.relative_to(place) for p in place.rglob(".*") if not p.name.endswith((".lock", ".holder"))]
    return sorted(str(p) for p in found if not any(part.startswith(".") for part in p.parts[:-1]))


def _troubles(place: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(place.iterdir()) if place.is_dir() else ():
        if path.name.startswith("."):
            continue
        if path.is_dir() and path.name.startswith("segment-"):  # read through its manifest
            continue
        if path.is_dir():
            yield from _troubles(path)
            continue
        try:
            _reader(path)(path)
        except Exception as error:  # noqa: BLE001 - whatever a reader meets
            yield path, f"{type(error).__name__}: {str(error)[:200]}"


def _reader(path: Path) -> Callable[[Path], Any]:
    if path.name == INDEX and "format" in path.read_text(encoding="utf-8")[:100_000]:
        return _index
    return READERS.get(path.suffix, lambda own: own.read_bytes())


def _index(path: Path) -> None:
    from cosup.index.manifest import IndexManifest

    IndexManifest.read(path.parent).verify(path.parent)


def _lines(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        raise ValueError("the last line has no end")
    for line in text.splitlines():
        json.loads(line)


def _tensors(path: Path) -> None:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118 - no mapping
            file.get_tensor(name)


def _saved(path: Path) -> None:
    import torch

    torch.load(path, weights_only=True)


def _ends_with(end: bytes) -> Callable[[Path], None]:
    def check(path: Path) -> None:
        if end not in path.read_bytes()[-64:]:
            raise ValueError("its end is missing")

    return check


def _yaml(path: Path) -> None:
    import yaml

    yaml.safe_load(path.read_text(encoding="utf-8"))


READERS: dict[str, Callable[[Path], Any]] = {
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".jsonl": _lines,
    ".safetensors": _tensors,
    ".pt": _saved,
    ".yaml": _yaml,
    ".png": _ends_with(b"IEND"),
    ".html": _ends_with(b"</html>"),
}


def odd_times(folder: str) -> list[str]:
    """Return the durations and rates in the JSON files of a folder that are negative or no numbers, a line each."""
    found = []
    for path in sorted(Path(folder).rglob("*.json")):
        if not any(part.startswith((".", "segment-")) for part in path.relative_to(folder).parts):
            record = json.loads(path.read_text(encoding="utf-8"))
            found += [f"{path.name}: {name} is {value}" for name, value in _odd(path.stem, record)]
    return found


def _odd(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _odd(key, inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _odd(name, inner)
    elif isinstance(value, int | float) and any(word in name for word in CLOCKED) and not 0 <= value < math.inf:
        yield name, value
