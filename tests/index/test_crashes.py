"""A build that is killed at any moment leaves the old state, and the next one goes on to the same index."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from cosup.index.faiss_index import FaissIndex
from tests.index import building

ROOT = Path(__file__).parents[2]
KILLS = 12


def test_a_build_killed_again_and_again_ends_in_the_same_index(tmp_path: Path) -> None:
    """Bit for bit; no finished shard is embedded again; what a killed build was writing is never taken."""
    command = [sys.executable, "-m", "tests.index.building", str(tmp_path), str(KILLS), "0.25"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    runs = json.loads((tmp_path / "runs.json").read_text())
    assert runs[-1]["status"] == 0
    assert sum(run["status"] != 0 for run in runs) >= KILLS // 2, "the kills came too late to prove anything"
    assert any(run["before"] for run in runs), "no kill left a finished shard"
    row_of = {passage.rendered: row for row, passage in enumerate(building.PASSAGES)}
    for run in runs:
        shards = {row_of[text] // building.OPTIONS.shard_size * building.OPTIONS.shard_size for text in run["embedded"]}
        assert shards.isdisjoint(run["before"])
    building.build(tmp_path / "whole")
    found, whole = (FaissIndex.load(tmp_path / name, building.FINGERPRINT) for name in ("index", "whole"))
    axes = np.eye(building.D, dtype=np.float32)  # whose scores are the vectors' numbers
    assert found.search(axes, len(building.PASSAGES)) == whole.search(axes, len(building.PASSAGES))
    assert list(found) == building.PASSAGES
    assert not (tmp_path / "index" / ".partial").exists()
