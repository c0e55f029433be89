"""One process of several: `torchrun --nproc-per-node 2 -m tests.training.worker settings.json`.

Trains tiny pairs as a list of settings says, one after another, and leaves weights and log of each as files.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from cosup.processes import leave, rank, world_size
from cosup.training.config import CoSupervisionConfig
from cosup.training.saving import last_complete_checkpoint
from cosup.training.sharding import unsharded_state
from cosup.training.trainer import CoSupervisionTrainer
from tests import pairs
from tests.training import examples as made


def train(settings: dict[str, Any]) -> CoSupervisionTrainer:
    """Train as the settings say: `folder`, `examples`, `pair`, `resume`, `stop`, `die`; `config`: the config's own."""
    folder = Path(settings["folder"])
    quiet = {"save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "logging_steps": 1, "max_steps": 1}
    config = CoSupervisionConfig(output_dir=str(folder), **(quiet | settings["config"]))
    model = made.pair(settings.get("pair", {}))
    examples = getattr(made, settings.get("examples", "MIXED"))
    callbacks: list[TrainerCallback] = [made.StopAt(settings["stop"])] if "stop" in settings else []
    if "die" in settings and settings["die"][0] == rank():
        callbacks.append(made.DieAt(settings["die"][1]))
    data = made.stream(folder, config, examples) if settings.get("stream") else examples
    trainer = CoSupervisionTrainer(model, config, data, pairs.PASSAGES, examples, callbacks=callbacks)
    checkpoint = last_complete_checkpoint(folder) if settings.get("resume") else None
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return trainer


def main() -> None:
    """Train as each of the settings says; the first process writes `weights.pt` and `log.json` into its folder."""
    for settings in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        trainer = train(settings)
        figures = trainer.evaluate() if settings.get("evaluate") else {}
        state = unsharded_state(trainer.model)
        if trainer.args.should_save:
            folder = Path(settings["folder"])
            torch.save(trainer.model.state_dict() if state is None else state, folder / "weights.pt")
            record = {"log": trainer.state.log_history, "eval": figures, "processes": world_size()}
            (folder / "log.json").write_text(json.dumps(record), encoding="utf-8")
    leave(0)


if __name__ == "__main__":
    main()
