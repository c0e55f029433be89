"""Two processes that meet over gloo, started once for all tests that ask what they found."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.losses import ranks

Found = dict[str, list[torch.Tensor]]


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """What each of two processes found, by name: see `tests/losses/ranks.py`."""
    folder = tmp_path_factory.mktemp("ranks")
    house = Path(__file__).parents[2]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(house)}
    if sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    files = [folder / f"rank-{rank}.pt" for rank in range(ranks.WORLD)]
    logs = [file.with_suffix(".log") for file in files]
    started = []
    for rank, (file, log) in enumerate(zip(files, logs, strict=True)):
        command = [sys.executable, ranks.__file__, str(rank), str(folder / "store"), str(file)]
        with log.open("wb") as errors:
            started.append(subprocess.Popen(command, env=environment, stderr=errors))
    _wait(started, seconds=300)
    assert [process.returncode for process in started] == [0] * ranks.WORLD, "\n".join(log.read_text() for log in logs)
    return [torch.load(file, weights_only=True) for file in files]


def _wait(started: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    """Wait until all have ended, or one has failed, or time is up; end the rest."""
    until = time.monotonic() + seconds
    try:
        while any(process.poll() is None for process in started) and time.monotonic() < until:
            if any(process.poll() for process in started):
                break
            time.sleep(0.05)
    finally:
        for process in started:
            process.kill()
            process.wait()
