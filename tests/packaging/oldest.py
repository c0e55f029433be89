"""The oldest versions that `pyproject.toml` allows of what cosup itself needs, as a file of constraints.

    python -m tests.packaging.oldest > constraints-oldest.txt

torch has its exact pin, that of `constraints.txt`: the test machine has one build of it. What the extras and the tests
bring is not held back.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

HOUSE = Path(__file__).parents[2]
HEAD = "# What pyproject.toml asks for at least, exactly; written by: python -m tests.packaging.oldest\n"


def oldest() -> str:
    """Return the constraints; each dependency must have a lower bound."""
    asked = tomllib.loads((HOUSE / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    lines = []
    for requirement in asked:
        name, bound = re.fullmatch(r"([\w-]+)>=([\w.]+)(?:,.*)?", requirement).groups()
        lines.append(torch_pin() if name == "torch" else f"{name}=={bound}")
    return HEAD + "".join(f"{line}\n" for line in lines)


def torch_pin() -> str:
    """Return the line of torch in `constraints.txt`."""
    return re.search(r"^torch==.*$", (HOUSE / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)[0]


if __name__ == "__main__":
    sys.stdout.write(oldest())
