"""Examples and pairs for the trainer's tests, by name, so that a second process can make the same."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from cosup.data.stream import StreamedExamples, StreamOrder
from cosup.data.writing import write_jsonl
from cosup.modeling import CoSupervisedModel
from cosup.processes import rank, world_size
from cosup.records import Example, RetrievalSegment, TextSegment
from cosup.training.config import CoSupervisionConfig
from tests import pairs
from tests.training import pairings

PLAIN = Example("plain", "Who?", (TextSegment("Ada Vale"),))
REPEATED = Example("again", "Where?", (RetrievalSegment("w0", "Red Tide is a book."), TextSegment("book")))
MIXED = (*pairs.EXAMPLES[:6], PLAIN, REPEATED)
#: With batches of two in order, the second process has no `[Ret]`.
LOPSIDED = (*pairs.EXAMPLES[:2], PLAIN, Example("more", "What?", (TextSegment("a book"),)))


def pair(settings: dict[str, Any]) -> CoSupervisedModel:
    """Return a tiny pair: `family`, `embedder_family`, `embedder_width`; `learn_temperature`, `shared`.

    Or one of `pairings.PAIRINGS`, by its name: `pairing`, over the checkpoints in the folder `bases`.
    """
    settings = dict(settings)
    if "pairing" in settings:
        return pairings.start(Path(settings["bases"]), settings["pairing"])
    learn, shared = settings.pop("learn_temperature", False), settings.pop("shared", False)
    model = pairs.pair(**settings)
    if shared:
        model = CoSupervisedModel(
            model.generator, model.generator.base_model, model.generator_tokenizer, model.generator_tokenizer,
            model.settings,
        )  # fmt: skip
    if learn:
        model.learn_temperature()
    return model


def stream(folder: Path, config: CoSupervisionConfig, examples: Sequence[Example]) -> StreamedExamples:
    """Stream examples from a file, this process's share of them."""
    path = folder / f"examples-{rank()}.jsonl"
    write_jsonl(path, examples)
    size = config.per_device_train_batch_size
    order = StreamOrder(seed=3, shuffle_buffer=3, batch_size=size, rank=rank(), ranks=world_size(), repeat=True)
    return StreamedExamples(path, pairs.BY_ID, order)


class StopAt(TrainerCallback):
    """Ends training after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Stop where it is time."""
        control.should_training_stop = state.global_step >= self.step
        return control


class DieAt(TrainerCallback):
    """Kills its process in a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Die where it is time."""
        if state.global_step >= self.step:
            os.kill(os.getpid(), signal.SIGKILL)
        return control
