"""The picture of a run's curves."""

from __future__ import annotations

import logging
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from cosup.training.curves import PANELS, draw_curves, points
from tests.pairs import EXAMPLES, PASSAGES, pair

PNG = b"\x89PNG\r\n\x1a\n"


def synthetic(steps: int = 60) -> list[dict[str, Any]]:
    log: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        loss = 3 * math.exp(-step / 20)
        log.append({"step": step, "loss": loss, "ntp_loss": loss, "nsp_loss": loss / 2, "nsp_accuracy": 1 - loss / 3})
        log[-1] |= {"learning_rate": 1e-4, "grad_norm": 1 + loss, "generator_grad_norm": 1.0, "memory_gb": 2.0}
        if step % 20 == 0:
            log.append({"step": step, "eval_ntp_loss": loss + 0.1, "eval_recall@1": 0.5, "eval_recall@10": 0.9})
    return [*log, {"step": steps, "train_runtime": 3.0}]


def size_of(path: Path) -> tuple[int, int]:
    """Width and height in pixels, from the head of the PNG."""
    data = path.read_bytes()
    assert data.startswith(PNG)
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def test_a_picture_has_a_panel_for_each_kind_of_figure(tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    assert draw_curves(synthetic(), path) == path
    wide, high = size_of(path)
    only = [{"step": entry["step"], "ntp_loss": entry["ntp_loss"]} for entry in synthetic() if "ntp_loss" in entry]
    draw_curves(only, tmp_path / "one.png")
    narrow, low = size_of(tmp_path / "one.png")
    assert wide == pytest.approx(3 * narrow, abs=2)
    assert high == pytest.approx(3 * low, abs=2), "seven panels stand in three rows"


def test_the_lines_are_the_logged_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    drawn: dict[str, tuple[list[float], list[float]]] = {}
    plot = Axes.plot

    def remember(self: Axes, steps: list[float], values: list[float], **options: Any) -> Any:
        drawn.setdefault(options["label"], (steps, values))
        return plot(self, steps, values, **options)

    monkeypatch.setattr(Axes, "plot", remember)
    log = synthetic(40)
    draw_curves(log, tmp_path / "curves.png")
    assert drawn["held-out"] == ([20.0, 40.0], [entry["eval_ntp_loss"] for entry in log if "eval_ntp_loss" in entry])
    assert drawn["training"][1] == [entry["ntp_loss"] for entry in log if "ntp_loss" in entry]


def test_a_step_that_was_logged_again_counts_once() -> None:
    """A run that stopped past its checkpoint logs some steps twice; the later one is what the model has learnt from."""
    log = [{"step": 2, "loss": 1.0}, {"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 3, "loss": "odd"}]
    assert points(log, "loss") == ([1.0, 2.0], [3.0, 2.0])


@pytest.mark.parametrize("log", [[], [{"step": 3, "train_runtime": 1.0}], [{"ntp_loss": 1.0}]])
def test_nothing_logged_draws_nothing(log: list[dict[str, Any]], tmp_path: Path) -> None:
    assert draw_curves(log, tmp_path / "curves.png") is None
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_a_warning_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with caplog.at_level(logging.WARNING):
        assert draw_curves(synthetic(), tmp_path / "curves.png") is None
    assert "pip install 'cosup[plots]'" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_diverged_run_is_drawn(tmp_path: Path) -> None:
    log = [*synthetic(5), {"step": 6, "ntp_loss": math.nan, "grad_norm": math.inf}, {"step": 7, "grad_norm": 0.0}]
    assert draw_curves(log, tmp_path / "curves.png")


def test_a_real_runs_log_is_drawn_and_replaces_an_older_picture(tmp_path: Path) -> None:
    from cosup.training.config import CoSupervisionConfig
    from cosup.training.trainer import CoSupervisionTrainer

    options: dict[str, Any] = {"max_steps": 3, "logging_steps": 1, "eval_strategy": "steps", "eval_steps": 2}
    args = CoSupervisionConfig(
        output_dir=str(tmp_path / "run"), save_strategy="no", disable_tqdm=True, use_cpu=True, **options
    )
    trainer = CoSupervisionTrainer(pair(), args, list(EXAMPLES), PASSAGES, list(EXAMPLES)[:4])
    trainer.train()
    path = tmp_path / "curves.png"
    path.write_bytes(b"older")
    assert draw_curves(trainer.state.log_history, path) == path
    shown = [p for p in PANELS if any(points(trainer.state.log_history, name)[0] for _, name in p.lines)]
    titles = {panel.title for panel in shown}
    assert {"NTP loss (nats a token)", "In-batch accuracy", "Held-out recall", "Learning rate"} <= titles
    assert size_of(path)[0] > 1000
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["curves.png"]
