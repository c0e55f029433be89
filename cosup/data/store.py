"""Passages on disk: looked up by id, their texts never all in memory. See `store_layout` for its files."""

from __future__ import annotations

import json
import os
import weakref
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from cosup.data.reading import passage_from_dict
from cosup.data.sources import Source
from cosup.data.store_build import build_store, finish_store, identity_of
from cosup.data.store_layout import HASHES, MANIFEST, OFFSETS, PASSAGES, ROWS, File, hash_of, read_manifest
from cosup.data.writing import write_jsonl
from cosup.errors import CosupError, InputError, UsageError
from cosup.records import Passage


class PassageStore(Mapping[str, Passage]):
    """Passages by id, in the order of their sources; only their places are in memory.

    Pickling takes the folder along, not the passages, and forked processes may share a store.

    Args:
        folder: what `PassageStore.build` made.

    Raises:
        InputError: there is no whole store, or a file it refers to has changed since.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()
        record = read_manifest(self.folder)
        if record is None:
            raise InputError("no whole passage store; build it again", self.folder)
        self._count = int(record["count"])
        self._files = [File(**file) for file in record["files"]]
        self._paths = [self.folder / file.path for file in self._files]
        self._bases = [0, *accumulate(file.size for file in self._files)]
        self._offsets: NDArray[np.int64] = np.asarray(np.memmap(self.folder / OFFSETS, np.int64, "r"))
        self._hashes: NDArray[np.uint64] = np.asarray(np.memmap(self.folder / HASHES, np.uint64, "r"))
        self._rows: NDArray[np.int64] = np.asarray(np.memmap(self.folder / ROWS, np.int64, "r"))
        self._open_files()

    def _open_files(self) -> None:
        self._descriptors: list[int] = []
        weakref.finalize(self, _close_all, self._descriptors)
        for file, path in zip(self._files, self._paths, strict=True):
            try:
                self._descriptors.append(os.open(path, os.O_RDONLY))
                found = os.fstat(self._descriptors[-1])
            except OSError as error:
                raise InputError(f"cannot be read: {error.strerror or error}", path) from error
            if found.st_size != file.size or (file.changed and found.st_mtime_ns != file.changed):
                raise InputError("changed since its passages were indexed; start again", path)

    @property
    def stands_alone(self) -> bool:
        """Whether all of it lies in its folder: no passage is read from elsewhere."""
        return [file.path for file in self._files] == [PASSAGES]

    @classmethod
    def build(cls, sources: Source | Sequence[Source], folder: str | Path) -> PassageStore:
        """Open the store of `sources` in `folder`, and make it first where it is missing, old or damaged.

        Several processes of one machine may call this at once: one builds, the others wait. The folder is there whole
        or not at all. Building reads the sources once (a JSONL file) or twice (the others) and holds about 20 bytes a
        passage in memory; a folder of Markdown and text files is cut in memory.

        Args:
            sources: what `read_passages` takes, or several of them.
            folder: where to; may hold an older store, nothing else.

        Raises:
            InputError: a source cannot be used, or two passages have one id; names file and line.
            UsageError: `folder` holds something else, or cannot be written (a full disk).
        """
        places = [sources] if isinstance(sources, str | Path) else list(sources)
        if not places:
            raise UsageError("no passages; name their file or folder")
        folder = Path(folder).absolute()
        wanted = [identity_of(source) for source in places]
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_name(f".{folder.name}.lock")):
                _check_target(folder)
                record = read_manifest(folder)
                if record is None or record["sources"] != wanted:
                    build_store(places, wanted, folder)
        except OSError as error:
            raise UsageError(f"cannot write the passage store {folder}: {error.strerror or error}") from error
        return cls(folder)

    @classmethod
    def write(cls, passages: Iterable[Passage], folder: str | Path) -> PassageStore:
        """Make a store that stands by itself and can be moved: all of it lies in `folder`.

        The folder is not written whole or not at all; whoever asks sees to that.

        Args:
            passages: read once.
            folder: where to; made where it is missing.

        Raises:
            InputError: there are no passages, or two have one id.
            UsageError: the store cannot be written.
        """
        folder = Path(folder).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        write_jsonl(folder / PASSAGES, passages)
        finish_store([File(PASSAGES, (folder / PASSAGES).stat().st_size, 0, "the corpus", "passage")], [], folder)
        return cls(folder)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return (passage.id for passage in self.in_order())

    def __contains__(self, passage_id: object) -> bool:
        return isinstance(passage_id, str) and self._find(passage_id) is not None

    def __getitem__(self, passage_id: str) -> Passage:
        found = self._find(passage_id)
        if found is None:
            raise KeyError(passage_id)
        return found[1]

    def row(self, passage_id: str) -> int:
        """Return the row of a passage. Raises `KeyError` where there is no such passage."""
        found = self._find(passage_id)
        if found is None:
            raise KeyError(passage_id)
        return found[0]

    def at(self, row: int) -> Passage:
        """Return the passage of a row.

        Raises:
            IndexError: `row` is not in 0 .. N - 1.
            CosupError: its file was changed while the store was open.
        """
        if not 0 <= row < self._count:
            raise IndexError(f"no row {row} among {self._count} passages")
        start, end = int(self._offsets[row]), int(self._offsets[row + 1])
        if not 0 <= start <= end <= self._bases[-1]:
            raise CosupError(f"{self.folder / OFFSETS}: damaged; build the passages' store or index again")
        number = bisect_right(self._bases, start) - 1
        try:
            data = os.pread(self._descriptors[number], end - start, start - self._bases[number])
            line, _, _ = data.decode("utf-8-sig").partition("\n")
            return passage_from_dict(json.loads(line))
        except (IndexError, OSError, ValueError, RecursionError, InputError) as error:
            raise CosupError(f"{self._paths[number]}: changed while it was in use; start again") from error

    def in_order(self) -> Iterator[Passage]:
        """Yield the passages by row."""
        return (self.at(row) for row in range(self._count))

    def _find(self, passage_id: str) -> tuple[int, Passage] | None:
        key = hash_of(passage_id)
        place = int(np.searchsorted(self._hashes, np.uint64(key)))
        while place < self._count and int(self._hashes[place]) == key:
            row = int(self._rows[place])
            if not 0 <= row < self._count:
                raise CosupError(f"{self.folder / ROWS}: damaged; build the passages' store or index again")
            passage = self.at(row)
            if passage.id == passage_id:
                return row, passage
            place += 1
        return None

    def __reduce__(self) -> tuple[type[PassageStore], tuple[Path]]:
        return PassageStore, (self.folder,)


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _check_target(folder: Path) -> None:
    empty = folder.is_dir() and not any(folder.iterdir())
    if folder.exists() and not empty and not (folder / MANIFEST).is_file():
        raise UsageError(
            f"cannot write passages to {folder}: something else is there; move it or choose another folder"
        )
