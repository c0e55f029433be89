"""A run's folder: whose it is, and what is written into it besides checkpoints."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import yaml

from cosup.data.writing import write_text
from cosup.data.yaml_files import read_yaml
from cosup.errors import InputError, UsageError
from cosup.locks import LOCK, held_together
from cosup.modeling import CoSupervisedModel
from cosup.processes import barrier, gather_objects, rank, world_size
from cosup.training.recipe import Recipe
from cosup.training.saving import whole_folder

#: How a run is laid out, shown and saved: what it computes is the same, and so it goes on when these change. How many
#: examples make a step is kept by the checkpoint (`resuming.check_step_size`).
LAYOUT_KEYS = (
    *("output_dir", "run_name", "report_to", "disable_tqdm", "use_cpu", "eval_accumulation_steps"),
    *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"),
    *("attention", "micro_batch_tokens", "ntp_chunk_tokens", "recall_batch_tokens"),
    *(
        "save_strategy",
        "save_steps",
        "save_minutes",
        "save_total_limit",
        "save_only_model",
        "save_on_each_node",
        "log_level",
        "log_level_replica",
    ),
    *("torch_compile", "torch_compile_backend", "torch_compile_mode"),
)
LAYOUT_FAMILIES = ("fsdp", "activation_checkpointing", "gradient_checkpointing", "dataloader_", "ddp_", "logging_")


def same_recipe(folder: Path, recipe: Recipe) -> bool:
    """Whether a run folder is a recipe's own, whatever the layout of devices, packs, logs and checkpoints."""
    return differences(folder, recipe) == []


def differences(folder: Path, recipe: Recipe) -> list[str] | None:
    """Return what a run folder's recipe says otherwise than another, as `data.max_length`; None where it has none."""
    try:
        found = read_yaml(folder / "recipe.yaml")
    except InputError:
        return None
    if not isinstance(found, dict):
        return None
    return sorted(_differing(_computed(found), _computed(yaml.safe_load(_dump(recipe)))))


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    for name in one.keys() | other.keys():
        a, b = one.get(name), other.get(name)
        if isinstance(a or b, Mapping) and isinstance(b or a, Mapping):  # a part may be missing on one side
            yield from (f"{name}.{inner}" for inner in _differing(a or {}, b or {}))
        elif a != b or (name in one) != (name in other):
            yield str(name)


def _computed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe without what changes none of its results; an empty part counts as none."""
    parts = {name: part for name, part in record.items() if part not in (None, {})}
    training = parts.pop("training", {})
    if isinstance(training, Mapping):
        training = {name: value for name, value in training.items() if not is_layout(name)}
    return {**parts, "training": training}


def is_layout(name: str) -> bool:
    """Whether a setting of `training` changes the layout alone."""
    return name in LAYOUT_KEYS or name.startswith(LAYOUT_FAMILIES)


def is_finished(folder: Path) -> bool:
    """Whether a run folder holds the model that its training ends with."""
    return (folder / "model" / "cosup.json").is_file()


def check_folder(folder: Path, recipe: Recipe) -> None:
    """Refuse a run folder that holds what another recipe, or no recipe, has made.

    Raises:
        UsageError: it does; names what is there.
    """
    check_model_target(folder / "model")
    began = any(folder.glob("checkpoint-*")) or is_finished(folder)
    other = differences(folder, recipe) if began else []
    if other != []:
        keys = ", ".join(other or [])
        found = f"a run of another recipe (see {folder / 'recipe.yaml'}{f'; it differs in {keys}' if keys else ''})"
        found = found if (folder / "recipe.yaml").is_file() else "a model that no recipe here has made"
        raise UsageError(f"{folder} holds {found}; choose another --output_dir")


def alone_in(folder: Path) -> AbstractContextManager[None]:
    """Hold a run folder for all processes of this run; see `held_together`, which raises where it is another's."""
    return held_together(folder / LOCK, f"{folder} is being trained")


def claim(folder: Path, recipe: Recipe) -> None:
    """Put the recipe into the run folder, unless it is there already.

    Raises:
        UsageError: the folder cannot be written, as on a full disk; an older recipe is untouched.
    """
    path, text = folder / "recipe.yaml", _dump(recipe)
    try:
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
    except OSError as error:
        raise UsageError(f"cannot write a run to {folder}: {error.strerror or error}") from error


def check_shared(folder: Path) -> None:
    """Make sure that every process sees the folder that the first one writes; a collective call.

    Checkpoints and passage vectors are written by the first process and read by all.

    Raises:
        UsageError: one does not, as on nodes without a shared file system; raised on every process.
    """
    if world_size() == 1:
        return
    name: str = gather_objects(f".shared-{secrets.token_hex(8)}")[0]
    if rank() == 0:
        (folder / name).touch()
    barrier()
    blind = [number for number, seen in enumerate(gather_objects(_appears(folder / name))) if not seen]
    if rank() == 0:
        (folder / name).unlink(missing_ok=True)
    if blind:
        raise UsageError(
            f"process {blind[0]} does not see {folder}, which process 0 writes; "
            "give all nodes an --output_dir on one shared file system"
        )


def _appears(path: Path, seconds: float = 10.0) -> bool:
    """Wait for a file of another machine: network file systems show it late."""
    end = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.1)
    return path.exists()


def _dump(recipe: Recipe) -> str:
    return str(yaml.safe_dump(dict(recipe.source), sort_keys=True, allow_unicode=True))


def save_whole(
    model: CoSupervisedModel,
    folder: Path,
    state_dict: dict[str, Any] | None = None,
    adapters: Literal["merge", "adapters"] = "merge",
) -> Path:
    """Write a model folder so that it is there whole or not at all; an older model folder is replaced.

    Args:
        model: the pair.
        folder: where to.
        state_dict: its weights, unsharded, where the model holds a share of them.
        adapters: see `CoSupervisedModel.save_pretrained`.

    Raises:
        UsageError: the folder holds something else, or the disk is full.
    """
    check_model_target(folder)
    with whole_folder(folder, listed=False) as draft:
        model.save_pretrained(draft, state_dict=state_dict, adapters=adapters)
    return folder


def check_model_target(folder: Path) -> None:
    """Make sure that a model folder can stand at `folder` without the loss of anything else.

    Raises:
        UsageError: a file, or a folder that is neither a model's nor empty, is there.
    """
    if (
        folder.exists()
        and not (folder / "cosup.json").is_file()
        and not (folder.is_dir() and not any(folder.iterdir()))
    ):
        raise UsageError(f"cannot write a model to {folder}: something else is there; move it or choose another folder")
