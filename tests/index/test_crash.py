"""A process that changes an index is killed at random moments: the old or the new state is found, never another."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cosup.index.faiss_index import FaissIndex
from cosup.index.filters import Filter
from tests.index.live_updates import Held, after, build, change, start, vector
from tests.index.makers import MINE, D

ROOT = Path(__file__).parents[2]
LONGEST = 0.7  # seconds until a process is killed, once it has begun


def killed_after(folder: Path, seed: int, number: int, seconds: float) -> int:
    """Let a process go on from change `number`, kill it, and return the number of the change it was at."""
    words = [sys.executable, "-m", "tests.index.live_updates", str(folder), str(seed), str(number)]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    said = process.stdout.read().splitlines()
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    return number if not said else int(said[-1]) + 1


def assert_holds(index: FaissIndex, held: Held) -> None:
    """The index has these passages in this order, finds them by their vectors, and all of its files are whole."""
    assert list(index) == list(held.values())
    index.manifest.verify(index.folder)
    queries = np.random.default_rng(0).integers(-3, 4, size=(3, D)).astype(np.float32)
    where = Filter.parse({"odd": True})
    for query in queries:
        for filtered in (None, where):
            rows = [
                (p.id, float(vector(p) @ query)) for p in held.values() if not filtered or filtered.holds(p.metadata)
            ]
            found = index.search(query[None], 500, filter=filtered)[0]
            assert [(hit.passage_id, hit.score) for hit in found] == sorted(rows, key=lambda row: -row[1])


def crash(folder: Path, seed: int, kills: int) -> tuple[int, int, int]:
    """Kill again and again; return how many changes were made and how often the old and the new state was found."""
    choose, held, number, found_new = random.Random(seed), start(), 0, 0
    build(folder, list(held.values()))
    for _ in range(kills):
        reached = killed_after(folder, seed, number, choose.uniform(0, LONGEST))
        for done in range(number, reached):
            held = after(held, *change(seed, done, held))
        new = after(held, *change(seed, reached, held))
        index = FaissIndex.load(folder, MINE)
        is_new = {p.id: p for p in index} == new and new != held
        held, number = (new, reached + 1) if is_new else (held, reached)
        found_new += is_new
        assert_holds(index, held)
    return number, kills - found_new, found_new


@pytest.mark.slow
def test_a_process_killed_while_it_changes_an_index(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    changes, _, _ = crash(folder, seed=1, kills=12)
    assert changes > 12
    index = FaissIndex.load(folder, MINE)
    index.compact()  # and what the last has left is gone
    assert len(list(folder.glob("segment-*"))) == len(index.manifest.segments)
    assert not list(folder.glob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 10))
def test_a_process_killed_many_times(tmp_path: Path, seed: int) -> None:
    crash(tmp_path / "index", seed, kills=60)
