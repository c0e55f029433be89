"""Command lines of cosup as processes of their own, forked from one that has imported everything.

A fork begins with the work at once, so that a random moment falls into the work and not into seconds of importing. The
parent computes nothing: what is to be computed between two commands runs in a fork as well (`asked`).
"""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosup import shell

Setup = Callable[[], None]

MODULES = (
    *("cosup.cli", "cosup.training.run", "cosup.commands.index", "cosup.index.build", "cosup.info"),
    *("cosup.generation.engine", "cosup.generation.predict", "cosup.evaluation.html", "cosup.evaluation.report"),
    *("cosup.experimenting", "cosup.experiments.run", "cosup.experiments.figures", "cosup.serve", "cosup.serving.app"),
    *("cosup.serving.server", "cosup.serving.corpus", "matplotlib.figure", "uvicorn", "cosup.evaluation.suite_run"),
    *("cosup.generation.retrievers.opening", "cosup.data.store", "matplotlib.backends.backend_agg", "cosup.data.atlas"),
)

PROGRESS = re.compile(r": \d+/\d+ \w+, .* left\b")  # as `cosup.console` writes it where nobody looks


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: exit code; the negative number of the signal that killed it.
        out: what it wrote to standard output.
        err: and to standard error.
        seconds: that it took.
    """

    code: int
    out: str
    err: str
    seconds: float

    @property
    def complaints(self) -> list[str]:
        """Lines of standard error that are no warning, no progress and not empty."""
        lines = (line for line in self.err.splitlines() if line.strip() and not line.startswith("warning: "))
        return [line for line in lines if not PROGRESS.search(line)]

    @property
    def told(self) -> str:
        """The code and the last lines, for a record."""
        return f"exit code {self.code}: {' / '.join(self.complaints[-3:])[-400:]}"


class Child:
    """A process that runs."""

    def __init__(self, pid: int, log: Path) -> None:
        self.pid = pid
        self.log = log
        self.began = time.monotonic()
        self._status: int | None = None

    def ended(self) -> bool:
        """Whether it has ended."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = status if pid else None
        return self._status is not None

    def signalled(self, sign: int = signal.SIGKILL) -> bool:
        """Send a signal; return whether it was still running."""
        if self.ended():
            return False
        os.kill(self.pid, sign)
        return True

    def wait(self, seconds: float = 300) -> Ended:
        """Wait for its end; one that takes longer is killed, which its code shows."""
        until = time.monotonic() + seconds
        while not self.ended():
            if time.monotonic() > until:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.002)
        assert self._status is not None
        code = os.waitstatus_to_exitcode(self._status)
        out, err = (self.log.with_suffix(end).read_text(encoding="utf-8", errors="replace") for end in (".out", ".err"))
        return Ended(code, out, err, time.monotonic() - self.began)


def import_everything() -> None:
    """Import what commands use, once for all forks; on one thread, since threads do not survive a fork."""
    os.environ.update(shell._QUIET_ENVIRONMENT)  # as the command line does before it imports them
    for name in MODULES:
        importlib.import_module(name)
    importlib.import_module("torch").set_num_threads(1)


def start(words: Sequence[str], log: Path, setup: Setup | None = None) -> Child:
    """Start `cosup WORDS`; its outputs go to `LOG.out` and `LOG.err`.

    Args:
        words: of the command line.
        log: where outputs go, without a suffix.
        setup: called first in the new process.
    """
    from cosup.cli import main

    return _forked(lambda: main(list(words)), log, setup)


def run(words: Sequence[str], log: Path, setup: Setup | None = None) -> Ended:
    """Run `cosup WORDS` to its end; see `start`."""
    return start(words, log, setup).wait()


def asked(function: Callable[..., Any], *given: Any, log: Path) -> Any:
    """Return what a function returns, as JSON, computed in a process of its own."""
    answer = log.with_suffix(".json")
    answer.unlink(missing_ok=True)

    def work() -> int:
        answer.write_text(json.dumps(function(*given)), encoding="utf-8")
        return 0

    done = _forked(work, log, None).wait()
    if done.code:
        raise RuntimeError(f"{getattr(function, '__name__', function)}: {done.told}")
    return json.loads(answer.read_text(encoding="utf-8"))


def _forked(work: Callable[[], int], log: Path, setup: Setup | None) -> Child:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Child(pid, log)
    code = 99
    try:
        for number, end in ((1, ".out"), (2, ".err")):
            stream = os.open(log.with_suffix(end), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(stream, number)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if setup is not None:
            setup()
        code = work()
    except BaseException:  # noqa: BLE001 - whatever it was, the parent reads it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
