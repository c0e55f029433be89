"""The shape of a model without its weights: from a folder, a `.gguf` file's head, the hub, or a small table."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import transformers
from transformers import AutoConfig, GPT2Config, LlamaConfig, PreTrainedConfig

from cosup.checkpoints import check_depth
from cosup.data.paths import looked_up
from cosup.errors import CosupError, UsageError
from cosup.tokens import CONTROL_TOKENS

_LLAMA_7B: dict[str, Any] = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
}
_TINYLLAMA: dict[str, Any] = {
    "vocab_size": 32_000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
}
_SMOLLM2_135M: dict[str, Any] = {
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
_GPT2_LARGE: dict[str, Any] = {"n_embd": 1280, "n_layer": 36, "n_head": 20}

# What the config.json of well-known checkpoints says about their shape, for places that the hub cannot be reached from.
KNOWN: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "meta-llama/Llama-2-7b-hf": (LlamaConfig, _LLAMA_7B),
    "meta-llama/Llama-2-7b-chat-hf": (LlamaConfig, _LLAMA_7B),
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": (LlamaConfig, _TINYLLAMA),
    "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T": (LlamaConfig, _TINYLLAMA),
    "HuggingFaceTB/SmolLM2-135M": (LlamaConfig, _SMOLLM2_135M),
    "HuggingFaceTB/SmolLM2-135M-Instruct": (LlamaConfig, _SMOLLM2_135M),
    "openai-community/gpt2-large": (GPT2Config, _GPT2_LARGE),
    "gpt2-large": (GPT2Config, _GPT2_LARGE),
}


@dataclass(frozen=True)
class Shape:
    """A model's configuration.

    Attributes:
        config: as `transformers` has it.
        origin: where it was read, in words.
        fresh_rows: rows that the control tokens add to the vocabulary (3, or fewer where it has room or them).
    """

    config: PreTrainedConfig
    origin: str
    fresh_rows: int


def read_shape(source: str) -> Shape:
    """Read the shape of a checkpoint; its weights are neither loaded nor fetched.

    A hub id is looked for in the local cache first, then in `KNOWN`, then on the hub.

    Args:
        source: hub id, folder or `.gguf` file.

    Raises:
        UsageError: nothing is there, or it cannot be read, or the hub cannot be reached.
    """
    path = looked_up(Path(source).expanduser())
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UsageError(f"no file '{source}'; expected a .gguf checkpoint")
        with _explained(source):
            config = _read(str(path.parent), gguf_file=path.name)
        return Shape(config, "from the head of the .gguf file", len(CONTROL_TOKENS))
    if path.is_dir():
        with _explained(source):
            config = _read(str(path))
        return Shape(config, "from its folder", _fresh_rows(path, int(config.vocab_size)))
    if path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1:
        raise UsageError(f"no folder '{source}'; expected a hub id, a model folder or a .gguf file")
    return _hub_shape(source)


def _hub_shape(source: str) -> Shape:
    with contextlib.suppress(OSError, ValueError):
        return Shape(_read(source, local_files_only=True), "from the local cache", len(CONTROL_TOKENS))
    if source in KNOWN:
        kind, shape = KNOWN[source]
        return Shape(kind(**shape), "from cosup's own table of known models", len(CONTROL_TOKENS))
    with _explained(source):
        return Shape(_read(source), "from the hub", len(CONTROL_TOKENS))


def _read(place: str, **options: Any) -> PreTrainedConfig:
    with _quiet():
        config = cast(PreTrainedConfig, AutoConfig.from_pretrained(place, **options))
    check_depth(config, place)
    return config


def _fresh_rows(folder: Path, rows: int) -> int:
    """Count the rows that are missing for the control tokens, going by the folder's tokenizer."""
    try:
        record = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        added = {entry["content"]: int(entry["id"]) for entry in record["added_tokens"]}
        words = record["model"]["vocab"]
        ids = [*added.values(), *(words.values() if isinstance(words, dict) else range(len(words)))]
        highest = max(ids, default=-1) + 1
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return len(CONTROL_TOKENS)
    fresh = sum(token not in added for token in CONTROL_TOKENS)
    return max(0, highest + fresh - rows)


@contextlib.contextmanager
def _explained(source: str) -> Iterator[None]:
    """Turn what the libraries raise for a configuration that cannot be read, which may be anything, into one line."""
    try:
        yield
    except CosupError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(f"cannot read the configuration of '{source}': {reason}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the libraries' notes on retries and token ids for the time of one reading."""
    log: Any = transformers.utils.logging
    hub = logging.getLogger("huggingface_hub")
    level, hub_level = log.get_verbosity(), hub.level
    log.set_verbosity(logging.ERROR)
    hub.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.set_verbosity(level)
        hub.setLevel(hub_level)
