"""The tables of an experiment: every system on every task, averages, and paired differences.

A system's score of a question is the average over its seeds. An average over tasks counts each task once; for its
interval questions are drawn anew within each task: it is of these trainings, and says nothing of other seeds. Two
systems are compared question by question, by the seeds that both have: their difference in a task is over the questions
that the measure judges for both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosup.evaluation.report_text import markdown_table, with_interval
from cosup.evaluation.statistics import interval_of, randomisation_test, resampled_averages

COLUMNS = ("retrieval", "recall@1", "correctness", "citation")
_ROUNDING = 1e-9
_BY_SEEDS = (
    "Question by question, over the seeds that both have; intervals and p are over questions, not over trainings."
)

Values = Mapping[str, Sequence[float]]
"""Task -> values of its questions."""

Scores = Mapping[str, float]
"""Question id -> score in 0..1."""


@dataclass(frozen=True)
class SystemScores:
    """What a system scored.

    Attributes:
        of_seeds: seed -> task -> column of `COLUMNS`, and of others that the records keep -> score of each question.
        groups: task -> its group, or None.
    """

    key: str
    name: str
    of_seeds: Mapping[int, Mapping[str, Mapping[str, Scores]]]
    groups: Mapping[str, str | None]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that were measured."""
        return tuple(self.of_seeds)

    @cached_property
    def scores(self) -> Mapping[str, Mapping[str, Scores]]:
        """Task -> column -> score of each question, averaged over the seeds."""
        return self.over(self.seeds)

    def over(self, seeds: Sequence[int]) -> dict[str, dict[str, Scores]]:
        """Return `scores` over some of the seeds."""
        found: dict[str, dict[str, dict[str, list[float]]]] = {}
        for seed in seeds:
            for task, columns in self.of_seeds[seed].items():
                kept = found.setdefault(task, {column: {} for column in COLUMNS})
                for column, scores in columns.items():
                    for question, value in scores.items():
                        kept.setdefault(column, {}).setdefault(question, []).append(value)
        return {
            task: {c: {q: sum(v) / len(v) for q, v in own.items()} for c, own in columns.items()}
            for task, columns in found.items()
        }


@dataclass(frozen=True)
class Difference:
    """How much better one system is than another in one column, percentage points on the average of the tasks.

    Attributes:
        group: whose tasks; None for all. `B minus A` is how much larger the difference is in group B than in A.
        value: the average over tasks of the paired difference, with the ends `low` and `high` of its 95% interval.
        p_value: of a two-sided paired randomisation test: how often differences as large come about where the two
            systems' scores are exchanged at random, question by question; None for the difference of two groups.
        better: tasks in which the first is better, of `tasks`.
        seeds: that both have.
    """

    column: str
    group: str | None
    value: float
    low: float
    high: float
    p_value: float | None
    better: int
    tasks: int
    seeds: tuple[int, ...]


Differences = Mapping[tuple[str, str], Sequence[Difference]]
"""Two systems -> the first minus the second, by column and group."""


def collect(records: Iterable[Mapping[str, Any]]) -> list[SystemScores]:
    """Read the scores of the measurements, systems in the order of their first record."""
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        grouped.setdefault(record["system"], []).append(record)
    return [_system(own) for own in grouped.values()]


def compare(one: SystemScores, other: SystemScores, column: str) -> list[Difference]:
    """Return how much better `one` is than `other`: over all tasks, within each group, and group against group.

    Empty where nothing is judged for both with a seed that both have.
    """
    seeds = tuple(seed for seed in one.seeds if seed in other.seeds)
    ours, theirs = one.over(seeds), other.over(seeds)
    paired = {task: _paired(columns, theirs.get(task, {}), column) for task, columns in ours.items()}
    paired = {task: values for task, values in paired.items() if values}
    if not paired:
        return []
    groups = {name: {t: v for t, v in paired.items() if one.groups.get(t) == name} for name in group_names(one)}
    groups = {name: values for name, values in groups.items() if values}
    named: list[tuple[str | None, Values]] = [(None, paired), *groups.items()]
    found = [_difference(column, group, own, seeds) for group, own in named]
    return [*found, *(_margin(column, a, b, seeds) for a, b in combinations(groups.items(), 2))]


def _paired(ours: Mapping[str, Scores], theirs: Mapping[str, Scores], column: str) -> list[float]:
    other = theirs.get(column, {})
    return [value - other[question] for question, value in ours.get(column, {}).items() if question in other]


def _difference(column: str, group: str | None, paired: Values, seeds: tuple[int, ...]) -> Difference:
    value, (low, high) = _average(paired)
    weighted = np.concatenate([np.asarray(own) / len(own) for own in paired.values()])
    better = sum(float(np.mean(own)) > _ROUNDING for own in paired.values())
    return Difference(column, group, value, low, high, randomisation_test(weighted), better, len(paired), seeds)


