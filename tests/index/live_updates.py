"""A process that changes an index until it is killed: `python -m tests.index.live_updates FOLDER SEED FIRST`.

Change number i is a function of SEED and i alone, and so is the corpus after it; the process says each number once its
change is done. test_crash.py kills it.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np

from cosup.index import faiss_index
from cosup.index.faiss_index import FaissIndex
from cosup.index.structures import IndexSettings
from cosup.records import Passage
from tests.index.makers import MINE, D

FIRST = 60
IDS = 120
STRUCTURE_FROM = 40

Held = dict[str, Passage]


def vector(passage: Passage) -> np.ndarray:
    """Return the vector that a passage's text stands for, in whole numbers: [D]."""
    return np.random.default_rng(list(passage.text.encode())).integers(-3, 4, size=D).astype(np.float32)


def vectors(passages: list[Passage]) -> np.ndarray:
    return np.stack([vector(passage) for passage in passages])


def passages(numbers: list[int], text: str) -> list[Passage]:
    return [Passage(f"p{i}", "", f"{text} of {i}", {"odd": bool(i % 2)}) for i in numbers]


def start() -> Held:
    return {p.id: p for p in passages(list(range(FIRST)), "first text")}


def change(seed: int, number: int, held: Held) -> tuple[str, list[Passage]]:
    """Return name and passages of a change, given what is there before it."""
    choose = random.Random(seed * 1_000_003 + number)
    numbers = choose.sample(range(IDS), choose.randint(1, 20))
    name = choose.choice(["add", "replace", "delete", "delete", "compact", "build"])
    if name == "add":
        numbers = [i for i in numbers if f"p{i}" not in held]
    if name == "delete":
        numbers = [i for i in numbers if f"p{i}" in held]
    if name in ("compact", "build") or not numbers:
        return ("build" if name == "build" and held else "compact"), list(held.values())
    return name, passages(numbers, f"text {number}")


def after(held: Held, name: str, changed: list[Passage]) -> Held:
    """Return what is there after a change."""
    gone = {p.id for p in changed} if name in ("replace", "delete") else set()
    left = {passage_id: p for passage_id, p in held.items() if passage_id not in gone}
    return left | {p.id: p for p in changed if name in ("add", "replace")}


def apply(index: FaissIndex, name: str, changed: list[Passage]) -> FaissIndex:
    if name == "compact":
        index.compact()
    elif name == "delete":
        index.delete([p.id for p in changed])
    elif name == "build":
        return build(index.folder, changed)
    else:
        getattr(index, name)(changed, vectors(changed))
    return index


def build(folder: Path, corpus: list[Passage]) -> FaissIndex:
    return FaissIndex.build(folder, corpus, vectors(corpus), MINE, "inner_product", IndexSettings("ivf-sq"))


def main(folder: Path, seed: int, number: int) -> None:
    faiss_index.LEAST = faiss_index.EXACT_UP_TO = STRUCTURE_FROM  # so that small segments have structures
    index = FaissIndex.load(folder, MINE)
    held = {p.id: p for p in index}
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        name, changed = change(seed, number, held)
        index = apply(index, name, changed)
        held = after(held, name, changed)
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        number += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
