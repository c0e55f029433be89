"""Pairs in shards on two processes: gradients, saving and loading are those of one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bases import write_all

pytestmark = pytest.mark.distributed

HOUSE = Path(__file__).parents[1]


def test_a_sharded_pair_is_the_pair(tmp_path: Path) -> None:
    """Every kind of pair, padded and packed, a process without `[Ret]` or supervised tokens included.

    The gathered weights make a plain model folder; loaded again, sharded or not, they are equal to the bit.
    """
    bases = tmp_path / "bases"
    write_all(bases)
    command = [sys.executable, "-m", "tests.sharded_pairs", str(bases), str(tmp_path)]
    own = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen([*command, str(rank)], cwd=HOUSE, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    try:
        for process in processes:
            out, error = process.communicate(timeout=600)
            assert process.returncode == 0, error.decode()[-3000:]
            assert out.decode().endswith("all cases hold\n")
    finally:
        for process in processes:
            process.kill()
