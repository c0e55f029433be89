"""Tiny runs of the trainer, and what they logged and learnt: for the tests of its parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cosup.data.stream import StreamedExamples, StreamOrder
from cosup.data.writing import write_jsonl
from cosup.modeling import CoSupervisedModel
from cosup.training.config import CoSupervisionConfig
from cosup.training.saving import last_complete_checkpoint
from cosup.training.trainer import CoSupervisionTrainer
from tests import pairs
from tests.training.examples import MIXED, pair


def quiet_config(folder: Path, **more: Any) -> CoSupervisionConfig:
    """Return settings of a run of one step that shows no bar and saves nothing."""
    quiet = {"save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "logging_steps": 1, "max_steps": 1}
    rates = {"learning_rate": 3e-3, "per_device_train_batch_size": 4}
    return CoSupervisionConfig(output_dir=str(folder), **(quiet | rates | more))


def trained(folder: Path, model: CoSupervisedModel | None = None, **more: Any) -> CoSupervisionTrainer:
    """Train a tiny pair on the mixed examples; `resume` goes on from the last whole checkpoint of the folder."""
    callbacks, resume = more.pop("callbacks", []), more.pop("resume", False)
    trainer = CoSupervisionTrainer(
        pair({}) if model is None else model, quiet_config(folder, **more), MIXED, pairs.PASSAGES, callbacks=callbacks
    )
    trainer.train(resume_from_checkpoint=str(last_complete_checkpoint(folder)) if resume else None)
    return trainer


def logged(trainer: CoSupervisionTrainer, name: str) -> list[float]:
    """Return a number of every training log."""
    return [entry[name] for entry in trainer.state.log_history if name in entry and "loss" in entry]


def weights_of(trainer: CoSupervisionTrainer) -> dict[str, torch.Tensor]:
    """Return a copy of all weights."""
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


def written_stream(folder: Path, steps: int) -> StreamedExamples:
    """Write the mixed examples into a file and stream them; over and over where the run has a number of steps."""
    write_jsonl(folder / "examples.jsonl", MIXED)
    order = StreamOrder(seed=3, shuffle_buffer=3, batch_size=2, repeat=steps > 0)
    return StreamedExamples(folder / "examples.jsonl", pairs.BY_ID, order)
