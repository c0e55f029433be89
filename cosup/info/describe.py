"""What a path holds, in a few lines: `cosup info PATH`. Weights are never loaded; data files are read whole."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from cosup.data.folders import TEXT_SUFFIXES
from cosup.data.paths import looked_up
from cosup.data.reading import read_passages
from cosup.data.sources import Kind, kind_of
from cosup.errors import InputError, UsageError, did_you_mean
from cosup.index.milvus_place import is_milvus_place
from cosup.info.base import Info
from cosup.info.data import data_info, jsonl_info, passages_info
from cosup.info.indexes import index_info, milvus_info
from cosup.info.models import checkpoint_info, gguf_info, model_info
from cosup.info.results import experiment_info, report_rows, results_info, suite_info
from cosup.info.runs import recipe_info, run_info

RECIPE_SUFFIXES = (".yaml", ".yml")
_OPTIONS = ("verify", "devices", "examples")
_ADDRESS = re.compile(r"(measured|trained)/[0-9a-f]{16}")  # folders of an experiment


def describe(
    path: str | Path,
    devices: int | None = None,
    examples: int | None = None,
    verify: bool = False,
    overrides: Sequence[tuple[str, str]] = (),
) -> Info:
    """Say what a path holds.

    Args:
        path: a model, index, run or data folder, a `.gguf` file, an index in Milvus, a recipe, a report, or a file of
            passages, questions, examples or predictions.
        devices: of a recipe: for how many devices its memory and steps are worked out; None for one.
        examples: of a recipe: how many training examples there are; None counts them.
        verify: the path must be an index; compare every file with its checksum, however large. Nothing of Milvus's.
        overrides: of a recipe: see `load_recipe`.

    Raises:
        InputError: nothing is there, it is nothing that cosup knows, or it is wrong or damaged.
        UsageError: a recipe cannot be used; `devices`, `examples` or `overrides` are given for what is no recipe.
    """
    path = Path(path)
    in_milvus = is_milvus_place(path)
    if not in_milvus and not looked_up(path).exists():
        raise InputError("no such file or folder", path)
    if verify and not in_milvus:
        return index_info(path, verify)
    if path.is_file() and path.suffix.lower() in RECIPE_SUFFIXES:
        return recipe_info(path, devices or 1, examples, overrides)
    if overrides:
        name = overrides[0][0]
        raise UsageError(f"no such option: --{name}{did_you_mean(name, _OPTIONS)}; {path} is no recipe")
    if devices is not None or examples is not None:
        raise UsageError(f"--devices and --examples go with a recipe; {path} is none")
    if in_milvus:
        return milvus_info(path)
    return _folder(path) if path.is_dir() else _file(path)


def _folder(path: Path) -> Info:
    kinds: tuple[tuple[str, Callable[[Path], Info]], ...] = (
        ("cosup.json", model_info),
        ("index.json", index_info),
        ("recipe.yaml", run_info),
        ("main.json", experiment_info),
        ("suite.json", suite_info),
        ("report.json", results_info),
        ("config.json", checkpoint_info),
    )
    for name, read in kinds:
        if (path / name).is_file():
            return read(path)
    if any(path.glob("questions*.jsonl")) or any(path.glob("examples*.jsonl")):
        return data_info(path)
    if any(_ADDRESS.fullmatch(p.relative_to(path).as_posix()) for p in path.glob("*ed/*")):
        return Info("experiment", (("state", "begun; nothing is measured yet"),))
    if not _has_passages(path):
        raise InputError(f"nothing here that cosup knows{_near_folder(path, tuple(name for name, _ in kinds))}", path)
    return passages_info(read_passages(path), "passages, read from a folder")


def _has_passages(folder: Path) -> bool:
    kind, _ = kind_of(folder)
    return kind is not Kind.TEXTS or any(file.suffix.lower() in TEXT_SUFFIXES for file in folder.rglob("*"))


def _near_folder(folder: Path, known: Sequence[str]) -> str:
    """Say what an unknown folder is near to, and what to give instead."""
    inside = [p for p in sorted(folder.iterdir()) if p.is_dir() and any((p / name).is_file() for name in known)]
    if inside:
        shown = ", ".join(str(p) for p in inside[:4])
        return f"; its folders are known: give {shown}{', ..' if len(inside) > 4 else ''}"
    files = sorted(p.name for p in folder.iterdir() if p.is_file())
    if any(name.endswith((".safetensors", ".gguf", ".bin")) for name in files):
        return "; it has weights and no config.json, which a model folder needs"
    readable = [
        name for name in files if Path(name).suffix.lower() in (*RECIPE_SUFFIXES, ".json", ".jsonl", ".parquet")
    ]
    if readable:
        return f"; give one of its files: {', '.join(readable[:4])}{', ..' if len(readable) > 4 else ''}"
    return "; expected a model, index, run or data folder, or Markdown and text files"


def _file(path: Path) -> Info:
    if path.suffix.lower() == ".json":
        return Info("evaluation report", tuple(report_rows(path)))
    if path.suffix.lower() == ".jsonl":
        return jsonl_info(path)
    if path.suffix.lower() == ".gguf":
        return gguf_info(path)
    return passages_info(read_passages(path), "passages")
