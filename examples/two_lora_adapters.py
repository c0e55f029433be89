"""One base model, two LoRA adapters: one learns to write and to ask, the other to embed passages.

    cosup demo                        # once: makes the base model and the files that are the defaults here
    python examples/two_lora_adapters.py

The base is frozen and in memory once. What is saved are the two adapters, beside the name of their base; loading
puts them on it again. With a real base, say --base HuggingFaceTB/SmolLM2-135M-Instruct.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from cosup import (
    CoSupervisedModel,
    CoSupervisionConfig,
    CoSupervisionTrainer,
    LoraSettings,
    PairSettings,
    question_to_example,
    read_passages,
    read_questions,
)

parser = argparse.ArgumentParser(description="Train two LoRA adapters on one base, save and load them.")
parser.add_argument("--base", default="runs/demo/model/generator", help="hub id or folder of a causal language model")
parser.add_argument("--passages", default="runs/demo/passages.jsonl")
parser.add_argument("--questions", default="runs/demo/questions.jsonl")
parser.add_argument("--held-out", type=int, default=100, help="so many questions at the end are not trained on")
parser.add_argument("--steps", type=int, default=60)
parser.add_argument("--output", type=Path, default=Path("runs/examples/lora"))


def main(words: Sequence[str] | None = None) -> None:
    """Train, save, load, compare."""
    options = parser.parse_args(words)
    passages = read_passages(options.passages)
    by_id = {p.id: p for p in passages}
    examples = [question_to_example(q, by_id) for q in read_questions(options.questions)]
    settings = PairSettings(prompt="{question}", max_length=256, max_passage_length=64)
    model = CoSupervisedModel.from_base(options.base, options.base, settings, adapters=LoraSettings(r=8, alpha=16))
    config = CoSupervisionConfig(
        output_dir=str(options.output),
        max_steps=options.steps,
        per_device_train_batch_size=16,
        learning_rate=3e-3,
        nsp_weight=1.0,
        logging_steps=20,
        save_strategy="no",
    )
    training, held_out = examples[: -options.held_out], examples[-options.held_out :]
    trainer = CoSupervisionTrainer(model, config, training, passages, eval_dataset=held_out)
    before = trainer.evaluate()["eval_recall@1"]
    trainer.train()
    after = trainer.evaluate()["eval_recall@1"]

    model.save_pretrained(options.output / "model", adapters="adapters")
    again = CoSupervisedModel.from_pretrained(options.output / "model")
    ids = again.encode_passages([p.rendered for p in passages[:8]])
    same = torch.allclose(model.eval().embed_ids(ids).cpu(), again.embed_ids(ids), atol=1e-5)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    saved = sum(f.stat().st_size for f in (options.output / "model").rglob("adapter_model.safetensors"))
    print(f"\nrecall@1 over the held-out questions' passages: {before:.2f} before training, {after:.2f} after")
    print(f"{trained:,} of {sum(p.numel() for p in model.parameters()):,} parameters trained, {saved:,} bytes saved")
    print(f"loaded again, it embeds as before: {same}")


if __name__ == "__main__":
    main()
