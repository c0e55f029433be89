"""Locks on folders, held by one process at a time, which whoever comes second is told of.

.lock           locked while somebody holds it; the lock is the system's, so that it ends with its process
.lock.holder    who: process, host and since when, as JSON; says nothing where nobody holds the lock
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from cosup.errors import UsageError

LOCK = ".lock"


@contextlib.contextmanager
def held(lock: Path, what: str, patience: float = 0.0) -> Iterator[None]:
    """Hold a lock while the block runs.

    Args:
        lock: its file; stays when the lock is released.
        what: the folder is to whoever waits in vain, as in `runs/a is being trained`.
        patience: seconds to wait for another holder.

    Raises:
        UsageError: another process holds it; says which, where and since when.
        OSError: the lock cannot be written.
    """
    own = FileLock(lock, timeout=patience)
    try:
        own.acquire()
    except Timeout:
        raise UsageError(f"{what} by {holder_of(lock)}; wait for it to end") from None
    try:
        with contextlib.suppress(OSError):  # on a full disk the lock holds as well; it only says less
            _holder_file(lock).write_text(json.dumps(_myself()), encoding="utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):
            _holder_file(lock).unlink(missing_ok=True)
        own.release()


def holder_of(lock: Path) -> str:
    """Say who holds a lock, as far as that was written down."""
    try:
        found = json.loads(_holder_file(lock).read_text(encoding="utf-8"))
        return f"process {found['process']} on {found['host']} since {found['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _holder_file(lock: Path) -> Path:
    return lock.with_name(f"{lock.name}.holder")


def _myself() -> dict[str, str | int]:
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return {"process": os.getpid(), "host": socket.gethostname(), "since": since}
