"""Embedding a corpus: batches of like length, and shards on disk that a second run picks up.

The corpus is cut into shards of consecutive passages. Within a shard passages are sorted by length and batched under
a budget of padded tokens; each finished shard is one file, written whole or not at all. Memory holds the tokens of one
shard and the vectors.

Shapes: N passages, D dimensions, S passages of a shard.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from cosup.errors import CosupError, UsageError
from cosup.index.base import PARTIAL, Vectors, checked_corpus
from cosup.records import Passage

TOKENS_PER_BATCH = 8192
SHARD_SIZE = 4096

Progress = Callable[[int, int], None]
"""Called with the number of passages done and the number of all passages."""


class PassageEmbedder(Protocol):
    """What embedding needs of a pair."""

    @property
    def fingerprint(self) -> str | None:
        """Names the embedder's weights and settings; None where they were never saved."""
        ...

    @property
    def dimension(self) -> int:
        """D."""
        ...

    def encode_passage(self, text: str) -> list[int]:
        """Return the token ids of a passage's rendered text, cut to the embedder's limit."""
        ...

    def embed_ids(self, batch: list[list[int]]) -> torch.Tensor:
        """Embed token id lists of unequal length: [len(batch), D] float32."""
        ...


def embed_passages(
    embedder: PassageEmbedder,
    passages: Sequence[Passage],
    tokens_per_batch: int = TOKENS_PER_BATCH,
    progress: Progress | None = None,
) -> Vectors:
    """Embed passages in memory.

    Args:
        embedder: turns token ids into vectors.
        passages: N passages.
        tokens_per_batch: padded tokens of a batch, at most; a longer passage is a batch of its own.
        progress: called after each batch.

    Returns:
        [N, D] float32 in the order of `passages`.

    Raises:
        CosupError: the embedder gives a vector that is not finite; names the passage.
    """
    token_ids = [embedder.encode_passage(passage.rendered) for passage in passages]
    vectors = np.empty((len(passages), embedder.dimension), dtype=np.float32)
    done = 0
    for rows in batches_by_length([len(ids) for ids in token_ids], tokens_per_batch):
        embedded = embedder.embed_ids([token_ids[row] for row in rows])
        vectors[rows] = embedded.detach().float().cpu().numpy()
        done += len(rows)
        if progress:
            progress(done, len(passages))
    _check_finite(vectors, passages)
    return vectors


def batches_by_length(lengths: Sequence[int], tokens_per_batch: int) -> Iterator[list[int]]:
    """Yield batches of rows, longest first, whose padded size stays within `tokens_per_batch`.

    The longest come first, so that a batch too large for the memory fails at once. A row longer than the budget is a
    batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    start = 0
    while start < len(order):
        width = max(1, lengths[order[start]])
        size = max(1, tokens_per_batch // width)
        yield order[start : start + size]
        start += size


def _check_finite(vectors: Vectors, passages: Sequence[Passage]) -> None:
    wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if wrong.size:
        raise CosupError(
            f"the embedder gives vectors that are not finite for {wrong.size} of {len(passages)} passages, first "
            f"{passages[wrong[0]].id!r}; its training may have diverged"
        )


def embed_corpus(
    embedder: PassageEmbedder,
    passages: Sequence[Passage],
    folder: str | Path,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    shard_size: int = SHARD_SIZE,
    progress: Progress | None = None,
) -> Vectors:
    """Embed a corpus, resumably: after an interruption the same call embeds only what is missing.

    Finished shards lie in `folder/.partial` until the index is built; they are used again only for the same corpus and
    the same embedder.

    Args:
        embedder: turns token ids into vectors.
        passages: N passages.
        folder: where the index is going to be.
        tokens_per_batch: padded tokens of a batch, at most.
        shard_size: passages a shard.
        progress: called after each batch; shards found on disk count as done.

    Returns:
        [N, D] float32 in the order of `passages`.

    Raises:
        InputError: no passages, or two with one id.
        UsageError: the embedder was never saved, or `folder` cannot be written to.
        CosupError: the embedder gives a vector that is not finite.
    """
    checked_corpus(passages)
    shards = _Shards.open(Path(folder) / PARTIAL, embedder, passages, shard_size)
    vectors = np.empty((len(passages), embedder.dimension), dtype=np.float32)
    for start in range(0, len(passages), shard_size):
        part = passages[start : start + shard_size]
        told = _shifted(progress, start, len(passages))
        known = shards.read(start, len(part))
        if known is None:
            known = embed_passages(embedder, part, tokens_per_batch, told)
            shards.write(start, known)
        elif told:
            told(len(part), len(part))
        vectors[start : start + len(part)] = known
    return vectors


def _shifted(progress: Progress | None, start: int, total: int) -> Progress | None:
    return None if progress is None else lambda done, _: progress(start + done, total)


class _Shards:
    """The finished shards of one corpus under one embedder."""

    def __init__(self, folder: Path, dimension: int) -> None:
        self.folder = folder
        self.dimension = dimension

    @classmethod
    def open(cls, folder: Path, embedder: PassageEmbedder, passages: Sequence[Passage], shard_size: int) -> _Shards:
        """Open the folder, emptied first where its shards are of other vectors."""
        if embedder.fingerprint is None:
            raise UsageError("the embedder was never saved and has no fingerprint; save the model before indexing")
        state = {
            "embedder_fingerprint": embedder.fingerprint,
            "corpus": _corpus_checksum(passages),
            "dimension": embedder.dimension,
            "shard_size": shard_size,
        }
        shards = cls(folder, embedder.dimension)
        try:
            if shards._state() != state:
                shards._begin(state)
        except OSError as error:
            raise UsageError(f"cannot write to {folder}: {error.strerror or error}") from error
        return shards

    def _state(self) -> object:
        try:
            return json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None

    def _begin(self, state: dict[str, object]) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        (self.folder / "state.json").write_text(json.dumps(state), encoding="utf-8")

    def _path(self, start: int) -> Path:
        return self.folder / f"{start:010d}.npy"

    def read(self, start: int, size: int) -> Vectors | None:
        """Return the shard that begins at passage `start`, [size, D], or None where it must be made (again)."""
        try:
            with self._path(start).open("rb") as file:
                vectors = np.lib.format.read_array(file, allow_pickle=False)
        except (FileNotFoundError, ValueError, EOFError):
            return None
        whole = vectors.shape == (size, self.dimension) and vectors.dtype == np.float32
        return vectors if whole and bool(np.isfinite(vectors).all()) else None

    def write(self, start: int, vectors: Vectors) -> None:
        """Keep a shard; the file appears whole or not at all."""
        draft = self._path(start).with_suffix(".tmp")
        try:
            with draft.open("wb") as file:
                np.save(file, vectors, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path(start))
        except OSError as error:
            raise UsageError(f"cannot write to {self.folder}: {error.strerror or error}") from error


def _corpus_checksum(passages: Sequence[Passage]) -> str:
    digest = hashlib.sha256()
    for passage in passages:
        for text in (passage.id, passage.rendered):
            data = text.encode("utf-8")
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)
    return digest.hexdigest()
