"""Files for command lines: a recipe of two steps, and what a folder holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.pairs import TinyWorld


def recipe(world: TinyWorld, folder: Path, **changes: Any) -> Path:
    """Write a recipe that takes two steps, into `folder / "run"`."""
    record: dict[str, Any] = {
        "generator": str(world.base),
        "embedder": str(world.base),
        "data": {
            "passages": str(world.passages),
            "questions": str(world.questions),
            "max_length": 256,
            "max_passage_length": 96,
        },
        "training": {"output_dir": str(folder / "run"), "max_steps": 2, "per_device_train_batch_size": 4},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(record | changes), encoding="utf-8")  # JSON is YAML
    return path


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
