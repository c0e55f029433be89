"""How far a run is, and what a recipe will need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosup.info.base import Info, Rows, json_object, shown

if TYPE_CHECKING:
    from cosup.training.recipe import Recipe


def run_info(folder: Path) -> Info:
    """Describe a run folder: its recipe, how far it is, its newest figures."""
    from cosup.training.run_folder import is_finished
    from cosup.training.saving import last_complete_checkpoint

    _, rows = _read_recipe(folder / "recipe.yaml")
    checkpoint = last_complete_checkpoint(folder)
    if is_finished(folder):
        state = f"finished: {folder / 'model'}"
    elif checkpoint is not None:
        state = f"stopped after {checkpoint.name}; run its recipe again to go on"
    else:
        state = "begun; no checkpoint yet"
    return Info("run folder", (("state", state), *run_figures(folder, checkpoint), *rows))


def run_figures(folder: Path, checkpoint: Path | None = None) -> Rows:
    """Return the figures of a finished run, or the newest ones that a checkpoint has."""
    if (folder / "metrics.json").is_file():
        return [(name, shown(value)) for name, value in json_object(folder / "metrics.json").get("metrics", {}).items()]
    if checkpoint is None:
        return []
    newest: dict[str, Any] = {}
    for entry in json_object(checkpoint / "trainer_state.json").get("log_history", []):
        newest |= entry
    return [(name, shown(value)) for name, value in newest.items()]


def recipe_info(
    path: Path, devices: int = 1, examples: int | None = None, overrides: Sequence[tuple[str, str]] = ()
) -> Info:
    """Describe a recipe and what it will need; every key and value of it is checked.

    Args:
        path: the recipe.
        devices: number of devices to train on.
        examples: number of training examples; None counts them in the recipe's files.
        overrides: see `load_recipe`.
    """
    from cosup.training.plan import plan

    recipe, rows = _read_recipe(path, overrides)
    return Info("recipe", (*rows, *plan(recipe, devices, examples).rows))


def _read_recipe(path: Path, overrides: Sequence[tuple[str, str]] = ()) -> tuple[Recipe, Rows]:
    """Read and check a recipe; return it and what it says."""
    from cosup.training.recipe import load_recipe

    recipe = load_recipe(path, overrides)
    recipe.config()
    rows = [("generator", recipe.generator), ("embedder", recipe.embedder), ("supervision", recipe.supervision)]
    if recipe.source.get("adapters") is not None:
        rows.append(("adapters", shown(recipe.source["adapters"])))
    for part in ("data", "objective", "training"):
        rows += [(f"{part}.{name}", shown(value)) for name, value in (recipe.source.get(part) or {}).items()]
    return recipe, rows
