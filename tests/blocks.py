"""The blocks of code that pages say run, and running them as a reader would."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path


def marked_blocks(page: Path) -> list[tuple[str, str]]:
    """Return the language and the code of each block after `<!-- test -->`, in order."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r"<!-- test -->\n```(\w+)\n(.*?)```", text, flags=re.DOTALL)


def run_block(language: str, code: str, folder: Path) -> str:
    """Run a block in a folder, with this interpreter's `cosup` and `python`; return what it printed."""
    here = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": here + os.pathsep + os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    shell = ["bash", "-euo", "pipefail", "-c", code] if language == "sh" else [sys.executable, "-c", code]
    done = subprocess.run(shell, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def end_server(folder: Path) -> None:
    """End the server whose process id a block left in a folder, where the block did not come to its end."""
    if (folder / "serve.pid").is_file():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int((folder / "serve.pid").read_text()), signal.SIGKILL)
