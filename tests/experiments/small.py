"""An experiment of three systems on a tiny pair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.pairs import TinyWorld

MEASURES = {"retrieval": "passage_f1", "correctness": "contains_answer"}

# what `geometry.measure` finds at a checkpoint
SPACES = {
    "alignment": 1.5,
    "uniformity_states": -1.0,
    "uniformity_passages": -2.0,
    "rank_states": 3.0,
    "rank_passages": 4.0,
    "gap": 0.25,
    "recall@1": 0.5,
    "states": 2,
    "passages": 2,
    "projection": {"states": [[0, 1], [1, 0]], "passages": [[0, 0], [1, 1]], "wanted": [0, 1], "share": 0.75},
}


def experiment(world: TinyWorld, folder: Path, **changes: Any) -> Path:
    """Write a recipe of two steps, a suite of two tasks and an experiment of three systems."""
    files = {"passages": str(world.passages), "questions": str(world.questions)}
    training = {"max_steps": 2, "per_device_train_batch_size": 2, "save_strategy": "no", "use_cpu": True}
    data = {**files, "max_length": 256, "max_passage_length": 96}
    recipe = {"generator": str(world.base), "embedder": str(world.base), "data": data, "training": training}
    tasks = {"one": {**files, **MEASURES, "limit": 3, "group": "all of it"}, "two": {**files, **MEASURES, "limit": 9}}
    suite = {"generation": {"max_new_tokens": 12}, "tasks": tasks}
    record: dict[str, Any] = {
        "output": str(folder / "results"),
        "recipe": str(folder / "recipe.yaml"),
        "suite": str(folder / "suite.yaml"),
        "seeds": [1],
        "limit": 4,
        "systems": {
            "words": {"name": "NTP + BM25", "set": {"supervision": "ntp"}, "retriever": "bm25"},
            "apart": {"set": {"supervision": "ntp"}, "retriever": {"train": {"supervision": "nsp"}}},
            "both": {"generation": {"ret_first": True, "max_new_tokens": 9}},
        },
        "compare": [["both", "apart"], ["both", "words"]],
        "scales": {"small": {"systems": ["both"], "set": {"training.max_steps": 1}, "limit": 2}},
    }
    for name, content in {"recipe": recipe, "suite": suite, "experiment": record | changes}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return folder / "experiment.yaml"
