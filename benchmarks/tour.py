"""Execute the notebook of the examples anew and keep its outputs: after a change to it, or to what it shows.

    cosup demo
    python benchmarks/tour.py

What would differ from one machine to the next (times, versions, counters of a session) is not kept.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "tour.ipynb"
_NO_BARS = "ignore:IProgress not found"  # what tqdm says in a kernel without ipywidgets


def execute(notebook: Path, folder: Path) -> Any:
    """Return the notebook with the outputs of a fresh kernel.

    Args:
        notebook: read, not changed.
        folder: in which it runs; `../runs/demo` is the demo's.

    Raises:
        CellExecutionError: a cell fails.
    """
    made = nbformat.read(notebook, as_version=4)
    NotebookClient(
        made,
        timeout=600,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    ).execute(env={**os.environ, "PYTHONWARNINGS": _NO_BARS})
    made.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.validate(made)
    return made


def printed(notebook: Any) -> Iterator[tuple[str, str]]:
    """Yield kind and text of every output: `stdout`, `stderr` or the type of what is shown; images are left out."""
    for output in (o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs):
        if output.output_type == "stream":
            yield output.name, output.text
        for kind, text in output.get("data", {}).items():
            if not kind.startswith("image/"):
                yield kind, text


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(ROOT / "runs" / "demo", Path(place, "runs", "demo"))
        Path(place, "examples").mkdir()
        done = execute(NOTEBOOK, Path(place, "examples"))
    if warned := [text for kind, text in printed(done) if kind == "stderr"]:
        sys.exit(f"a cell writes to standard error: {warned[0]}")
    nbformat.write(done, NOTEBOOK)
