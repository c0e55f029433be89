"""Compare two models question by question: averages, differences with 95% intervals, and a paired test.

    cosup demo                                 # once: makes the first model
    python examples/two_lora_adapters.py       # once: makes the second one
    python examples/compare_two_models.py

Each model answers the same questions from an index of its own. The interval is a bootstrap over questions; p is
that of a paired randomisation test: how often a difference as large comes about by chance. The questions are those
at the end of the file, which neither of the two was trained on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from cosup import (
    Answer,
    CoSupervisedModel,
    Engine,
    Passage,
    Question,
    build_index,
    evaluate,
    read_passages,
    read_questions,
)

SHOWN = ("recall@1", "exact_match", "f1", "citation_precision", "citation_recall")

parser = argparse.ArgumentParser(description="Compare two models on the same questions.")
parser.add_argument("--model", default="runs/demo/model")
parser.add_argument("--other", default="runs/examples/lora/model")
parser.add_argument("--passages", default="runs/demo/passages.jsonl")
parser.add_argument("--questions", default="runs/demo/questions.jsonl")
parser.add_argument("--last", type=int, default=100, help="so many questions at the end are asked")
parser.add_argument("--output", type=Path, default=Path("runs/examples/compare"))


def main(words: Sequence[str] | None = None) -> None:
    """Answer with both, measure, print."""
    options = parser.parse_args(words)
    passages, questions = read_passages(options.passages), read_questions(options.questions)[-options.last :]
    ours = answers_of(options.model, questions, passages, options.output / "index")
    theirs = answers_of(options.other, questions, passages, options.output / "other-index")
    report = evaluate(ours, questions, passages, against=theirs)
    print(f"{report.count} questions; percent; difference is {options.model} minus {options.other}")
    print(f"{'measure':<20}{'model':>8}{'other':>8}{'difference':>12}  {'95% interval':<18}{'p':>8}")
    for row in report.comparison:
        if row.name in SHOWN:
            interval = f"{row.low:+.1f} to {row.high:+.1f}"
            figures = f"{row.ours:>8.1f}{row.theirs:>8.1f}{row.difference:>+12.1f}"
            print(f"{row.name:<20}{figures}  {interval:<18}{row.p_value:>8.4f}")


def answers_of(folder: str, questions: list[Question], passages: list[Passage], index: Path) -> list[Answer]:
    """Return a model's answers from an index that its own embedder makes."""
    model = CoSupervisedModel.from_pretrained(folder)
    return Engine(model, build_index(model, passages, index)).generate(questions)


if __name__ == "__main__":
    main()
