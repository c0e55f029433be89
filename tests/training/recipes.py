"""The least recipe, with more in it, as a file, and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cosup.errors import UsageError
from cosup.training.recipe import parse_recipe

LEAST: dict[str, Any] = {"generator": "g", "embedder": "e", "data": {"passages": "p.jsonl", "questions": "q.jsonl"}}


def with_(part: str, **values: Any) -> dict[str, Any]:
    """Return the least recipe with more in one part."""
    return {**LEAST, part: {**LEAST.get(part, {}), **values}}


def written(folder: Path, record: Any = LEAST) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(record if isinstance(record, str) else yaml.safe_dump(record))
    return path


def refused(record: dict[str, Any]) -> str:
    with pytest.raises(UsageError) as caught:
        parse_recipe(record).config()
    return str(caught.value)
