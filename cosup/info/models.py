"""What a model folder or a checkpoint holds; its weights are counted, never loaded."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cosup.errors import InputError
from cosup.info.base import Info, Rows, json_object, shown

PLAIN = "language model (not yet a cosup pair)"


def model_info(folder: Path) -> Info:
    """Describe a model folder."""
    from cosup.model_folder import read_model_record, settings_of

    record = read_model_record(folder)
    rows: Rows = []
    for part in ("generator", "embedder"):
        rows.append((part, _architecture(folder / part)))
    names = ("similarity", "temperature", "prompt", "max_length", "max_passage_length", "pooling", "query")
    own = settings_of(record)
    rows += [(name, shown(getattr(own, name))) for name in names]
    rows += [("embedder fingerprint", str(record["embedder_fingerprint"]))]
    rows += [("made by", f"cosup {record.get('cosup_version', '(unknown version)')}")]
    return Info("model folder", tuple(rows))


def checkpoint_info(folder: Path) -> Info:
    """Describe a plain model of other tools, to train from."""
    return Info(PLAIN, (("model", _architecture(folder)),))


def gguf_info(file: Path) -> Info:
    """Describe a `.gguf` file, to train from, by its head.

    Raises:
        UsageError: it is damaged, or of a family that transformers does not read.
    """
    from gguf import GGUFReader

    from cosup.checkpoints import explained
    from cosup.training.shapes import read_shape

    config = read_shape(str(file)).config
    with explained(str(file)):
        counted = sum(int(tensor.n_elements) for tensor in GGUFReader(file).tensors)
    return Info(PLAIN, (("model", _described(config.to_dict(), f"{counted:,} parameters")),))


def _architecture(folder: Path) -> str:
    return _described(json_object(folder / "config.json"), _parameters(folder))


def _described(config: Mapping[str, Any], parameters: str) -> str:
    names = ("num_hidden_layers", "hidden_size", "vocab_size")
    layers, width, words = (config.get(name, "?") for name in names)
    shape = f"{layers} layers x {width}, vocabulary {words}"
    return f"{config.get('model_type', 'unknown type')}, {parameters}, {shape}"


def _parameters(folder: Path) -> str:
    shapes = [shape for file in sorted(folder.rglob("*.safetensors")) for shape in _shapes(file)]
    return f"{sum(map(math.prod, shapes)):,} parameters" if shapes else "no safetensors weights"


def _shapes(file: Path) -> list[list[int]]:
    """Read the shapes of all tensors from the head of a safetensors file."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > file.stat().st_size:
                raise ValueError("the head is longer than the file")
            head = json.loads(stream.read(length))
        shapes = [[int(size) for size in tensor["shape"]] for name, tensor in head.items() if name != "__metadata__"]
    except (struct.error, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError("damaged: not a safetensors file", file) from error
    return shapes
