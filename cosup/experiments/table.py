"""The tables of an experiment: every system on every task, averages, and paired differences.

A system's score of a question is the average over its seeds. An average over tasks counts each task once; for its
interval questions are drawn anew within each task. Two systems are compared question by question: their difference in
a task is over the questions that the measure judges for both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cosup.evaluation.report import markdown_table, with_interval
from cosup.evaluation.statistics import interval_of, resampled_averages

COLUMNS = ("retrieval", "recall@1", "correctness", "citation")

Scores = Mapping[str, float]
"""Question id -> score in 0..1."""


@dataclass(frozen=True)
class SystemScores:
    """What a system scored.

    Attributes:
        seeds: that were measured.
        scores: task -> column of `COLUMNS`, and of others that the records keep -> score of each question, averaged
            over the seeds.
        groups: task -> its group, or None.
    """

    key: str
    name: str
    seeds: tuple[int, ...]
    scores: Mapping[str, Mapping[str, Scores]]
    groups: Mapping[str, str | None]


@dataclass(frozen=True)
class Difference:
    """How much better one system is than another in one column, percentage points on the average of the tasks.

    Attributes:
        value: the average over tasks of the paired difference, with the ends `low` and `high` of its 95% interval.
        better: tasks in which the first is better, of `tasks`.
    """

    column: str
    value: float
    low: float
    high: float
    better: int
    tasks: int


Differences = Mapping[tuple[str, str], Sequence[Difference]]
"""Two systems -> the first minus the second, by column."""


def collect(records: Iterable[Mapping[str, Any]]) -> list[SystemScores]:
    """Read the scores of the measurements, systems in the order of their first record."""
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        grouped.setdefault(record["system"], []).append(record)
    return [_system(own) for own in grouped.values()]


def compare(one: SystemScores, other: SystemScores, column: str) -> Difference | None:
    """Return how much better `one` is than `other`, or None where nothing is judged for both."""
    paired = {}
    for task, columns in one.scores.items():
        ours, theirs = columns.get(column, {}), other.scores.get(task, {}).get(column, {})
        if both := [ours[question] - theirs[question] for question in ours if question in theirs]:
            paired[task] = both
    if not paired:
        return None
    value, (low, high) = _average(paired)
    better = sum(float(np.mean(values)) > 0 for values in paired.values())
    return Difference(column, value, low, high, better, len(paired))


def differences(systems: Sequence[SystemScores], comparisons: Sequence[tuple[str, str]]) -> Differences:
    """Return the differences in every column of the pairs of systems of which both were measured."""
    known = {own.key: own for own in systems}
    return {
        (one, other): [found for c in COLUMNS if (found := compare(known[one], known[other], c)) is not None]
        for one, other in comparisons
        if one in known and other in known
    }


def main_record(systems: Sequence[SystemScores], found: Differences, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the machine-readable table: percentages by system, task and column."""
    return {
        "systems": {
            own.key: {
                "name": own.name,
                "seeds": list(own.seeds),
                "tasks": {task: {c: _percent(columns[c]) for c in COLUMNS} for task, columns in own.scores.items()},
                "average": {column: cell_of(own, column)[0] for column in COLUMNS},
                "groups": {name: {c: cell_of(own, c, name)[0] for c in COLUMNS} for name in group_names(own)},
            }
            for own in systems
        },
        "differences": {
            f"{one}-{other}": {own.column: vars(own) for own in columns} for (one, other), columns in found.items()
        },
        "settings": settings,
    }


def markdown(systems: Sequence[SystemScores], found: Differences) -> str:
    """Return the page of tables."""
    lines = ["Percent, with 95% intervals; an average counts each task once.", ""]
    header = ["system", "seeds", *COLUMNS]
    lines += markdown_table([header, *([o.name, str(len(o.seeds)), *_cells(o)] for o in systems)])
    groups = dict.fromkeys(name for own in systems for name in group_names(own))
    for group in groups:
        lines += ["", f"### {_title(group)}", ""]
        lines += markdown_table([["system", *COLUMNS], *([o.name, *_cells(o, group)] for o in systems)])
    for column in COLUMNS:
        lines += _by_task(systems, column)
    return "\n".join([*lines, *_paired(found, {own.key: own.name for own in systems})]) + "\n"


def _by_task(systems: Sequence[SystemScores], column: str) -> list[str]:
    tasks = list(dict.fromkeys(t for own in systems for t, c in own.scores.items() if c.get(column)))
    if not tasks:
        return []
    rows = [[own.name, *(_shown(own.scores.get(task, {}).get(column)) for task in tasks)] for own in systems]
    return ["", f"### {_title(column)} by task", "", *markdown_table([["system", *tasks], *rows])]


def _paired(found: Differences, names: Mapping[str, str]) -> list[str]:
    if not found:
        return []
    rows = [["system", "against", "measure", "difference, points", "better in"]]
    for (one, other), columns in found.items():
        for own in columns:
            shown = f"{own.value:+.1f} [{own.low:+.1f}, {own.high:+.1f}]"
            rows.append([names[one], names[other], own.column, shown, f"{own.better} of {own.tasks} tasks"])
    return ["", "### Paired differences", "", *markdown_table(rows)]


def _title(name: str) -> str:
    return name[:1].upper() + name[1:]


def _system(records: Sequence[Mapping[str, Any]]) -> SystemScores:
    first = records[0]
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for record in records:
        for task, questions in record["scores"].items():
            columns = found.setdefault(task, {column: {} for column in COLUMNS})
            for question, own in questions.items():
                for column, value in own.items():
                    columns.setdefault(column, {}).setdefault(question, []).append(float(value))
    scores = {
        task: {c: {q: sum(v) / len(v) for q, v in own.items()} for c, own in columns.items()}
        for task, columns in found.items()
    }
    groups = {task: own.get("group") for task, own in first["tasks"].items()}
    seeds = tuple(int(record["seed"]) for record in records)
    return SystemScores(first["system"], first["name"], seeds, scores, groups)


def group_names(own: SystemScores) -> list[str]:
    """Return the groups of a system's tasks, in their order."""
    return list(dict.fromkeys(group for group in own.groups.values() if group is not None))


Cell = tuple[float | None, tuple[float, float] | None]
"""An average in percent with its 95% interval, or nothing."""


def cell_of(own: SystemScores, column: str, group: str | None = None) -> Cell:
    """Return the average of a column over tasks (of a group) in percent, and its interval."""
    scores = {
        task: list(columns[column].values())
        for task, columns in own.scores.items()
        if columns.get(column) and (group is None or own.groups.get(task) == group)
    }
    return _average(scores) if scores else (None, None)


def _average(values: Mapping[str, Sequence[float]]) -> tuple[float, tuple[float, float]]:
    """Return the average over tasks, each counting once, of values in -1..1: percent, and its 95% interval."""
    draws = [resampled_averages(own, task) for task, own in values.items()]
    return 100 * float(np.mean([np.mean(own) for own in values.values()])), interval_of(np.mean(draws, axis=0))


def _cells(own: SystemScores, group: str | None = None) -> list[str]:
    found = [cell_of(own, column, group) for column in COLUMNS]
    return ["" if value is None else with_interval(value, ends) for value, ends in found]


def _percent(scores: Scores) -> float | None:
    return 100 * float(np.mean(list(scores.values()))) if scores else None


def _shown(scores: Scores | None) -> str:
    return f"{_percent(scores):.1f}" if scores else ""
