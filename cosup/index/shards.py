"""Vectors in files: shards of a corpus, each written whole or not at all, and the whole of them read in parts.

A shard's name is made of its first row and of its passages' texts, and its folder's of the embedder and of how vectors
are kept: what lies under the name that is looked for is what would be computed again. So no list of what is done is
needed, any number of processes may write side by side, and a corpus that has changed in one place is embedded anew
there alone.

Shapes: N passages, D dimensions, S passages of a shard.
"""

from __future__ import annotations

import hashlib
import shutil
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cosup.data.writing import whole_file
from cosup.errors import UsageError
from cosup.index.base import Vectors
from cosup.mishaps import disk_trouble
from cosup.records import Passage

Rows: TypeAlias = int | slice | Sequence[int] | NDArray[np.int64]


class VectorRows(Protocol):
    """[N, D] vectors that can be read in parts: an array, or `ShardedVectors`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """N and D."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32, or float16 where they are kept so."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> Vectors: ...


class Shard(NamedTuple):
    """Rows `start` to `stop` - 1 of a corpus."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def cut(count: int, shard_size: int) -> list[Shard]:
    """Return the shards of `count` passages."""
    return [Shard(start, min(start + shard_size, count)) for start in range(0, count, shard_size)]


class ShardFolder:
    """The finished shards of one embedder; damaged ones count as missing.

    Args:
        folder: of the shards; those of other embedders lie beside it.
        dimension: D.
        dtype: float32 or float16, as which vectors are kept.
    """

    def __init__(self, folder: Path, dimension: int, dtype: np.dtype[Any]) -> None:
        self.folder = folder
        self.dimension = dimension
        self.dtype = dtype

    def prepare(self) -> None:
        """Make the folder, and clear away what other embedders and killed runs have left beside and in it.

        Raises:
            UsageError: it cannot be written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for other in self.folder.parent.glob("vectors-*"):
                if other != self.folder:
                    shutil.rmtree(other)
            for draft in self.folder.glob("*.tmp"):
                draft.unlink()
        except OSError as error:
            raise self._unwritable(error) from error

    def starts(self) -> set[int]:
        """Return the first rows of the shards that are there, whatever their texts were."""
        return {int(path.name.partition("-")[0]) for path in self.folder.glob("*-*.npy")}

    def path(self, shard: Shard, passages: Sequence[Passage]) -> Path:
        """Return where the vectors of these passages belong."""
        return self.folder / f"{shard.start:010d}-{texts_digest(passages)[:32]}.npy"

    def has(self, path: Path, size: int) -> bool:
        """Whether a shard of `size` passages is there and whole."""
        try:
            vectors = np.lib.format.open_memmap(path, mode="r")
        except (FileNotFoundError, ValueError, EOFError):
            return False
        return bool(vectors.shape == (size, self.dimension) and vectors.dtype == self.dtype)

    def write(self, path: Path, vectors: Vectors) -> None:
        """Keep a shard, in place of those that began at the same row; the file appears whole or not at all.

        Raises:
            UsageError: it cannot be written.
        """
        with whole_file(path) as draft, draft.open("wb") as file:
            np.save(file, np.asarray(vectors, dtype=self.dtype), allow_pickle=False)
        try:
            for older in self.folder.glob(f"{path.name.partition('-')[0]}-*.npy"):
                if older != path:
                    older.unlink()
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> UsageError:
        return UsageError(f"cannot write to {self.folder}: {error.strerror or disk_trouble(error) or error}")


def texts_digest(passages: Sequence[Passage]) -> str:
    """Return a hash of what is embedded of passages."""
    digest = hashlib.sha256()
    for passage in passages:
        data = passage.rendered.encode("utf-8")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


class ShardedVectors:
    """[N, D] vectors in files of consecutive rows, read when they are asked for; no row stays in memory.

    Reads like an array: `vectors[5]`, `vectors[100:200]`, `vectors[[7, 3]]`; `numpy.asarray(vectors)` has them all.

    Args:
        paths: `.npy` files in the order of the rows.
        lengths: rows of each.
        dimension: D.
        dtype: of the files, float32 or float16, and of what is read.
    """

    ndim = 2

    def __init__(self, paths: Sequence[Path], lengths: Sequence[int], dimension: int, dtype: np.dtype[Any]) -> None:
        self.paths = list(paths)
        self.dtype = dtype
        self._starts = [0, *np.cumsum(lengths).tolist()]
        self.shape = (int(self._starts[-1]), dimension)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Rows) -> Vectors:
        if isinstance(rows, int | np.integer):
            one: Vectors = self._gathered(np.array([range(len(self))[rows]]))[0]
            return one
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            return self._span(start, stop) if step == 1 else self._gathered(np.arange(start, stop, step))
        wanted = np.asarray(rows)
        wanted = np.flatnonzero(wanted) if wanted.dtype == bool else wanted
        return self._gathered(np.where(wanted < 0, wanted + len(self), wanted))

    def __iter__(self) -> Iterator[Vectors]:
        return (vector for part in self.parts() for vector in part)

    def parts(self) -> Iterator[Vectors]:
        """Yield the vectors shard by shard, [S, D]."""
        return (np.array(self._open(number)) for number in range(len(self.paths)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)

    def _open(self, number: int) -> NDArray[Any]:
        return np.asarray(np.lib.format.open_memmap(self.paths[number], mode="r"))

    def _span(self, start: int, stop: int) -> Vectors:
        found: Vectors = np.empty((max(0, stop - start), self.shape[1]), dtype=self.dtype)
        while start < stop:
            number = bisect_right(self._starts, start) - 1
            base, end = self._starts[number], min(stop, self._starts[number + 1])
            found[len(found) - (stop - start) : len(found) - (stop - end)] = self._open(number)[
                start - base : end - base
            ]
            start = end
        return found

    def _gathered(self, rows: NDArray[np.int64]) -> Vectors:
        if rows.size and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} asked of {len(self)}")
        found = np.empty((len(rows), self.shape[1]), dtype=self.dtype)
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(numbers):
            places = np.flatnonzero(numbers == number)
            found[places] = self._open(number)[rows[places] - self._starts[number]]
        return found
