"""The notebook: what is kept of it is clean, and it runs anew from the demo's folder."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
import tour

from cosup.console import Console
from cosup.demo import run_demo
from tests.commands import TOY_DEMO


def test_the_kept_outputs_are_whole_and_say_nothing_of_the_machine() -> None:
    notebook = nbformat.read(tour.NOTEBOOK, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    assert sum("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs) == 2
    shown = list(tour.printed(notebook))
    assert {kind for kind, _ in shown} == {"stdout", "text/html", "text/plain"}
    for _, text in shown:
        assert not re.search(r"[Ww]arning|Error|(^|[\s'\"])/\w+/", text), text
    assert tour.NOTEBOOK.stat().st_size < 250_000


@pytest.mark.slow
def test_it_runs_anew_where_a_demo_is(tmp_path: Path) -> None:
    """A cell that fails raises."""
    run_demo(tmp_path / "runs" / "demo", settings=TOY_DEMO, console=Console(quiet=True))
    (tmp_path / "examples").mkdir()
    done = tour.execute(tour.NOTEBOOK, tmp_path / "examples")
    printed = list(tour.printed(done))
    assert any("20 passages, 23 questions" in text for _, text in printed)
    assert not [text for kind, text in printed if kind == "stderr"]
