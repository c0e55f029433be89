"""The front door: `cosup` and `python -m cosup`. Nothing is imported before an interruption can be told in a line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line (that of the process by default) and return its exit code; see `cosup.shell.run`."""
    try:
        from cosup.commands.program import run_program

        return run_program(sys.argv[1:] if words is None else words)
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        return 130
