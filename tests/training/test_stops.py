"""A run that memory, a device or another process stops says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cosup.errors import CosupError, UsageError
from cosup.training.recipe import parse_recipe
from cosup.training.run import train
from tests.training.runs import recipe_of, write_world


def stops_with(error: BaseException | None) -> Any:
    """Return a watch of the run that fails after its first checkpoint; with None, by allocating too much."""
    seen: list[int] = []

    def watch(*_: Any) -> None:
        seen.append(len(seen))
        if len(seen) == 3:
            if error is not None:
                raise error
            torch.empty(1 << 50, dtype=torch.uint8)

    return watch


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, r"set micro_batch_tokens \(2048, say\), else set activation_checkpointing to true, or lower per_dev"),
        ({"micro_batch_tokens": 99, "activation_checkpointing": True}, r"lower micro_batch_tokens \(now 99\), else lo"),
    ],
)
def test_a_step_without_memory_names_what_to_lower(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    recipe = parse_recipe(recipe_of(write_world(tmp_path), tmp_path / "run", max_steps=3, **changes))
    with pytest.raises(UsageError, match=rf"^out of memory \(1,125,899.9 GB more were asked for\); {told}") as found:
        train(recipe, watch=stops_with(None))
    for key in ("per_device_train_batch_size (now 2)", "data.max_length (now 200)", "the same command goes on"):
        assert key in str(found.value)


def test_after_a_lost_device_the_same_command_goes_on(tmp_path: Path) -> None:
    recipe = parse_recipe(recipe_of(write_world(tmp_path), tmp_path / "run", max_steps=3))
    gone = torch.AcceleratorError("CUDA error: unspecified launch failure\nmore")
    told = r"the device failed \(CUDA error: unspecified launch failure\); the same command goes on from the last"
    with pytest.raises(CosupError, match=told):
        train(recipe, watch=stops_with(gone))
    assert (train(recipe) / "cosup.json").is_file()
