"""Telling a listener how far a training run has come, in place of `Trainer`'s own bars and prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from cosup.modeling import CoSupervisedModel

Report: TypeAlias = Callable[[int, int, str], None]
"""Called with the steps done, the steps of the whole run, and a note with the newest figures (or an empty text)."""

_SHOWN = (
    ("ntp_loss", "ntp"),
    ("nsp_loss", "nsp"),
    ("eval_ntp_loss", "held-out ntp"),
    ("eval_recall@1", "held-out recall@1"),
)


Watch: TypeAlias = Callable[[int, int, CoSupervisedModel], None]
"""Called with the steps done, the steps of the whole run and the pair as it is, which it must leave so."""


class ProgressReporter(TrainerCallback):
    """Reports at the start, after every step and at every log."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self._figures: dict[str, str] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Report what an earlier run has done."""
        self.report(state.global_step, state.max_steps, "")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Report a step."""
        self.report(state.global_step, state.max_steps, self._note)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Report new figures."""
        self._figures |= {label: f"{label} {logs[name]:.3f}" for name, label in _SHOWN if logs and name in logs}
        self.report(state.global_step, state.max_steps, self._note)

    @property
    def _note(self) -> str:
        return ", ".join(self._figures[label] for _, label in _SHOWN if label in self._figures)


class PairWatcher(TrainerCallback):
    """Shows the pair, in evaluation mode, when training begins (or goes on) and after every step."""

    def __init__(self, watch: Watch, model: CoSupervisedModel) -> None:
        self.watch, self.model = watch, model

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Show it as it starts."""
        self._show(state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Show what a step made of it."""
        self._show(state)

    def _show(self, state: TrainerState) -> None:
        training = self.model.training
        self.model.eval()
        self.watch(state.global_step, state.max_steps, self.model)
        self.model.train(training)


def report_to(trainer: Trainer, report: Report) -> None:
    """Let a trainer report its progress instead of showing it itself."""
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(ProgressReporter(report))
