"""The training curves of a run, as a picture."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosup.data.writing import whole_file
from cosup.errors import needs_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

_TRAINING, _HELD_OUT = "training", "held-out"
_COLORS = ("#0b5394", "#c55a11", "#38761d", "#674ea7", "#7f6000")


@dataclass(frozen=True)
class Panel:
    """One small picture.

    Attributes:
        title: what is shown, and its unit.
        lines: pairs of a label and a logged figure's name; figures that were not logged are left out.
        share: whether the figures are shares of 1.
        logarithmic: whether the vertical axis is.
        from_zero: whether the vertical axis begins at 0.
    """

    title: str
    lines: tuple[tuple[str, str], ...]
    share: bool = False
    logarithmic: bool = False
    from_zero: bool = False


PANELS = (
    Panel("NTP loss (nats a token)", ((_TRAINING, "ntp_loss"), (_HELD_OUT, "eval_ntp_loss"))),
    Panel("NSP loss (nats a retrieval)", ((_TRAINING, "nsp_loss"), (_HELD_OUT, "eval_nsp_loss"))),
    Panel("In-batch accuracy", ((_TRAINING, "nsp_accuracy"), (_HELD_OUT, "eval_nsp_accuracy")), share=True),
    Panel("Held-out recall", (("at 1", "eval_recall@1"), ("at 10", "eval_recall@10")), share=True),
    Panel("Learning rate", (("learning rate", "learning_rate"),), from_zero=True),
    Panel(
        "Gradient norm",
        (("both", "grad_norm"), ("generator", "generator_grad_norm"), ("embedder", "embedder_grad_norm")),
        logarithmic=True,
    ),
    Panel("Temperature", (("temperature", "temperature"),)),
    Panel("Real tokens a second", (("tokens a second", "tokens_per_second"),), from_zero=True),
    Panel("Peak memory (GB)", (("memory", "memory_gb"),), from_zero=True),
)


def draw_curves(log_history: Iterable[Mapping[str, Any]], path: str | Path) -> Path | None:
    """Draw the training curves of a run into a PNG file; an older one is replaced.

    Args:
        log_history: what `Trainer` has logged (`trainer.state.log_history`): one mapping a log, with its `step`.
        path: the file.

    Returns:
        The file, or None where nothing has been logged that is drawn, or matplotlib is not installed (a warning names
        the extra that brings it).
    """
    log = list(log_history)
    panels = [panel for panel in PANELS if any(points(log, name)[0] for _, name in panel.lines)]
    if not panels:
        return None
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    try:
        figure = new_figure(4.2 * columns, 2.9 * rows)
    except ImportError:
        logger.warning(needs_extra("no training curves: drawing", "plots", "matplotlib"))
        return None
    for number, panel in enumerate(panels, start=1):
        _draw(figure.add_subplot(rows, columns, number), panel, log)
    return save_figure(figure, Path(path))


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, size in inches. Raises `ImportError` where matplotlib is not installed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, in the place of an older one, and return the file. Raises as `whole_file`."""
    with whole_file(path) as draft:
        figure.savefig(draft, format="png", metadata={"Software": None})
    return path


def points(log: Sequence[Mapping[str, Any]], name: str) -> tuple[list[float], list[float]]:
    """Return the steps at which a figure was logged and its values; of several at a step, the last.

    A run that was resumed has logged some steps twice.
    """
    found: dict[float, float] = {}
    for entry in log:
        value, step = entry.get(name), entry.get("step")
        if isinstance(value, int | float) and isinstance(step, int | float):
            found[float(step)] = float(value)
    steps = sorted(found)
    return steps, [found[step] for step in steps]


def _draw(axes: Axes, panel: Panel, log: Sequence[Mapping[str, Any]]) -> None:
    drawn = [(label, *points(log, name)) for label, name in panel.lines]
    drawn = [line for line in drawn if line[1]]
    for color, (label, steps, values) in zip(_COLORS, drawn, strict=False):
        few = len(steps) <= 25
        axes.plot(steps, values, label=label, color=color, linewidth=1.3, marker="o" if few else None, markersize=3)
    axes.set_title(panel.title, fontsize=10, loc="left")
    axes.set_xlabel("step", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if panel.share:
        axes.set_ylim(-0.02, 1.02)
    if panel.from_zero:
        axes.set_ylim(bottom=0)
        axes.ticklabel_format(axis="y", scilimits=(-3, 5))
    if panel.logarithmic and all(value > 0 for _, _, values in drawn for value in values):
        axes.set_yscale("log")
    if len(drawn) > 1 or drawn[0][0] == _HELD_OUT:
        axes.legend(fontsize=8, frameon=False)
