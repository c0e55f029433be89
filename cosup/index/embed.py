"""Embedding a corpus of any size: batches of like length, and shards on disk that any number of processes fill.

The corpus is cut into shards of consecutive passages. Within a shard passages are sorted by length and batched under
a budget of padded tokens; each finished shard is one file, written whole or not at all. The processes of a run share
out the shards that are missing, so that a run that was killed is gone on with by any number of them. A process holds
the texts and tokens of two shards (the next is read while the device computes) and the vectors of one.

Shapes: N passages, D dimensions, S passages of a shard.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch

from cosup.errors import CosupError, UsageError
from cosup.index.base import Vectors, checked_corpus
from cosup.index.corpus import Corpus, StoredCorpus, as_sequence
from cosup.index.progress import Progress, SharedProgress
from cosup.index.shards import Shard, ShardedVectors, ShardFolder, cut
from cosup.mishaps import out_of_memory
from cosup.processes import barrier, gather_objects, rank, world_size
from cosup.records import Passage

logger = logging.getLogger(__name__)

TOKENS_PER_BATCH = 1024  # on a CPU, whose caches hold no more of a layer's states: 8,192 take 1.4 times as long
TOKENS_PER_BATCH_ON_ACCELERATORS = 32_768
SHARD_SIZE = 4096


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

    @property
    def similarity(self) -> str:
        """What its vectors are compared by: `cosine` or `inner_product`."""
        ...

    def encode_passages(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each passage's rendered text, cut to the embedder's limit."""
        ...

    def embed_ids(self, batch: list[list[int]]) -> torch.Tensor:
        """Embed token id lists of unequal length: [len(batch), D] float32, on any device."""
        ...


@dataclass(frozen=True)
class EmbedOptions:
    """How a corpus is embedded and its vectors are kept.

    Attributes:
        tokens_per_batch: padded tokens of a batch, at most; a longer passage is a batch of its own.
        shard_size: passages a shard.
        half: keep vectors as float16.
        computed_in: type of the embedder's weights; shards that were computed in another are not used.
    """

    tokens_per_batch: int = TOKENS_PER_BATCH
    shard_size: int = SHARD_SIZE
    half: bool = False
    computed_in: str = ""

    def __post_init__(self) -> None:
        for name in ("tokens_per_batch", "shard_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; expected at least 1")

    @property
    def dtype(self) -> np.dtype[np.float32] | np.dtype[np.float16]:
        """As which vectors are kept."""
        return np.dtype(np.float16) if self.half else np.dtype(np.float32)


def tokens_for(device: torch.device) -> int:
    """Return how many tokens of a batch suit a device."""
    return TOKENS_PER_BATCH if device.type == "cpu" else TOKENS_PER_BATCH_ON_ACCELERATORS


class _Read(NamedTuple):
    """A shard that is ready to be embedded."""

    shard: Shard
    passages: Sequence[Passage]
    token_ids: list[list[int]]


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
    token_ids = embedder.encode_passages([passage.rendered for passage in passages])
    told = None if progress is None else lambda done: progress(done, len(passages))
    return _embedded(embedder, passages, token_ids, tokens_per_batch, told)


def _embedded(
    embedder: PassageEmbedder,
    passages: Sequence[Passage],
    token_ids: list[list[int]],
    tokens_per_batch: int,
    told: Callable[[int], None] | None,
) -> Vectors:
    """Embed passages of which the tokens are known; `told` gets the number of those done, batch by batch."""
    order: list[int] = []
    found: list[torch.Tensor] = []
    for rows in batches_by_length([len(ids) for ids in token_ids], tokens_per_batch):
        with _memory_told(tokens_per_batch):
            found.append(embedder.embed_ids([token_ids[row] for row in rows]).detach().float())
        order += rows
        if told:
            told(len(order))
    vectors = np.empty((len(passages), embedder.dimension), dtype=np.float32)
    if found:  # taken from the device at once, so that it never waits
        vectors[order] = torch.cat(found).cpu().numpy()
    _check_finite(vectors, passages)
    return vectors


