"""Train a pair on your own JSONL files, index your passages, and ask.

    cosup demo                        # once: makes the small pair and the files that are the defaults here
    python examples/own_jsonl.py

    python examples/own_jsonl.py --passages passages.jsonl --questions questions.jsonl --ask "Who wrote it?" \
        --generator HuggingFaceTB/SmolLM2-135M-Instruct --embedder HuggingFaceTB/SmolLM2-135M-Instruct

A line of the passages is {"id", "title", "text"}, a line of the questions
{"id", "question", "answers", "evidence": [{"passage_id", "sentence"}]}. The same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from cosup import CoSupervisedModel, Engine, build_index, parse_recipe, read_passages, train

parser = argparse.ArgumentParser(description="Train on your own JSONL, index, ask.")
parser.add_argument("--generator", default="runs/demo/model/generator", help="hub id, folder or .gguf file")
parser.add_argument("--embedder", default="runs/demo/model/embedder", help="likewise")
parser.add_argument("--passages", default="runs/demo/passages.jsonl")
parser.add_argument("--questions", default="runs/demo/questions.jsonl")
parser.add_argument("--steps", type=int, default=20)
parser.add_argument("--output", type=Path, default=Path("runs/examples/own"))
parser.add_argument("--ask", default="What is Copper Cove known for making?")


def main(words: Sequence[str] | None = None) -> None:
    """Train, index, ask."""
    options = parser.parse_args(words)
    recipe = parse_recipe(
        {
            "generator": options.generator,
            "embedder": options.embedder,
            "data": {
                "passages": options.passages,
                "questions": options.questions,
                "prompt": "{question}",  # as the demo's pair was trained; left out, a prompt with headings
                "max_length": 256,
                "max_passage_length": 64,
            },
            "objective": {"nsp_weight": 0.2},
            "training": {  # any name of transformers.TrainingArguments
                "output_dir": str(options.output),
                "max_steps": options.steps,
                "per_device_train_batch_size": 16,
                "learning_rate": 2e-4,
                "logging_steps": 10,
            },
        }
    )
    model = CoSupervisedModel.from_pretrained(train(recipe))
    index = build_index(model, read_passages(options.passages), options.output / "index")
    answer = Engine(model, index).ask(options.ask)
    print(f"\n{options.ask}\n{answer.text}")
    for citation in answer.citations:
        passage = index.passage(citation.passage_id)
        print(f"  [{citation.n}] {passage.title}: {passage.text}")


if __name__ == "__main__":
    main()
