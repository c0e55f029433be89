"""A corpus as everything here reads it: passages in their order, whether they are in memory or on disk."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias, overload

from cosup.data.sources import Source
from cosup.data.store import PassageStore
from cosup.errors import CosupError
from cosup.processes import barrier, rank
from cosup.records import Passage

Corpus: TypeAlias = Sequence[Passage] | PassageStore
"""Passages in memory, or a store, whose order is that of its rows."""


class StoredCorpus(Sequence[Passage]):
    """The passages of a store as a sequence; each is read when it is asked for.

    Args:
        store: on disk.
    """

    def __init__(self, store: PassageStore) -> None:
        self.store = store

    def __len__(self) -> int:
        return len(self.store)

    @overload
    def __getitem__(self, row: int) -> Passage: ...

    @overload
    def __getitem__(self, row: slice) -> list[Passage]: ...

    def __getitem__(self, row: int | slice) -> Passage | list[Passage]:
        if isinstance(row, slice):
            return [self.store.at(i) for i in range(*row.indices(len(self)))]
        return self.store.at(row + len(self) if row < 0 else row)

    def __iter__(self) -> Iterator[Passage]:
        return self.store.in_order()


def as_sequence(passages: Corpus) -> Sequence[Passage]:
    """Return a corpus as a sequence, without reading it."""
    return StoredCorpus(passages) if isinstance(passages, PassageStore) else passages


def store_passages(sources: Sequence[Source], folder: Path) -> PassageStore:
    """Put the passages of sources on disk, so that their texts need no memory.

    Of several processes the first builds the store and all open it: they must see the same files.

    Args:
        sources: what `read_passages` takes.
        folder: where to; what is there of the same sources is used again.

    Raises:
        InputError: a source cannot be used, or two passages have one id.
        UsageError: the store cannot be written.
    """
    if rank() == 0:
        try:
            PassageStore.build(sources, folder)
        except CosupError:
            _remove_what_is_empty(folder)
            raise
    barrier()
    return PassageStore(folder)


def _remove_what_is_empty(folder: Path) -> None:
    """Take away what a store that could not be built leaves above it: its lock, and folders that hold nothing else."""
    with contextlib.suppress(OSError):
        folder.with_name(f".{folder.name}.lock").unlink(missing_ok=True)
        folder.parent.rmdir()
        folder.parent.parent.rmdir()
