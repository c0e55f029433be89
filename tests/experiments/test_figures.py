"""The figures of an experiment: labels that can be read, and one colour for one name."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cosup.experiments import figures
from cosup.experiments.table import COLUMNS, SystemScores
from tests.experiments.small import SPACES

NAMES = ["six-layers", "twelve-layers", "models/SmolLM2-135M-Instruct.Q4_1.gguf", "gpt2-shaped"]


def systems(number: int) -> list[SystemScores]:
    scores = {column: {"1": 0.2, "2": 0.6} for column in COLUMNS}
    return [SystemScores(str(i), str(i), {1: {"one": scores}}, {"one": None}) for i in range(number)]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that were saved."""
    found: list[Any] = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: found.append(figure) or path)
    return found


def test_names_along_an_axis_stand_beside_each_other(drawn: list[Any], tmp_path: Path) -> None:
    """Bars, as nothing lies between two names; no label reaches into the next, long paths are told by their end."""
    figures.draw_axis(systems(4), NAMES, "embedder", tmp_path / "axis.png")
    (one,) = drawn[0].axes
    drawn[0].canvas.draw()
    spans = [label.get_window_extent() for label in one.get_xticklabels()]
    assert all(left.x1 < right.x0 for left, right in pairwise(spans))
    assert "".join(one.get_xticklabels()[2].get_text().split()) == NAMES[2].removeprefix("models/")
    assert len(one.patches) == 4 * len(COLUMNS)
    assert one.get_xlabel() == "embedder"


@pytest.mark.parametrize("values", [[0, 0.01, 10], [8, 16, 32]])
def test_numbers_along_an_axis_are_lines(drawn: list[Any], tmp_path: Path, values: list[float]) -> None:
    figures.draw_axis(systems(3), values, "weight", tmp_path / "axis.png")
    (one,) = drawn[0].axes
    assert [line.get_ydata().tolist() for line in one.lines] == [[40.0] * 3] * len(COLUMNS)
    assert [label.get_text() for label in one.get_xticklabels()] == [str(value) for value in values]


def test_switches_are_names(drawn: list[Any], tmp_path: Path) -> None:
    figures.draw_axis(systems(2), [False, True], "supervise_passages", tmp_path / "axis.png")
    (one,) = drawn[0].axes
    assert [label.get_text() for label in one.get_xticklabels()] == ["False", "True"]
    assert one.patches


def test_a_name_has_one_colour_in_all_panels_of_the_geometry(drawn: list[Any], tmp_path: Path) -> None:
    records = {name: [SPACES | {"step": 0}, SPACES | {"step": 2}] for name in ("ours", "paper", "random")}
    figures.draw_geometry(records, tmp_path / "geometry.png")
    first, *others = [list(dict.fromkeys(line.get_color() for line in one.lines)) for one in drawn[0].axes]
    assert len(set(first)) == 3
    assert others == [first] * len(others)
