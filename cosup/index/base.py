"""What every index can do: one contract for FAISS and Milvus.

Shapes: Q queries, N passages, D dimensions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cosup.errors import CosupError, InputError, UsageError
from cosup.index.filters import Filter
from cosup.records import Hit, Passage

MANIFEST = "index.json"
UNSAVED = "unsaved"  # in place of the fingerprint of an embedder that has none yet
PARTIAL = ".partial"  # folder of the vectors of an embedding that is not done

Vectors = NDArray[np.float32]
Candidates = Sequence[Sequence[str] | None]

SIMILARITIES = ("cosine", "inner_product")
NOT_FINITE = "a vector is not finite; the embedder's training may have diverged"
_UNIT_TOLERANCE = 2e-3


class HasShape(Protocol):
    """An array, or rows that are read from files as one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, D]."""
        ...

    @property
    def dtype(self) -> Any:
        """Of numpy."""
        ...


class VectorIndex(Protocol):
    """A corpus that can be searched by vector."""

    @property
    def embedder_fingerprint(self) -> str:
        """Names the embedder that made the vectors; queries must come from its pair."""
        ...

    @property
    def identity(self) -> str:
        """Names what is searched: changes whenever a passage or a vector does."""
        ...

    @property
    def dimension(self) -> int:
        """D."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Passage]: ...

    def passage(self, passage_id: str) -> Passage:
        """Return a passage.

        Raises:
            InputError: no passage has this id.
        """
        ...

    def search(
        self, queries: Vectors, k: int, candidates: Candidates | None = None, filter: Filter | None = None
    ) -> list[list[Hit]]:
        """Find the passages with the highest inner products.

        Args:
            queries: [Q, D] float32.
            k: hits a query, at most; fewer where fewer passages can be found.
            candidates: for each query the ids that its search is limited to, or None for the whole corpus.
            where: what a passage's metadata must meet.

        Returns:
            For each query its hits, best first; equal scores in the order of the corpus.

        Raises:
            UsageError: `queries`, `k` or the number of candidate lists has the wrong form.
            InputError: a candidate is no passage of the index.
            CosupError: a query is not finite.
        """
        ...


class LiveIndex(VectorIndex, Protocol):
    """A corpus that changes while it is in use. Each change happens whole or not at all, whatever is killed when."""

    def add(self, passages: Sequence[Passage], vectors: Vectors) -> None:
        """Add passages.

        Raises:
            InputError: a passage of this id is there already, or two of the new ones have one id.
            UsageError: `vectors` are not [len(passages), D] float32 of the index's similarity.
        """
        ...

    def replace(self, passages: Sequence[Passage], vectors: Vectors) -> None:
        """Put passages in the place of those with the same ids; new ids are added. Raises as `add`."""
        ...

    def delete(self, ids: Sequence[str]) -> None:
        """Take passages out.

        Raises:
            InputError: one is not there; nothing is deleted.
        """
        ...

    def compact(self) -> None:
        """Free what deleted passages still take, and search all of the corpus by one structure again."""
        ...

    def changed(self) -> bool:
        """Whether others have changed it in a way that this reader does not see; never where all see all changes.

        Raises:
            InputError: it is damaged, or no longer there.
        """
        ...

    def reopened(self) -> LiveIndex:
        """Return it as it is now, beside this reader; itself where that sees all changes. Raises as its opening."""
        ...

    def rows(self) -> list[tuple[str, str]]:
        """Return what is to be told once it is built: its kind and how well it finds, where that was measured."""
        ...

    @property
    def outgrown(self) -> bool:
        """Whether additions have made it slow to search, which `compact` mends."""
        ...


def metadata_keys(passages: Iterable[Passage]) -> list[str]:
    """Return the keys that the metadata of any of the passages has, sorted."""
    return sorted({key for passage in passages for key in passage.metadata})


def damaged(path: Path) -> InputError:
    """Return the error for a file that is not as it was written."""
    return InputError("damaged: its content is not what was written; run 'cosup index' again", path)


