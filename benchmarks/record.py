"""What every recorded figure carries: the commit and the hardware it was measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path


def hardware() -> str:
    """Return the processor's name and the number of cores this process may use."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {len(os.sched_getaffinity(0))} cores"


def commit() -> str:
    """Return the short hash of the commit, with `+` where the tree has uncommitted changes."""
    run = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(run, check=True, capture_output=True, text=True).stdout.strip()
