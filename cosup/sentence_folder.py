"""What a folder of sentence-transformers says of itself: pooling, layers after it, similarity, prompts, limits.

Read here without that library. Understood are Transformer, Pooling by one of `POOLINGS`, then Dense layers, then
Normalize; what else a folder may hold is refused by name, since leaving it out would give other vectors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from cosup.data.jsonl import read_json
from cosup.errors import InputError
from cosup.pooling import ACTIVATIONS, IDENTITY, Dense

MODULES = "modules.json"
_FOLDER = re.compile(r"(?!\.)[\w.-]{0,100}")  # or none: the folder itself
_MODES = {"cls": "cls", "mean": "mean", "lasttoken": "last_token"}
_LEGACY = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_lasttoken": "lasttoken"}
_AFTER = {"Pooling", "Dense", "Normalize"}  # what may come last
_PROMPTS = {"query": ("query",), "passage": ("document", "passage", "corpus")}


@dataclass(frozen=True)
class SentenceFolder:
    """What `modules.json` and the files it names say.

    Attributes:
        pooling: one of `POOLINGS`.
        similarity: `cosine` or `inner_product`.
        max_tokens: that the model reads of a text, or None where the folder leaves it to the model.
        lowers_case: whether texts are lower-cased before the tokenizer sees them.
        query_prompt: put before a query.
        passage_prompt: put before a passage.
    """

    pooling: str
    similarity: str
    max_tokens: int | None
    lowers_case: bool
    query_prompt: str
    passage_prompt: str


def is_sentence_folder(folder: Path) -> bool:
    """Whether a folder is one of sentence-transformers."""
    return (folder / MODULES).is_file()


def read_sentence_folder(folder: Path) -> SentenceFolder:
    """Read what a folder of sentence-transformers says.

    Raises:
        InputError: a file is damaged, or names something that cosup would have to leave out.
    """
    modules = _modules(folder)
    kinds = [kind for kind, _ in modules]
    _check_kinds(kinds, folder / MODULES)
    if modules[0][1] != folder:
        raise InputError(f"its model lies in {modules[0][1].name}/; expected it in the folder itself", folder)
    own = _object(folder / "sentence_bert_config.json")
    more = _object(folder / "config_sentence_transformers.json")
    pooling = _object(modules[1][1] / "config.json")
    prompts = _prompts(more)
    if any(prompts.values()) and not pooling.get("include_prompt", True):
        raise InputError("its pooling leaves the prompt out, which cosup cannot", modules[1][1] / "config.json")
    limit = own.get("max_seq_length")
    return SentenceFolder(
        _pooling(pooling, modules[1][1] / "config.json"),
        _similarity(more, "Normalize" in kinds, folder),
        limit if isinstance(limit, int) and not isinstance(limit, bool) else None,
        bool(own.get("do_lower_case")),
        prompts["query"],
        prompts["passage"],
    )


def dense_layers(folder: Path) -> list[Dense]:
    """Read the Dense layers of a folder, in order; none where it is no folder of sentence-transformers.

    Raises:
        InputError: one is damaged or of a kind that cosup doesn't know.
    """
    if not is_sentence_folder(folder):
        return []
    return [_dense(place) for kind, place in _modules(folder) if kind == "Dense"]


def _modules(folder: Path) -> list[tuple[str, Path]]:
    """Return kind and place of each module."""
    rows = read_json(folder / MODULES)
    try:
        modules = [(str(row["type"]).rpartition(".")[2], str(row["path"])) for row in rows]
    except (TypeError, KeyError):
        raise InputError("expected a list of modules with type and path", folder / MODULES) from None
    wrong = next((path for _, path in modules if not _FOLDER.fullmatch(path)), None)
    if wrong is not None:
        raise InputError(f"a module lies in {wrong[:100]!r}; expected a folder in this one", folder / MODULES)
    return [(kind, folder / path) for kind, path in modules]


def _check_kinds(kinds: Sequence[str], path: Path) -> None:
    middle, last = kinds[2:-1], kinds[-1:]
    if kinds[:2] == ["Transformer", "Pooling"] and set(middle) <= {"Dense"} and set(last) <= _AFTER:
        return
    raise InputError(
        f"found {', '.join(kinds) or 'nothing'}; expected Transformer, Pooling, any number of Dense, Normalize", path
    )


def _object(path: Path) -> dict[str, Any]:
    record = read_json(path) if path.is_file() else {}
    if not isinstance(record, dict):
        raise InputError("expected a JSON object", path)
    return record


def _pooling(record: Mapping[str, Any], path: Path) -> str:
    given = record.get("pooling_mode")
    chosen = [name for name, on in record.items() if name.startswith("pooling_mode_") and on is True]
    named = given if isinstance(given, list) else [] if given is None else [given]
    modes = named or [_LEGACY.get(name, name) for name in chosen]
    if len(modes) != 1 or not isinstance(modes[0], str) or modes[0] not in _MODES:
        found = " and ".join(map(str, modes)) or "nothing"
        raise InputError(f"it pools by {found}; cosup knows {', '.join(_MODES)}, one of them", path)
    return _MODES[modes[0]]


def _similarity(record: Mapping[str, Any], normalised: bool, folder: Path) -> str:
    """Vectors of unit length are compared by cosine, whatever the name; others as the folder says, else by cosine."""
    name = record.get("similarity_fn_name") or "cosine"
    if name not in ("cosine", "dot"):
        place = folder / "config_sentence_transformers.json"
        raise InputError(f"it compares by '{name}'; cosup knows cosine and dot", place)
    return "cosine" if normalised or name == "cosine" else "inner_product"


def _prompts(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the prompt of queries and of passages, as `encode_query` and `encode_document` choose them."""
    prompts = record.get("prompts") or {}
    fallback = record.get("default_prompt_name")
    return {side: _first(prompts, [*names, fallback]) for side, names in _PROMPTS.items()}


def _first(prompts: Mapping[str, Any], names: Iterable[str | None]) -> str:
    return next((str(prompts[name]) for name in names if name is not None and name in prompts), "")


def _dense(folder: Path) -> Dense:
    record = _object(folder / "config.json")
    activation = str(record.get("activation_function") or IDENTITY)
    if activation.rpartition(".")[2] not in ACTIVATIONS or record.get("use_residual"):
        found = "a residual" if record.get("use_residual") else activation
        raise InputError(f"a Dense layer with {found}; cosup knows {', '.join(ACTIVATIONS)}", folder / "config.json")
    tensors = _tensors(folder)
    if "linear.weight" not in tensors:
        raise InputError("damaged: it must hold linear.weight", folder)
    return Dense(tensors["linear.weight"], tensors.get("linear.bias"), activation)


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    path = folder / "model.safetensors"
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError("missing or damaged: it must hold a Dense layer as safetensors", path) from error
