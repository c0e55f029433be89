"""Where the trainings and measurements of an experiment lie: folders named by what they are made from.

A training's address is of the recipe without what changes none of its results (layout, logs, saving), of its seed, and
of the contents of its files, wherever these lie. A measurement's is of its trainings, tasks, settings and retriever.
Settings that a recipe leaves out count as left out: what a later version of cosup would do otherwise is not seen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosup.experiments.plan import Experiment, System
from cosup.experiments.provenance import address_of
from cosup.training.recipe import Recipe, load_recipe
from cosup.training.run_folder import is_layout

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_DATA_FILES = ("passages", "questions", "examples", "eval_questions", "eval_examples")
_STEP_SIZE = ("per_device_train_batch_size", "gradient_accumulation_steps")  # layout, but of what is in a step


def folder_of(recipe: Recipe) -> Path:
    """Return a training's run folder."""
    return Path(str(recipe.training["output_dir"]))


def trainings_of(experiment: Experiment, system: System, seed: int) -> tuple[Recipe, ...]:
    """Return the recipe of who writes, and of who retrieves in its place if that is trained too.

    Raises:
        UsageError, InputError: one of them could not be trained.
    """
    changes = [system.changes, *([] if system.retriever_changes is None else [system.retriever_changes])]
    recipes = tuple(_training(experiment, own, seed) for own in changes)
    for recipe in recipes:
        recipe.config()
    return recipes


def _training(experiment: Experiment, changes: Mapping[str, Any], seed: int) -> Recipe:
    """Return the recipe of a training, whose run folder is named by its content."""
    overrides = [(key, json.dumps(value)) for key, value in changes.items()]
    recipe = load_recipe(experiment.recipe, [*overrides, ("training.seed", str(seed))])
    folders = experiment.model_folders
    pair = {part: getattr(recipe, part) for part in ("generator", "embedder")}
    record = {
        **{key: value for key, value in recipe.source.items() if key not in (*pair, "data", "training")},
        "training": {k: v for k, v in recipe.training.items() if k in _STEP_SIZE or not is_layout(k)},
        "data": asdict(recipe.data) | {name: len(getattr(recipe.data, name)) for name in _DATA_FILES},
        "made": {part: experiment.models[name].address for part, name in pair.items() if name in folders},
    }
    files = [name for name in pair.values() if name not in folders]
    files += [path for name in _DATA_FILES for path in getattr(recipe.data, name)]
    if (geometry := experiment.geometry) is not None:  # it is measured while training goes on
        record["geometry"] = asdict(geometry) | {"passages": "", "questions": ""}
        files += [geometry.passages, geometry.questions]
    made = {part: str(folders.get(name, name)) for part, name in pair.items()}
    folder = experiment.store / "trained" / address_of(record, files)
    source, training = {**recipe.source, **made}, {**recipe.training, "output_dir": str(folder)}
    return replace(recipe, generator=made["generator"], embedder=made["embedder"], source=source, training=training)


def measurement_address(experiment: Experiment, system: System, trainings: tuple[Recipe, ...]) -> str:
    """Return the address of what a system scores."""
    suite, choice = system.within(experiment.suite), system.retriever
    record: dict[str, Any] = {
        "trained": [folder_of(recipe).name for recipe in trainings],
        "retriever": None if choice is None else chosen(choice) | {"name": choice.name if choice.is_words else ""},
        "tasks": [chosen(task) | {"passages": len(task.passages), "questions": ""} for task in suite.tasks],
        "settings": {name: chosen(settings) for name, settings in suite.settings.items()},
        "precision": experiment.precision,
    }
    files: list[str | Path] = [file for task in suite.tasks for file in (*task.passages, task.questions)]
    if choice is not None and not choice.is_words:
        files.append(choice.separate or choice.name)
    return address_of(record, files)


def chosen(settings: DataclassInstance) -> dict[str, Any]:
    """Return the fields that are not as by default, so that a setting which comes later changes no address."""
    defaults = {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in fields(settings)}
    return {name: value for name, value in asdict(settings).items() if value != defaults[name]}
