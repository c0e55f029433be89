"""A run's folder: which recipe it is of, and files that a full disk leaves as they were."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments

from cosup.data.writing import write_text
from cosup.errors import CosupError
from cosup.training.config import CoSupervisionConfig
from cosup.training.recipe import Recipe, parse_recipe
from cosup.training.run_folder import LAYOUT_FAMILIES, LAYOUT_KEYS, alone_in, claim, is_layout, same_recipe
from tests.training.runs import end, recipe_of, start, wait_for, write_world


def _recipe(folder: Path, objective: dict[str, Any] | None = None, **training: Any) -> Recipe:
    return parse_recipe({**recipe_of(Path("world"), folder, **training), "objective": objective or {}})


@contextlib.contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Let no file grow past a size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "training",
    [
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "per_device_eval_batch_size": 3},
        {"fsdp": True, "fsdp_config": {"reshard_after_forward": False}},
        {"micro_batch_tokens": 64, "activation_checkpointing": True, "gradient_checkpointing": True},
        {"dataloader_num_workers": 2, "ddp_timeout": 60},
        {"save_steps": 9, "save_total_limit": 7, "logging_steps": 3, "report_to": "tensorboard", "run_name": "x"},
    ],
)
def test_the_layout_makes_no_other_recipe(training: dict[str, Any], tmp_path: Path) -> None:
    """Devices, packs, logs and saving may change from one start to the next."""
    claim(tmp_path, _recipe(tmp_path))
    assert same_recipe(tmp_path, _recipe(tmp_path, **training))


@pytest.mark.parametrize(
    ("objective", "training"),
    [({}, {"learning_rate": 1e-4}), ({}, {"max_steps": 3}), ({}, {"save_adapters": True}), ({"nsp_weight": 0.3}, {})],
)
def test_what_is_computed_does(objective: dict[str, Any], training: dict[str, Any], tmp_path: Path) -> None:
    claim(tmp_path, _recipe(tmp_path))
    assert not same_recipe(tmp_path, _recipe(tmp_path, objective, **training))


def test_the_names_of_the_layout_are_settings() -> None:
    """None is misspelt; what changes results is not among them."""
    known = {f.name for f in fields(CoSupervisionConfig)} | {f.name for f in fields(TrainingArguments)}
    assert set(LAYOUT_KEYS) <= known
    assert all(any(name.startswith(family) for name in known) for family in LAYOUT_FAMILIES)
    results = ("learning_rate", "seed", "data_seed", "max_steps", "bf16", "save_adapters", "packing", "grad_cache")
    assert not [name for name in results if is_layout(name)]


def test_a_recipe_that_is_there_is_not_written_again(tmp_path: Path) -> None:
    claim(tmp_path, _recipe(tmp_path))
    with full_disk(0):
        claim(tmp_path, _recipe(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_a_full_disk_leaves_recipe_and_figures_as_they_were(tmp_path: Path) -> None:
    """One line; nothing half-written stays."""
    claim(tmp_path, _recipe(tmp_path))
    write_text(tmp_path / "metrics.json", "{}\n")
    before = (tmp_path / "recipe.yaml").read_text()
    with full_disk(100):
        with pytest.raises(CosupError, match=r"cannot write .*recipe\.yaml: file too large; what was saved before is"):
            claim(tmp_path, _recipe(tmp_path, save_steps=5))
        with pytest.raises(CosupError, match=r"cannot write .*metrics\.json: file too large"):
            write_text(tmp_path / "metrics.json", "x" * 200)
    assert (tmp_path / "recipe.yaml").read_text() == before
    assert (tmp_path / "metrics.json").read_text() == "{}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.json", "recipe.yaml"]
    claim(tmp_path, _recipe(tmp_path, save_steps=5))
    assert same_recipe(tmp_path, _recipe(tmp_path))


@pytest.mark.slow
def test_a_second_process_in_a_run_folder_is_told_who_trains_there(tmp_path: Path) -> None:
    """It ends with 2 and touches nothing; once the first was killed, the same command goes on."""
    run = tmp_path / "run"
    recipe = recipe_of(write_world(tmp_path), run, max_steps=100_000, save_strategy="no")
    first = start(recipe, tmp_path)
    try:
        wait_for((run / "recipe.yaml").exists, [first])
        second = start(recipe, tmp_path)
        said, _ = second.communicate(timeout=120)
        assert second.returncode == 2
        assert said.startswith(f"error: {run} is being trained by process {first.pid} on ")
        assert len(said.splitlines()) == 1
        assert first.poll() is None
    finally:
        end([first])
    with alone_in(run):
        assert (run / "recipe.yaml").is_file()


@pytest.mark.parametrize("made", [True, False])
def test_a_run_folder_in_which_nothing_was_made_goes_again(made: bool, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with contextlib.suppress(ValueError), alone_in(run):
        if made:
            claim(run, _recipe(run))
        raise ValueError
    assert run.exists() == made
