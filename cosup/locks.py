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
from cosup.processes import gather_objects, rank

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


@contextlib.contextmanager
def held_together(lock: Path, what: str) -> Iterator[None]:
    """Hold a lock for all processes of a run while the block runs: the first has it; a collective call.

    The lock's folder is made where it is missing. At the end its file is gone, and so is a folder that was made for it
    and has nothing else in it.

    Args:
        lock, what: see `held`.

    Raises:
        UsageError: another run holds it, or its folder cannot be written; raised on every process.
    """
    with contextlib.ExitStack() as stack:
        trouble = _trouble(lock, what, stack) if rank() == 0 else None
        if told := gather_objects(trouble)[0]:
            raise UsageError(told)
        yield


def _trouble(lock: Path, what: str, stack: contextlib.ExitStack) -> str | None:
    """Hold a lock until a stack ends; return why it cannot be held, or None."""
    made = not lock.parent.exists()
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        stack.enter_context(held(lock, what))
    except UsageError as error:
        return str(error)
    except OSError as error:
        return f"cannot write to {lock.parent}: {error.strerror or error}"
    stack.callback(_remove, lock, made)
    return None


def _remove(lock: Path, with_folder: bool) -> None:
    """Take away a lock that is held, and its folder if nothing else is in it."""
    with contextlib.suppress(OSError):
        _holder_file(lock).unlink(missing_ok=True)
        lock.unlink()
        if with_folder:
            lock.parent.rmdir()


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