@contextmanager
def _memory_told(tokens_per_batch: int) -> Iterator[None]:
    """Say what to lower where a batch is too large for the memory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if (told := out_of_memory(error)) is None:
            raise
        lower = f"embed fewer tokens at once (--batch-tokens, now {tokens_per_batch})"
        raise UsageError(f"{told}; {lower}; the same command goes on where this one stopped") from error


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
    passages: Corpus,
    folder: str | Path,
    options: EmbedOptions | None = None,
    progress: Progress | None = None,
) -> ShardedVectors:
    """Embed a corpus, resumably: after an interruption the same call embeds only what is missing.

    All processes of a run call this with the same corpus and a folder that they share, and share out the work. Finished
    shards lie in the folder, which is the caller's to remove; they are used again only for the same texts and the same
    embedder.

    Args:
        embedder: turns token ids into vectors.
        passages: N passages in memory or in a store.
        folder: of the unfinished work.
        options: how to embed.
        progress: called by the first process at the start, with what was done before, and after each batch.

    Returns:
        [N, D] in the order of `passages`, read from the shards when asked for.

    Raises:
        InputError: no passages, or two with one id.
        UsageError: the embedder was never saved, `folder` cannot be written to, or a batch takes too much memory.
        CosupError: the embedder gives a vector that is not finite.
    """
    options = options or EmbedOptions()
    corpus = as_sequence(passages)
    if not isinstance(corpus, StoredCorpus):  # a store has seen to its ids
        checked_corpus(corpus)
    shards = _open_shards(embedder, Path(folder), options)
    plan = cut(len(corpus), options.shard_size)
    paths = _merged(_finished(shards, corpus, plan))
    missing = [shard for shard in plan if shard not in paths]
    logger.info("%d of %d shards are there", len(paths), len(plan))
    told = SharedProgress(shards.folder, len(corpus), sum(map(len, paths)), progress)
    with told:
        own = _embed_shards(embedder, _read_ahead(embedder, corpus, _share(missing)), shards, options, told)
        paths |= _merged(own)
    return ShardedVectors([paths[s] for s in plan], [len(s) for s in plan], embedder.dimension, options.dtype)


def _open_shards(embedder: PassageEmbedder, folder: Path, options: EmbedOptions) -> ShardFolder:
    """Return the shards of an embedder; the first process clears away those of others."""
    if embedder.fingerprint is None:
        raise UsageError("the embedder was never saved and has no fingerprint; save the model before indexing")
    identity = f"{embedder.fingerprint} {embedder.dimension} {options.dtype} {options.shard_size} {options.computed_in}"
    name = f"vectors-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    shards = ShardFolder(folder / name, embedder.dimension, options.dtype)
    if rank() == 0:
        shards.prepare()
    barrier()
    return shards


def _share(items: Sequence[Shard]) -> Sequence[Shard]:
    """Return this process's share: every so many-th, so that all get of the long and of the short passages."""
    return items[rank() :: world_size()]


def _merged(own: dict[Shard, Path]) -> dict[Shard, Path]:
    """Return what all processes have."""
    return {shard: path for part in gather_objects(own) for shard, path in part.items()}


def _finished(shards: ShardFolder, corpus: Sequence[Passage], plan: Sequence[Shard]) -> dict[Shard, Path]:
    """Return where this process's share of the finished shards lies."""
    starts = shards.starts()
    found = {}
    for shard in _share([s for s in plan if s.start in starts]):
        path = shards.path(shard, corpus[shard.start : shard.stop])
        if shards.has(path, len(shard)):
            found[shard] = path
    return found


def _read_ahead(embedder: PassageEmbedder, corpus: Sequence[Passage], plan: Sequence[Shard]) -> Iterator[_Read]:
    """Yield shards with their tokens; the next one is read while the caller works on this one."""

    def read(shard: Shard) -> _Read:
        passages = corpus[shard.start : shard.stop]
        return _Read(shard, passages, embedder.encode_passages([p.rendered for p in passages]))

    with ThreadPoolExecutor(max_workers=1) as reader:
        coming = reader.submit(read, plan[0]) if plan else None
        for following in [*plan[1:], None]:
            if coming is None:
                return
            ready = coming.result()
            coming = None if following is None else reader.submit(read, following)
            yield ready


def _embed_shards(
    embedder: PassageEmbedder,
    work: Iterable[_Read],
    shards: ShardFolder,
    options: EmbedOptions,
    told: SharedProgress,
) -> dict[Shard, Path]:
    """Embed and keep shards; return where they lie."""
    found = {}
    for shard, passages, token_ids in work:
        vectors = _embedded(embedder, passages, token_ids, options.tokens_per_batch, told.within_shard)
        if options.half:
            vectors = _as_half(vectors, passages)
        found[shard] = shards.path(shard, passages)
        shards.write(found[shard], vectors)
        told.shard_done(len(shard))
    return found


def _as_half(vectors: Vectors, passages: Sequence[Passage]) -> Vectors:
    with np.errstate(over="ignore"):
        halved = vectors.astype(np.float16)
    wrong = np.flatnonzero(~np.isfinite(halved).all(axis=1))
    if wrong.size:
        raise CosupError(
            f"the vector of {passages[wrong[0]].id!r} is too large for float16; keep vectors as float32 instead"
        )
    return halved  # type: ignore[return-value]
