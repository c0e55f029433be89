"""The order of the house: a module imports only from its own room and the rooms above it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1] / "cosup"
ROOMS = (
    "version",
    "errors",
    "mishaps",
    "tokens",
    "fields",
    "records",
    "groups",
    "devices",
    "heap",
    "data",
    "processes",
    "locks",
    "losses",
    "checkpoints",
    "attention",
    "trials",
    "lean",
    "slots",
    "adapters",
    "pooling",
    "sentence_folder",
    "model_folder",
    "temperature",
    "two_models",
    "pair",
    "modeling",
    "joining",
    "index",
    "training",
    "generation",
    "evaluation",
    "experiments",
    "serving",
    "console",
    "info",
    "shell",
    "demo",
    "serve",
    "evaluating",
    "experimenting",
    "commands",
    "cli",
)
# The front door opens on every room: the package's public names, and `python -m cosup`.
FRONT_DOOR = ("__init__", "__main__")
HEAVY = ("torch", "transformers", "datasets", "faiss", "accelerate", "peft")


def room_of(module: Path) -> str:
    return module.relative_to(HOUSE).parts[0].removesuffix(".py")


def imported_rooms(source: str) -> set[str]:
    """Return the rooms named by the imports of `source`, those inside functions included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import on line {node.lineno}"
            module = node.module or ""
            names |= {f"cosup.{alias.name}" for alias in node.names} if module == "cosup" else {module}
    return {name.split(".")[1] for name in names if name.startswith("cosup.")}


def broken_rules(room: str, imported: set[str]) -> set[str]:
    """Return the rooms among `imported` that stand below `room`, or are no rooms at all."""
    allowed = set(ROOMS[: ROOMS.index(room) + 1])
    return imported - allowed


MODULES = sorted(m for m in HOUSE.rglob("*.py") if room_of(m) not in FRONT_DOOR)


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(HOUSE)))
def test_imports_go_only_upward(module: Path) -> None:
    room = room_of(module)
    assert room in ROOMS, f"cosup/{room} is in no place of the order: add it to ROOMS and to docs/architecture.md"
    assert not broken_rules(room, imported_rooms(module.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "source",
    [
        "import cosup.cli",
        "from cosup.training import trainer",
        "from cosup import demo",
        "def f():\n    import cosup.index",
    ],
)
def test_an_import_from_below_is_seen(source: str) -> None:
    assert broken_rules("losses", imported_rooms(source))


def test_imports_from_above_and_from_outside_are_allowed() -> None:
    source = "import torch\nfrom cosup.errors import CosupError\nfrom cosup import records\nimport cosup.losses.ntp"
    assert not broken_rules("losses", imported_rooms(source))


@pytest.mark.parametrize("module", ["cosup", "cosup.cli", "cosup.commands.program"])
def test_nothing_heavy_is_imported_before_it_is_needed(module: str) -> None:
    program = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not set(HEAVY).intersection(done.stdout.split())