def _margin(column: str, one: tuple[str, Values], other: tuple[str, Values], seeds: tuple[int, ...]) -> Difference:
    """Return how much larger the difference is in the second group."""
    means = [np.mean([np.mean(own) for own in group.values()]) for _, group in (one, other)]
    ends = interval_of(_drawn(other[1]) - _drawn(one[1]))
    name, tasks = f"{other[0]} minus {one[0]}", len(one[1]) + len(other[1])
    return Difference(column, name, 100 * float(means[1] - means[0]), *ends, None, 0, tasks, seeds)


def differences(systems: Sequence[SystemScores], comparisons: Sequence[tuple[str, str]]) -> Differences:
    """Return the differences in every column of the pairs of systems of which both were measured."""
    known = {own.key: own for own in systems}
    return {
        (one, other): [found for column in COLUMNS for found in compare(known[one], known[other], column)]
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
            f"{one}-{other}": [asdict(own) for own in found_here] for (one, other), found_here in found.items()
        },
        "settings": settings,
    }


def markdown(systems: Sequence[SystemScores], found: Differences) -> str:
    """Return the page of tables."""
    lines = ["Percent, with 95% intervals; an average counts each task once.", ""]
    header = ["system", "name", "seeds", *COLUMNS]
    lines += markdown_table([header, *([o.key, o.name, str(len(o.seeds)), *_cells(o)] for o in systems)])
    groups = dict.fromkeys(name for own in systems for name in group_names(own))
    for group in groups:
        lines += ["", f"### {_title(group)}", ""]
        lines += markdown_table([["system", *COLUMNS], *([o.key, *_cells(o, group)] for o in systems)])
    for column in COLUMNS:
        lines += _by_task(systems, column)
    return "\n".join([*lines, *difference_lines(found)]) + "\n"


def _by_task(systems: Sequence[SystemScores], column: str) -> list[str]:
    tasks = list(dict.fromkeys(t for own in systems for t, c in own.scores.items() if c.get(column)))
    if not tasks:
        return []
    rows = [[own.key, *(_shown(own.scores.get(task, {}).get(column)) for task in tasks)] for own in systems]
    return ["", f"### {_title(column)} by task", "", *markdown_table([["system", *tasks], *rows])]


def difference_lines(found: Differences) -> list[str]:
    """Return the table of paired differences, with its heading; nothing where there are none."""
    if not found:
        return []
    rows = [["system", "against", "measure", "tasks", "difference, points", "p", "better in"]]
    for (one, other), columns in found.items():
        for own in columns:
            shown = f"{own.value:+.1f} [{own.low:+.1f}, {own.high:+.1f}]"
            tail = ["", ""] if own.p_value is None else [f"{own.p_value:.4f}", f"{own.better} of {own.tasks} tasks"]
            rows.append([one, other, own.column, own.group or "all", shown, *tail])
    return ["", "### Paired differences", "", _BY_SEEDS, "", *markdown_table(rows)]


def _title(name: str) -> str:
    return name[:1].upper() + name[1:]


def _system(records: Sequence[Mapping[str, Any]]) -> SystemScores:
    first, of_seeds = records[0], dict[int, dict[str, dict[str, dict[str, float]]]]()
    for record in records:
        tasks = of_seeds.setdefault(int(record["seed"]), {})
        for task, questions in record["scores"].items():
            columns = tasks.setdefault(task, {})
            for question, own in questions.items():
                for column, value in own.items():
                    columns.setdefault(column, {})[question] = float(value)
    groups = {task: own.get("group") for task, own in first["tasks"].items()}
    return SystemScores(first["system"], first["name"], of_seeds, groups)


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


def _average(values: Values) -> tuple[float, tuple[float, float]]:
    """Return the average over tasks, each counting once, of values in -1..1: percent, and its 95% interval."""
    return 100 * float(np.mean([np.mean(own) for own in values.values()])), interval_of(_drawn(values))


def _drawn(values: Values) -> NDArray[np.float64]:
    """Return averages over tasks of bootstrap resamples: questions are drawn anew within each task."""
    return np.asarray(np.mean([resampled_averages(own, task) for task, own in values.items()], axis=0))


def _cells(own: SystemScores, group: str | None = None) -> list[str]:
    found = [cell_of(own, column, group) for column in COLUMNS]
    return ["" if value is None else with_interval(value, ends) for value, ends in found]


def _percent(scores: Scores) -> float | None:
    return 100 * float(np.mean(list(scores.values()))) if scores else None


def _shown(scores: Scores | None) -> str:
    return f"{_percent(scores):.1f}" if scores else ""
