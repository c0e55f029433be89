"""The table of a suite: a row a task, averages by group and over all, as papers print them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosup.evaluation.report import Report
from cosup.evaluation.report_text import markdown_table, notes, with_interval
from cosup.evaluation.statistics import interval_of, resampled_averages
from cosup.evaluation.suites import SIDES, Task

ALL = "average"


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure of a task: its measure, percent, and the 95% interval.

    Attributes:
        value: None where the measure could judge no question.
    """

    measure: str
    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def ends(self) -> tuple[float, float] | None:
        """The interval, where there is one."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class TaskRow:
    """What a suite shows of one task.

    Attributes:
        count: questions that the cells are over.
        cells: by side.
        notes: what was left out or is absent, a line each.
        draws: by side, bootstrap averages of the task, in 0..1; what an average over tasks has its interval from.
    """

    task: str
    group: str | None
    count: int
    cells: Mapping[str, Cell]
    notes: tuple[str, ...] = ()
    draws: Mapping[str, NDArray[np.float64]] = field(default_factory=dict, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        cells = {side: cell.to_dict() for side, cell in self.cells.items()}
        return {"group": self.group, "count": self.count, **cells, "notes": list(self.notes)}


def task_row(task: Task, report: Report) -> TaskRow:
    """Take from a task's report what the suite shows."""
    cells, draws = {}, {}
    for side, name in task.measures.items():
        ends = report.intervals.get(name, (None, None))
        cells[side] = Cell(name, report.metrics.get(name), *ends)
        values = [result.scores[name] for result in report.results if name in result.scores]
        if values:
            draws[side] = resampled_averages(values, task.name)
    absent = [f"{cell.measure} judges none of its questions" for cell in cells.values() if cell.value is None]
    return TaskRow(task.name, task.group, report.count, cells, (*notes(report), *absent), draws)


def suite_notes(rows: Sequence[TaskRow]) -> list[str]:
    """Return what was left out of each task or is absent there, a line each."""
    return [f"{row.task}: {note}" for row in rows for note in row.notes]


def averages(rows: Sequence[TaskRow]) -> dict[str, dict[str, float]]:
    """Return the average over tasks, each counting once, of each side: for every group, then for all (`average`)."""
    return {name: _average(members) for name, members in _groups(rows).items()}


def average_intervals(rows: Sequence[TaskRow]) -> dict[str, dict[str, tuple[float, float]]]:
    """Return the 95% bootstrap interval of each of `averages`, percent: questions are drawn anew within each task."""
    return {name: _average_ends(members) for name, members in _groups(rows).items()}


def _groups(rows: Sequence[TaskRow]) -> dict[str, list[TaskRow]]:
    groups: dict[str, list[TaskRow]] = {}
    for row in rows:
        if row.group is not None:
            groups.setdefault(row.group, []).append(row)
    if ALL in groups:
        groups[f"group {ALL}"] = groups.pop(ALL)
    return groups | {ALL: list(rows)}


def suite_rows(rows: Sequence[TaskRow]) -> list[list[str]]:
    """Return the suite as a table of text, its header first; percentages with one decimal and their intervals."""
    table = [["task", *SIDES, "questions"]]
    for row in rows:
        table.append([row.task, *(_shown(row.cells.get(side)) for side in SIDES), str(row.count)])
    ends = average_intervals(rows)
    for name, found in averages(rows).items():
        cells = [Cell(side, found.get(side), *ends[name].get(side, (None, None))) for side in SIDES]
        table.append([name, *map(_shown, cells), ""])
    return table


def suite_markdown(rows: Sequence[TaskRow]) -> str:
    """Return the suite's page: the table, and which measure each of its figures is."""
    lines = ["# Suite", "", *markdown_table(suite_rows(rows)), ""]
    lines += [
        "Percent, with 95% bootstrap intervals over questions; an average counts each task once. The measures:",
        "",
    ]
    for row in rows:
        named = ", ".join(f"{side} `{cell.measure}`" for side, cell in row.cells.items())
        lines.append(f"- {row.task}: {named or 'none'}")
    if told := suite_notes(rows):
        lines += ["", "Left out or absent:", "", *(f"- {note}" for note in told)]
    return "\n".join(lines) + "\n"


def _average(rows: Sequence[TaskRow]) -> dict[str, float]:
    found = {side: [c.value for r in rows if (c := r.cells.get(side)) and c.value is not None] for side in SIDES}
    return {side: math.fsum(values) / len(values) for side, values in found.items() if values}


def _average_ends(rows: Sequence[TaskRow]) -> dict[str, tuple[float, float]]:
    found = {side: [row.draws[side] for row in rows if side in row.draws] for side in SIDES}
    return {side: interval_of(np.mean(drawn, axis=0)) for side, drawn in found.items() if drawn}


def _shown(cell: Cell | None) -> str:
    return "-" if cell is None else with_interval(cell.value, cell.ends)
