"""The tables of an experiment: systems at each point of an axis, averages, paired differences, margins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cosup.experimenting import axis_of
from cosup.experiments.plan import load_experiment
from cosup.experiments.table import collect, compare, differences, main_record, markdown
from tests.experiments.small import MEASURES, experiment
from tests.pairs import TinyWorld


def test_systems_are_compared_at_each_point_of_an_axis(tiny_world: TinyWorld, tmp_path: Path) -> None:
    axes = {"temperature": [0.1, 0.2]}
    found = load_experiment(experiment(tiny_world, tmp_path, axes=axes, compare=[["both", "apart"]]))
    assert found.comparisons == tuple((f"both-temperature-{t}", f"apart-temperature-{t}") for t in (0.1, 0.2))
    assert found.systems[0].axes == {"objective.temperature": 0.1}  # in its one spelling


def test_an_axis_is_drawn_only_where_each_value_has_one_system(tiny_world: TinyWorld, tmp_path: Path) -> None:
    """Whatever has been measured so far: a picture of the first systems would stay when the others come."""
    axes = {"temperature": [0.1, 0.2]}
    several = load_experiment(experiment(tiny_world, tmp_path, axes=axes))
    one = load_experiment(experiment(tiny_world, tmp_path, axes=axes, systems={"both": None}, compare=[], scales={}))
    first = collect([scored("both-temperature-0.1", 1, x={"1": 1})])
    assert axis_of(several, first) is None
    assert axis_of(one, first) == ([0.1], "objective.temperature")
    assert axis_of(load_experiment(experiment(tiny_world, tmp_path)), collect([scored("both", 1, x={"1": 1})])) is None


def scored(system: str, seed: int, **tasks: dict[str, float]) -> dict[str, Any]:
    """Return a record whose tasks have these scores of correctness, by question."""
    return {
        "system": system,
        "name": system.upper(),
        "seed": seed,
        "tasks": {task: {"group": "in" if task == "x" else None, **MEASURES} for task in tasks},
        "scores": {t: {q: {"correctness": s, "recall@1": 1.0} for q, s in own.items()} for t, own in tasks.items()},
    }


def test_averages_count_each_task_once_and_differences_are_paired() -> None:
    """Worked out by hand: task x has two questions, task y four; system a has two seeds."""
    records = [
        scored("a", 1, x={"1": 1, "2": 0}, y={"1": 1, "2": 1, "3": 1, "4": 1}),
        scored("b", 1, x={"1": 0, "2": 1}, y={"1": 0, "2": 0, "3": 1, "4": 1}),
        scored("a", 2, x={"1": 1, "2": 1}, y={"1": 1, "2": 1, "3": 1, "4": 1}),
    ]
    a, b = collect(records)
    assert a.seeds == (1, 2)
    assert a.scores["x"]["correctness"] == {"1": 1, "2": 0.5}
    main = main_record([a, b], differences([a, b], [("a", "b")]), {})["systems"]
    assert main["a"]["tasks"]["x"] == {"retrieval": None, "recall@1": 100, "correctness": 75, "citation": None}
    assert main["a"]["average"]["correctness"] == pytest.approx((75 + 100) / 2)
    assert main["b"]["average"]["correctness"] == pytest.approx(50)
    assert main["a"]["groups"]["in"]["correctness"] == 75
    assert compare(a, b, "citation") == []
    whole, group = compare(a, b, "correctness")  # by seed 1 alone, which both have
    assert (whole.group, whole.seeds, group.group) == (None, (1,), "in")
    assert whole.value == pytest.approx((0 + 50) / 2)
    assert (whole.better, whole.tasks) == (1, 2)
    assert whole.low < whole.value < whole.high
    assert whole.p_value is not None
    assert 0.2 < whole.p_value <= 1  # of 16 ways to exchange two of 1/2 and two of 1/4, many are as extreme
    assert "| a | b | correctness | all | +25.0 [" in markdown([a, b], differences([a, b], [("a", "b")]))


def test_the_margin_of_one_group_over_another() -> None:
    """In x both are equal; in y the first is always right and the second never."""
    records = [
        scored("a", 1, x={"1": 1, "2": 0}, y={"1": 1, "2": 1}),
        scored("b", 1, x={"1": 1, "2": 0}, y={"1": 0, "2": 0}),
    ]
    for record in records:
        record["tasks"]["y"]["group"] = "out"
    found = {own.group: own for own in compare(*collect(records), "correctness")}
    assert found.keys() == {None, "in", "out", "out minus in"}
    assert (found["in"].value, found["out"].value, found[None].value) == (0, 100, 50)
    margin = found["out minus in"]
    assert (margin.value, margin.low, margin.high, margin.p_value) == (100, 100, 100, None)
    assert (found["in"].better, found["in"].p_value) == (0, 1)
