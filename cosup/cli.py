"""The front door: `cosup` and `python -m cosup`. Nothing is imported before an interruption can be told in a line."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line (that of the process by default) and return its exit code; see `cosup.shell.run`.

    Threads of OpenMP sleep while they wait for each other, unless the environment says otherwise: where other programs
    take a share of the cores, threads that spin hold up the one that they wait for.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported
    try:
        from cosup.commands.program import run_program

        return run_program(sys.argv[1:] if words is None else words)
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        return 130
