"""A build of an index that is killed at random moments: `python -m tests.index.building FOLDER KILLS SECONDS`.

Each build is a process of its own, forked from this one, which has imported everything. What each embeds and which
shards are finished when it dies is written to `FOLDER/runs.json`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from cosup.index.build import build_index
from cosup.index.embed import EmbedOptions
from cosup.records import Passage

FINGERPRINT = "f" * 64
D = 16
OPTIONS = EmbedOptions(tokens_per_batch=2000, shard_size=20)
PASSAGES = [Passage(f"p{i}", f"Title {i}", f"Number {i} " + "word " * (1 + i * 7 % 31)) for i in range(400)]


class SlowEmbedder:
    """Embeds by a matrix of fixed random numbers, slowly; notes every passage in a log that no kill can lose."""

    fingerprint = FINGERPRINT
    dimension = D
    similarity = "cosine"

    def __init__(self, log: Path | None = None, pause: float = 0.0) -> None:
        self._log = None if log is None else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._pause = pause
        self._table = torch.randn(256, D, generator=torch.Generator().manual_seed(0))

    def encode_passages(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(text.encode()) for text in texts]

    def embed_ids(self, batch: list[list[int]]) -> torch.Tensor:
        time.sleep(self._pause)
        vectors = torch.stack([self._table[row].mean(dim=0) for row in batch])
        if self._log is not None:
            os.write(self._log, b"".join(bytes(row) + b"\n" for row in batch))
        return torch.nn.functional.normalize(vectors, dim=1)


def build(folder: Path, log: Path | None = None, pause: float = 0.0) -> None:
    """Build the index of `PASSAGES`."""
    build_index(SlowEmbedder(log, pause), PASSAGES, folder, options=OPTIONS)


def finished(folder: Path) -> list[int]:
    """Return the first rows of the shards that can be read whole."""
    found = []
    for path in folder.glob(".partial/vectors-*/*.npy"):
        assert np.load(path).shape == (OPTIONS.shard_size, D), f"{path} is not whole"
        found.append(int(path.name.partition("-")[0]))
    return sorted(found)


def main() -> None:
    """Start builds and kill them, then let one end."""
    folder, kills, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    chance, runs = random.Random(0), []
    for number in range(kills + 1):
        before, log = finished(folder / "index"), folder / f"log-{number}"
        child = os.fork()
        if child == 0:
            build(folder / "index", log, pause=0.01)
            os._exit(0)
        if number < kills:
            time.sleep(chance.uniform(0, seconds))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        texts = log.read_text().splitlines() if log.exists() else []
        runs.append({"status": status, "before": before, "embedded": texts})
    (folder / "runs.json").write_text(json.dumps(runs))


if __name__ == "__main__":
    main()
