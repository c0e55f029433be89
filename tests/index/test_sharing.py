"""Several processes build one index: they share the work, and a run that lost one of them is gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cosup.index.faiss_index import FaissIndex
from tests.index import building
from tests.pairs import TinyWorld

pytestmark = pytest.mark.distributed

ROOT = Path(__file__).parents[2]
SIZE = building.OPTIONS.shard_size


def torchrun(processes: int, *words: object) -> list[str]:
    head = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [*head, *map(str, words)]


def run(folder: Path, name: str, processes: int) -> None:
    words = torchrun(processes, "-m", "tests.index.sharing", folder, name, 0)
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def shards_embedded(folder: Path, name: str) -> dict[int, set[int]]:
    """Return for each process the first rows of the shards that it embedded passages of."""
    row_of = {passage.rendered: row for row, passage in enumerate(building.PASSAGES)}
    return {
        int(path.name.rpartition("-")[2]): {row_of[text] // SIZE * SIZE for text in path.read_text().splitlines()}
        for path in folder.glob(f"log-{name}-*")
    }


def numbers(folder: Path) -> list[object]:
    index = FaissIndex.load(folder, building.FINGERPRINT)
    assert list(index) == building.PASSAGES
    return index.search(np.eye(building.D, dtype=np.float32), len(building.PASSAGES))


def test_processes_share_the_shards_and_make_the_same_index(tmp_path: Path) -> None:
    run(tmp_path, "all", 2)
    building.build(tmp_path / "alone")
    assert numbers(tmp_path / "index") == numbers(tmp_path / "alone")
    shares = shards_embedded(tmp_path, "all")
    assert shares == {number: set(range(number * SIZE, len(building.PASSAGES), 2 * SIZE)) for number in (0, 1)}
    told = json.loads((tmp_path / "told-all-0").read_text())
    assert told[0] == [0, 400]
    assert told[-1] == [400, 400]
    assert told == sorted(told)
    assert not (tmp_path / "told-all-1").exists()
    assert not (tmp_path / "index" / ".partial").exists()


def workers_of(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(child) for child in children]


def test_a_process_killed_in_the_middle_and_another_number_of_processes_after(tmp_path: Path) -> None:
    words = torchrun(2, "-m", "tests.index.sharing", tmp_path, "killed", 0.2)
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        deadline = time.monotonic() + 120
        while len(building.finished(tmp_path / "index")) < 5 and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(workers_of(running.pid)[-1], signal.SIGKILL)
        assert running.wait(timeout=60) != 0
    before = set(building.finished(tmp_path / "index"))
    assert 5 <= len(before) < 20, "the kill came too late to prove anything"
    assert not (tmp_path / "index" / "index.json").exists()
    run(tmp_path, "after", 3)
    shares = shards_embedded(tmp_path, "after")
    assert set.union(*shares.values()) == set(range(0, len(building.PASSAGES), SIZE)) - before
    assert max(map(len, shares.values())) - min(map(len, shares.values())) <= 1
    assert json.loads((tmp_path / "told-after-0").read_text())[0] == [len(before) * SIZE, 400]
    building.build(tmp_path / "alone")
    assert numbers(tmp_path / "index") == numbers(tmp_path / "alone")


def assert_same_scores(one: FaissIndex, other: FaissIndex) -> None:
    """Compare two indexes passage by passage: of nearly equal scores the order is left to rounding."""
    queries = np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32)
    for hits in zip(one.search(queries, len(one)), other.search(queries, len(other)), strict=True):
        found, known = ({hit.passage_id: hit.score for hit in own} for own in hits)
        assert len(found) == len(one)
        assert found == pytest.approx(known, abs=1e-5)


def test_the_command_under_torchrun(tmp_path: Path, tiny_world: TinyWorld) -> None:
    """One process speaks, and all leave with 0; wrong input ends them all with 2."""
    index = ["-m", "cosup", "index", "--model", tiny_world.model, "--dtype", "float32"]  # the precision of the other
    index += ["--output", tmp_path / "index", "--passages"]
    done = subprocess.run(
        torchrun(2, *index, tiny_world.passages), cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    count = len(FaissIndex.load(tiny_world.index, None))
    assert done.stdout == f"{tmp_path / 'index'}  {count:,} passages\n"
    assert done.stderr.count("indexing: ") == 1
    assert_same_scores(FaissIndex.load(tmp_path / "index", None), FaissIndex.load(tiny_world.index, None))
    (tmp_path / "broken.jsonl").write_text('{"id": "a", "text": "x"}\n{"id"\n')
    done = subprocess.run(
        torchrun(2, *index, tmp_path / "broken.jsonl"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode != 0
    assert "broken.jsonl:2: wrong JSON" in done.stderr
