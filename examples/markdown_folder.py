"""Ask a folder of Markdown files; every claim is cited by file and heading.

    cosup demo                        # once: makes the pair that is the default here
    python examples/markdown_folder.py
    python examples/markdown_folder.py --folder notes --model runs/mine/model "What did we decide on Monday?"

The folder is cut into passages along its headings and paragraphs. The demo's pair knows the words of its made-up
world only, which examples/notes is written in; for text of your own take a pair that was trained on real text.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from cosup import CoSupervisedModel, Engine, GenerationSettings, build_index, read_passages

ASKED = ("What was the profession of the person who wrote The Kite of Memory?", "When was Lark Mead founded?")

parser = argparse.ArgumentParser(description="Ask a folder of Markdown files.")
parser.add_argument("questions", nargs="*", default=ASKED)
parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "notes")
parser.add_argument("--model", default="runs/demo/model")
parser.add_argument("--output", default="runs/examples/notes-index", help="where the index is written")


def main(words: Sequence[str] | None = None) -> None:
    """Index and ask."""
    options = parser.parse_args(words)
    model = CoSupervisedModel.from_pretrained(options.model)
    index = build_index(model, read_passages(options.folder), options.output)
    print(f"{len(index)} passages in {options.folder.name}/")
    engine = Engine(model, index, GenerationSettings(ret_first=True, max_new_tokens=80))
    for question in options.questions:
        answer = engine.ask(question)
        print(f"\n{question}\n{answer.text}")
        for citation in answer.citations:
            file, _, part = citation.passage_id.rpartition("#")
            title = index.passage(citation.passage_id).title
            print(f'  [{citation.n}] {file}, passage {part}, "{title}" (score {citation.score:.2f})')


if __name__ == "__main__":
    main()
