"""Changes of an index in Milvus Lite that are killed at random moments: `python -m tests.index.changing FOLDER KILLS`.

Every change and every look at what it left is a process of its own, forked before anything talks to Milvus. What was
found is written to `FOLDER/runs.json`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cosup.index import milvus_client, milvus_state
from cosup.index.milvus_index import MilvusIndex
from cosup.records import Passage

FINGERPRINT = "f" * 64
N, D = 60, 8


def versioned(version: int) -> tuple[list[Passage], np.ndarray]:
    """Return the corpus of a version: texts and vectors tell which it is."""
    passages = [Passage(f"p{i}", "", f"version {version}") for i in range(N)]
    return passages, np.full((N, D), version, dtype=np.float32)


def build(place: str) -> None:
    """Make version 0."""
    MilvusIndex.build(place, *versioned(0), FINGERPRINT, "inner_product")


def change(place: str, version: int, begun: Path) -> None:
    """Put another version in the place of the one that is there, in many messages."""
    for module in (milvus_client, milvus_state):
        module.MOST_ROWS = 5  # type: ignore[attr-defined]
    index = MilvusIndex.load(place, FINGERPRINT)
    begun.touch()
    index.replace(*versioned(version))


def look(place: str, result: Path) -> None:
    """Write which versions are there: of the texts, and of the vectors."""
    index = MilvusIndex.load(place, FINGERPRINT)
    texts = {passage.text for passage in index}
    scores = {hit.score / D for hit in index.search(np.ones((1, D), dtype=np.float32), 2 * N)[0]}
    found = [int(text.split()[1]) for text in texts] + [int(score) for score in scores]
    result.write_text(json.dumps({"versions": sorted(set(found)), "count": len(index)}))


def in_child(work: Callable[[], None], until: Callable[[], None] | None = None) -> bool:
    """Do work in a process of its own, which is killed when `until` returns; return whether it ended by itself."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    if until is not None:
        until()
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1] == 0


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.001)


def seconds_of(work: Callable[[], None], begun: Path) -> float:
    """Return how long a change takes that nobody kills."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    wait_for(begun)
    start = time.monotonic()
    os.waitpid(child, 0)
    return time.monotonic() - start


def main() -> None:
    """Change, kill, look; and again."""
    folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    place, begun, result = str(folder / "x.db"), folder / "begun", folder / "found.json"
    chance, runs, current = random.Random(0), [], 1
    assert in_child(lambda: build(place))
    seconds = seconds_of(lambda: change(place, 1, begun), begun)
    for number in range(2, kills + 2):
        begun.unlink(missing_ok=True)

        def kill_soon() -> None:
            wait_for(begun)
            time.sleep(chance.uniform(0, 0.8 * seconds))

        ended = in_child(lambda version=number: change(place, version, begun), kill_soon)  # type: ignore[misc]
        assert in_child(lambda: look(place, result))
        record = json.loads(result.read_text())
        whole = record["count"] == N and len(record["versions"]) == 1
        name = {current: "old", number: "new"}.get(record["versions"][0], "other") if whole else "torn"
        runs.append({"killed": not ended, "found": name, **record})
        current = record["versions"][0]
    (folder / "runs.json").write_text(json.dumps(runs))


if __name__ == "__main__":
    main()