def file_checksum(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal, without reading the file whole into memory.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", path) from error


def checked_corpus(passages: Sequence[Passage]) -> dict[str, int]:
    """Return the row of each passage id.

    Raises:
        InputError: there are no passages, or two have one id.
    """
    if not passages:
        raise InputError("the corpus has no passages; expected at least one")
    rows: dict[str, int] = {}
    for row, passage in enumerate(passages):
        if rows.setdefault(passage.id, row) != row:
            raise InputError(f"two passages have the id {passage.id!r}, numbers {rows[passage.id] + 1} and {row + 1}")
    return rows


def check_embedder(found: str, expected: str | None, place: str | Path | None = None) -> None:
    """Refuse an index that another embedder made.

    Args:
        found: fingerprint of the embedder that made it.
        expected: of the pair that is to ask; None accepts any, `UNSAVED` none.
        place: of the index, where it is known.

    Raises:
        InputError: names both embedders.
    """
    if expected is not None and found != expected:
        raise InputError(
            f"the index was made by embedder {found[:12]}, but the model's embedder is {expected[:12]}; run 'cosup "
            "index' again with this model",
            place,
        )


def checked_queries(queries: Vectors, k: int, dimension: int, candidates: Candidates | None) -> Vectors:
    """Return queries [Q, D] ready to be searched for.

    Raises:
        UsageError: `queries`, `k` or the number of candidate lists has the wrong form.
        CosupError: a query is not finite.
    """
    if queries.ndim != 2 or queries.shape[1] != dimension:
        raise UsageError(f"queries have the shape {queries.shape}; expected [Q, {dimension}]")
    if k < 1:
        raise UsageError(f"k is {k}; expected at least 1")
    wrong = np.flatnonzero(~np.isfinite(queries).all(axis=1))
    if wrong.size:
        raise CosupError(f"query {wrong[0]} is not finite; the generator's training may have diverged")
    if candidates is not None and len(candidates) != len(queries):
        raise UsageError(f"{len(candidates)} candidate lists for {len(queries)} queries; expected one a query")
    return np.ascontiguousarray(queries, dtype=np.float32)


def check_shape(vectors: HasShape, count: int, similarity: str, dimension: int | None = None) -> None:
    """Make sure that vectors are as many as `count`, of a type, width and similarity that can be.

    Args:
        vectors: [count, D] float32, or float16 where they were kept so.
        count: of the passages.
        similarity: `cosine` or `inner_product`.
        dimension: D of the index they are to be added to, if there is one.

    Raises:
        UsageError: they are not.
    """
    if similarity not in SIMILARITIES:
        raise UsageError(f"similarity is '{similarity}'; expected cosine or inner_product")
    shape = list(vectors.shape)
    fits = len(shape) == 2 and shape[0] == count and dimension in (None, shape[1])
    if not fits or vectors.dtype not in (np.float32, np.float16):
        wanted = f"float32 [{count}, {'D' if dimension is None else dimension}]"
        raise UsageError(f"vectors are {vectors.dtype} {shape}; expected {wanted}")


def check_values(block: Vectors, similarity: str) -> None:
    """Make sure that vectors [B, D] are finite, and of unit length where the similarity needs it.

    Raises:
        CosupError: one is not finite.
        UsageError: one is not of unit length.
    """
    if not np.isfinite(block).all():
        raise CosupError(NOT_FINITE)
    lengths = np.linalg.norm(block.astype(np.float32, copy=False), axis=1)
    if similarity == "cosine" and len(block) and np.abs(lengths - 1).max() > _UNIT_TOLERANCE:
        raise UsageError("vectors are not of unit length, which the similarity 'cosine' needs")


def check_target(folder: Path, own_names: Collection[str]) -> None:
    """Make sure that `folder` can become an index folder without the loss of anything else.

    Args:
        folder: where the index is to be; need not exist.
        own_names: patterns of the files and folders of an index, which may be replaced.

    Raises:
        UsageError: it is a file, or holds something that is no part of an index.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"cannot write an index to {folder}: it is a file; choose another folder")
    names = sorted(p.name for p in folder.iterdir()) if folder.exists() else []
    foreign = [name for name in names if not any(fnmatch(name, own) for own in own_names)]
    if foreign:
        raise UsageError(f"{folder} holds '{foreign[0]}', which is no part of an index; choose an empty or new folder")
