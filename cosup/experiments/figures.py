"""The figures of an experiment, as PNG files: systems side by side, along an axis, and both spaces over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from cosup.experiments.table import COLUMNS, SystemScores, cell_of, group_names
from cosup.training.curves import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {"retrieval": "#0b5394", "recall@1": "#6fa8dc", "correctness": "#c55a11", "citation": "#38761d"}
_GREY = "#9e9e9e"
_PER_GROUP = 0.8  # share of a group's width that its bars take
_LABEL = 18  # letters in a line under a group of bars


def draw_systems(systems: Sequence[SystemScores], path: Path) -> Path:
    """Draw every system's averages over the tasks with their 95% intervals, percent."""
    figure, axes = _figure(1, width=max(6.0, 1.6 * len(systems)))
    _bars(axes[0], systems, COLUMNS)
    return _save(figure, path)


def draw_groups(systems: Sequence[SystemScores], path: Path) -> Path | None:
    """Draw the averages within each group of tasks side by side; None where there are no groups."""
    groups = list(dict.fromkeys(name for own in systems for name in group_names(own)))
    if not groups:
        return None
    figure, axes = _figure(len(groups), width=max(4.5, 1.3 * len(systems)))
    for one, group in zip(axes, groups, strict=True):
        _bars(one, systems, COLUMNS[:3], group)
        one.set_title(group)
    return _save(figure, path)


def draw_if_retrieved(systems: Sequence[SystemScores], path: Path) -> Path:
    """Draw correctness, and the part of it whose retrieval was right (the paper's Figure 3)."""
    figure, axes = _figure(1, width=max(5.0, 1.1 * len(systems)))
    _bars(axes[0], systems, ("correctness", "correctness_if_retrieved"), colors=(_GREY, COLORS["correctness"]))
    return _save(figure, path)


def draw_axis(systems: Sequence[SystemScores], values: Sequence[Any], label: str, path: Path) -> Path:
    """Draw the averages along an axis.

    Args:
        systems: one for each value.
        values: numbers (lines, in even steps) or names (bars: nothing lies between two names).
        label: of the axis.
    """
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return _draw_named(systems, [str(value) for value in values], label, path)
    figure, (one,) = _figure(1, width=max(5.0, 1.0 * len(systems)))
    places = range(len(systems))
    for column in COLUMNS:
        cells = [cell_of(own, column) for own in systems]
        shown = [(x, value, ends) for x, (value, ends) in zip(places, cells, strict=True) if value is not None and ends]
        if shown:
            xs, ys, spans = zip(*shown, strict=True)
            low, high = zip(*spans, strict=True)
            one.plot(xs, ys, marker="o", color=COLORS[column], label=column)
            one.fill_between(xs, low, high, color=COLORS[column], alpha=0.12, linewidth=0)
    one.set_xticks(list(places), [str(value) for value in values])
    one.set_xlabel(label)
    one.set_ylabel("percent")
    one.legend(frameon=False)
    return _save(figure, path)


def _draw_named(systems: Sequence[SystemScores], names: Sequence[str], label: str, path: Path) -> Path:
    """Draw the averages as groups of bars; of a path its last part is shown."""
    figure, (one,) = _figure(1, width=max(6.0, 1.6 * len(systems)))
    _bars(one, systems, COLUMNS, labels=[name.rsplit("/", 1)[-1] for name in names])
    one.set_xlabel(label)
    return _save(figure, path)


def draw_geometry(records: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> Path:
    """Draw what `geometry.measure` found at each checkpoint, a line for each name."""
    panels = {
        "alignment (squared distance)": ("alignment",),
        "uniformity, states - - and passages": ("uniformity_passages", "uniformity_states"),
        "effective rank, states - - and passages": ("rank_passages", "rank_states"),
        "distance of the means": ("gap",),
        "recall@1 (own passage nearest)": ("recall@1",),
    }
    figure, axes = _figure(len(panels), width=3.4)
    colors = dict(zip(records, cycle([*COLORS.values(), _GREY]), strict=False))
    for one, (title, names) in zip(axes, panels.items(), strict=True):
        for label, found in records.items():
            for name, style in zip(names, ("-", "--"), strict=False):
                steps = [record["step"] for record in found]
                shown = label if style == "-" else None
                one.plot(steps, [r[name] for r in found], style, color=colors[label], label=shown)
        one.set_title(title, fontsize=9)
        one.set_xlabel("step")
    axes[0].legend(frameon=False, fontsize=8)
    return _save(figure, path)


def draw_projection(records: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> Path:
    """Draw states at `[Ret]` and passages in two dimensions at the first and the last checkpoint of each name."""
    shown = [(f"{label}, step {r['step']}", r["projection"]) for label, found in records.items() for r in _ends(found)]
    figure, axes = _figure(len(shown), width=3.4, height=3.4)
    for one, (title, view) in zip(axes, shown, strict=True):
        for state, row in zip(view["states"], view["wanted"], strict=True):
            passage = view["passages"][row]
            one.plot((state[0], passage[0]), (state[1], passage[1]), color=_GREY, alpha=0.25, linewidth=0.6)
        for name, color in (("states", COLORS["correctness"]), ("passages", COLORS["retrieval"])):
            xs, ys = zip(*view[name], strict=True)
            one.scatter(xs, ys, s=9, color=color, label=name)
        one.set_title(f"{title}\n{100 * view['share']:.0f}% of the variance", fontsize=9)
        one.set_xticks([])
        one.set_yticks([])
    axes[0].legend(frameon=False, fontsize=8)
    return _save(figure, path)


def _ends(found: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [record for record in found if "projection" in record]


def _bars(
    one: Axes,
    systems: Sequence[SystemScores],
    columns: Sequence[str],
    group: str | None = None,
    colors: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
) -> None:
    """Draw a group of bars for each system, a bar for each column, with intervals; keys or `labels` in short lines."""
    width = _PER_GROUP / len(columns)
    for i, column in enumerate(columns):
        color = colors[i] if colors else COLORS[column]
        labelled = False
        for x, own in enumerate(systems):
            value, ends = cell_of(own, column, group)
            if value is None or ends is None:
                continue
            place = x + (i - (len(columns) - 1) / 2) * width
            spread = [[max(0.0, value - ends[0])], [max(0.0, ends[1] - value)]]
            one.bar(place, value, 0.92 * width, color=color, label=None if labelled else _shown(column))
            one.errorbar(place, value, spread, color="#333333", linewidth=0.9, capsize=2)
            labelled = True
    shown = [own.key for own in systems] if labels is None else labels
    one.set_xticks(range(len(systems)), [fill(label, _LABEL) for label in shown])
    one.set_ylabel("percent")
    one.legend(frameon=False, fontsize=8, ncols=len(columns), loc="lower center", bbox_to_anchor=(0.5, 1.08))
    one.set_ylim(0, 100)


def _shown(column: str) -> str:
    return column.replace("_", " ")


def has_matplotlib() -> bool:
    """Whether figures can be drawn (extra `plots`)."""
    return find_spec("matplotlib") is not None


def _figure(panels: int, width: float, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    figure = new_figure(width * panels, height)
    axes = [figure.add_subplot(1, panels, number) for number in range(1, panels + 1)]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        one.set_axisbelow(True)
    return figure, axes


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return save_figure(figure, path)
