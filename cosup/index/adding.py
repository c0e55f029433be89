"""Where the unfinished work of additions lies: beside that of a build, so that neither touches the other's.

    .partial-add-0/         passages and vectors of an addition that is not done
    .partial-add-0.lock     held by the process whose addition it is

Additions that run at one time have a folder each. One that was killed leaves its own to the next, which goes on with
what it can use of it.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from cosup.errors import InputError, UsageError


@contextlib.contextmanager
def adding_folder(work: Path) -> Iterator[Path]:
    """Hold a folder for an addition; once that is done, it is gone, and so is what killed ones have left.

    An addition that is stopped leaves its folder, unless its input was refused, with which nothing can go on.

    Args:
        work: where the unfinished work of a build lies.

    Raises:
        UsageError: nothing can be written there.
    """
    try:
        work.parent.mkdir(parents=True, exist_ok=True)
        folder, lock = next((folder, lock) for folder, lock in _folders(work) if _taken(lock))
    except OSError as error:
        raise UsageError(f"cannot write to {work.parent}: {error.strerror or error}") from error
    try:
        yield folder
    except InputError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    else:
        shutil.rmtree(folder, ignore_errors=True)
        _clear_abandoned(work)
    finally:
        lock.release()


def _folders(work: Path) -> Iterator[tuple[Path, FileLock]]:
    """Yield the places of additions, one after another without end, each with its lock."""
    for number in itertools.count():
        folder = work.with_name(f"{work.name}-add-{number}")
        yield folder, FileLock(folder.with_name(f"{folder.name}.lock"), timeout=0)


def _taken(lock: FileLock) -> bool:
    """Take a lock, unless somebody holds it; return whether it is held now."""
    try:
        lock.acquire()
    except Timeout:
        return False
    return True


def _clear_abandoned(work: Path) -> None:
    """Remove the folders that nobody holds: of additions that were killed."""
    for folder, lock in _folders(work):
        if not Path(lock.lock_file).exists():  # nor is there one of a higher number: the first that is free is taken
            return
        if _taken(lock):
            shutil.rmtree(folder, ignore_errors=True)
            lock.release()
