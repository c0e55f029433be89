"""Keep an embedder of sentence-transformers as it is, and teach a generator to ask in its space.

    cosup demo                        # once: makes the generator and the files that are the defaults here
    hf download sentence-transformers/all-MiniLM-L6-v2 --local-dir models/all-MiniLM-L6-v2     # once: any such folder
    python examples/frozen_sentence_transformers.py

The folder says how it pools and what it wants before a passage. Its vectors are computed once and stay; a
projection, trained with the generator, leads from its width to the generator's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from cosup import CoSupervisedModel, Engine, GenerationSettings, build_index, parse_recipe, read_passages, train

parser = argparse.ArgumentParser(description="Train a generator to ask a frozen embedder.")
parser.add_argument("--generator", default="runs/demo/model/generator", help="hub id or folder")
parser.add_argument("--embedder", default="models/all-MiniLM-L6-v2", help="folder of sentence-transformers")
parser.add_argument("--passages", type=Path, default=Path("runs/demo/passages.jsonl"))
parser.add_argument("--questions", type=Path, default=Path("runs/demo/questions.jsonl"))
parser.add_argument("--held-out", type=int, default=100, help="so many questions at the end are not trained on")
parser.add_argument("--steps", type=int, default=40)
parser.add_argument("--output", type=Path, default=Path("runs/examples/frozen"))


def main(words: Sequence[str] | None = None) -> None:
    """Train, index, ask."""
    options = parser.parse_args(words)
    options.output.mkdir(parents=True, exist_ok=True)
    lines = options.questions.read_text(encoding="utf-8").splitlines(keepends=True)
    parts = {"questions": lines[: -options.held_out], "eval_questions": lines[-options.held_out :]}
    for name, part in parts.items():
        (options.output / f"{name}.jsonl").write_text("".join(part), encoding="utf-8")
    recipe = parse_recipe(
        {
            "generator": options.generator,
            "embedder": options.embedder,
            "data": {
                "passages": str(options.passages),
                **{name: str(options.output / f"{name}.jsonl") for name in parts},
                "prompt": "{question}",
                "max_length": 256,
                "max_passage_length": 56,
            },
            "objective": {"nsp_weight": 1.0},
            "training": {
                "output_dir": str(options.output / "run"),
                "max_steps": options.steps,
                "per_device_train_batch_size": 32,
                "learning_rate": 2e-3,
                "freeze_embedder": True,
                "logging_steps": 10,
            },
        }
    )
    folder = train(recipe)
    metrics = json.loads((folder.parent / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    model = CoSupervisedModel.from_pretrained(folder)
    print(f"\npooling: {model.settings.pooling}; projection: {model.projection}")
    print(f"recall@1 over the held-out questions' passages: {metrics['eval_recall@1']:.2f}")

    index = build_index(model, read_passages(options.passages), options.output / "index")
    question = json.loads(lines[-1])["question"]
    answer = Engine(model, index, GenerationSettings(ret_first=True, max_new_tokens=80)).ask(question)
    print(f"\n{question}\n{answer.text}")
    for retrieval in answer.retrievals:
        print("  searched:", ", ".join(f"{hit.passage_id} {hit.score:.2f}" for hit in retrieval.hits[:3]))


if __name__ == "__main__":
    main()
