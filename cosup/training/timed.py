"""Checkpoints by the clock, beside those by steps: how long a step takes is not known when a recipe is written."""

from __future__ import annotations

import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainingArguments

from cosup.processes import max_over


class TimedSaving(TrainerCallback):
    """Asks for a checkpoint after the first step that ends so many minutes or more after the last one was written.

    Args:
        minutes: from 0, which asks after every step but the last one.
    """

    def __init__(self, minutes: float) -> None:
        self.minutes = minutes
        self._since = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._since = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        """Ask for a checkpoint where it is time; the processes of a run, whose clocks differ, do so together."""
        if control.should_training_stop:  # the model folder comes next
            return
        late = time.monotonic() - self._since >= 60 * self.minutes
        if max_over([float(late)], args.device)[0]:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start anew, by whatever it was saved."""
        self._since = time.monotonic()
