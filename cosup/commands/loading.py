"""Models, pairs and engines for a command: what belongs together is checked before weights are read."""

from __future__ import annotations

import logging
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosup.commands.options import Dtype
from cosup.data.paths import looked_up
from cosup.errors import NO_MODEL, NO_PAIR, InputError
from cosup.index.milvus_place import shown_place
from cosup.shell import Shell

if TYPE_CHECKING:
    from cosup.generation.engine import Engine
    from cosup.generation.retrievers.opening import RetrieverChoice
    from cosup.generation.settings import GenerationSettings
    from cosup.index.base import VectorIndex
    from cosup.index.filters import Filter
    from cosup.modeling import CoSupervisedModel

logger = logging.getLogger(__name__)

_LOOKED_AT = 1000  # passages whose metadata is told where a filter meets none


def model_folder(path: Path) -> Path:
    """Check a model folder without loading it; what is plainly none is told before torch is imported."""
    model_record(path)
    return path


def model_record(path: Path) -> dict[str, Any]:
    """Return `cosup.json` of a model folder, checked as `model_folder` does."""
    _check_place(path)
    from cosup.model_folder import read_model_record

    return read_model_record(path)


def _check_place(path: Path) -> None:
    """Refuse what is no model folder by what stands there, and say what to give instead."""
    if (looked_up(path) / "cosup.json").is_file():
        return
    if (path / "model" / "cosup.json").is_file():
        raise InputError(f"not a model folder, but it holds one; say --model {path / 'model'}", path)
    if (path.parent / "cosup.json").is_file():
        raise InputError(f"a part of a model folder; say --model {path.parent}", path)
    if path.is_file():
        raise InputError("a file; expected a model folder. A model to begin from is named in a recipe, or joined", path)
    if not path.is_dir():
        raise InputError(NO_MODEL, path)
    if (path / "config.json").is_file():
        raise InputError(f"{NO_PAIR}; train from it by a recipe, or make a pair of it with 'cosup join'", path)


def load_pair(folder: Path, dtype: Dtype) -> CoSupervisedModel:
    """Load a pair onto the GPU, if there is one."""
    import torch

    from cosup.devices import quick_dtype
    from cosup.modeling import CoSupervisedModel
    from cosup.processes import local_rank

    device = torch.device("cpu")
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())
        device = torch.device("cuda")
    wanted = quick_dtype(device) if dtype is Dtype.auto else getattr(torch, dtype)
    return CoSupervisedModel.from_pretrained(folder, wanted).to(device)


def _warn_of_none(found: VectorIndex, place: str, filter: Filter) -> None:
    """Say that no passage meets a filter, and what metadata there is: answers would be written without a passage."""
    import numpy as np

    from cosup.index.base import metadata_keys

    query = np.zeros((1, found.dimension), np.float32)
    query[0, 0] = 1
    if found.search(query, 1, filter=filter)[0]:
        return
    keys = ", ".join(metadata_keys(islice(found, _LOOKED_AT))) or "no metadata"
    whose = "its passages" if len(found) <= _LOOKED_AT else f"its first {_LOOKED_AT:,} passages"
    told = "no passage of %s meets --filter, so none will be read; %s have %s"
    logger.warning(told, shown_place(place), whose, keys)


def load_engine(
    shell: Shell, places: tuple[Path, str], settings: GenerationSettings, dtype: Dtype, choice: RetrieverChoice | None
) -> tuple[Engine, VectorIndex, dict[str, Any]]:
    """Load a pair with its index, and who else retrieves; what belongs together is checked before weights are read.

    Returns:
        The engine, the index, and what more than these and the settings decides the answers.
    """
    model, index = places
    record = model_record(model)
    from cosup.generation.engine import Engine
    from cosup.index.open import open_index

    own = str(record["embedder_fingerprint"])
    found = open_index(index, own if choice is None else choice.index_fingerprint)
    if settings.filter is not None:
        _warn_of_none(found, index, settings.filter)
    pair = load_pair(model, dtype)
    if choice is None:
        return Engine(pair, found, settings), found, {}
    from cosup.generation.retrievers.opening import open_retriever

    with shell.progress("embedding", "passages") as report:
        opened = open_retriever(choice, pair, found, index, lambda done, n: report(done, n, ""))
    if opened.built is not None:
        shell.note(f"built for {choice.name}: {opened.built}")
    return Engine(pair, opened.retriever, settings), found, dict(opened.identity)
