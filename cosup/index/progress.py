"""How far several processes have come together, told by the first of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

from cosup.processes import barrier, rank, world_size

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the number of passages done and the number of all passages."""

SECONDS_BETWEEN_NOTES = 1.0


class SharedProgress:
    """Counts what all processes have done, through a small file of each in a folder that they share.

    A context: entering it puts every count to 0, leaving it waits for all processes and tells the total.

    Args:
        folder: shared by the processes.
        total: passages of the corpus.
        before: passages that were done before this run.
        progress: called in the first process alone.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        folder: Path,
        total: int,
        before: int,
        progress: Progress | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._total = total
        self._before = before
        self._progress = progress if rank() == 0 else None
        self._clock = clock
        self._finished = 0
        self._others = 0
        self._noted = -SECONDS_BETWEEN_NOTES

    def __enter__(self) -> SharedProgress:
        self._note(0)
        barrier()
        self._tell(0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            return
        self._note(self._finished)
        barrier()
        if self._progress and self._before + self._finished < self._total:
            self._progress(self._total, self._total)

    def within_shard(self, done: int) -> None:
        """Say that so many passages of the shard at hand are done."""
        if world_size() > 1 and self._clock() - self._noted >= SECONDS_BETWEEN_NOTES:
            self._noted = self._clock()
            self._note(self._finished + done)
            self._others = 0 if self._progress is None else sum(map(self._count_of, range(1, world_size())))
        self._tell(self._finished + done)

    def shard_done(self, size: int) -> None:
        """Say that the shard at hand is kept."""
        self._finished += size

    def _tell(self, own: int) -> None:
        if self._progress:
            self._progress(min(self._before + own + self._others, self._total), self._total)

    def _path(self, number: int) -> Path:
        return self._folder / f"done-{number}"

    def _note(self, count: int) -> None:
        """Leave this process's count for the first one; a count that cannot be written is only not shown."""
        if world_size() > 1:
            with contextlib.suppress(OSError):
                self._path(rank()).write_text(str(count), encoding="ascii")

    def _count_of(self, number: int) -> int:
        try:
            return int(self._path(number).read_text(encoding="ascii") or 0)
        except (OSError, ValueError):
            return 0
