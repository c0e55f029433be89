"""From a corpus to an index in one call; the same call resumes after an interruption."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from cosup.errors import UsageError
from cosup.index.base import VectorIndex, check_target
from cosup.index.corpus import Corpus, as_sequence
from cosup.index.embed import PARTIAL, EmbedOptions, PassageEmbedder, embed_corpus
from cosup.index.faiss_index import OWN_NAMES, FaissIndex
from cosup.index.milvus_index import MilvusIndex
from cosup.index.milvus_place import MilvusPlace, is_milvus_place
from cosup.index.progress import Progress
from cosup.processes import barrier, rank


def build_index(
    embedder: PassageEmbedder,
    passages: Corpus,
    place: str | Path,
    similarity: str,
    progress: Progress | None = None,
    options: EmbedOptions | None = None,
) -> VectorIndex:
    """Embed `passages`, write their index and open it.

    Args:
        embedder: a saved pair.
        passages: the corpus, in memory or in a store.
        place: a folder, which may hold an older index or an interrupted run, nothing else; or a place in Milvus.
        similarity: of the pair: `cosine` or `inner_product`.
        progress: called with the passages done and all passages.
        options: how to embed.

    Raises:
        InputError: no passages, or two with one id.
        UsageError: the embedder was never saved, or `place` cannot be used.
        CosupError: the embedder gives a vector that is not finite.
    """
    written = write_index(embedder, passages, place, similarity, progress, options)
    barrier()
    if written is not None:
        return written
    kind: Any = MilvusIndex if is_milvus_place(place) else FaissIndex
    opened: VectorIndex = kind.load(place, embedder.fingerprint)
    return opened


def write_index(
    embedder: PassageEmbedder,
    passages: Corpus,
    place: str | Path,
    similarity: str,
    progress: Progress | None = None,
    options: EmbedOptions | None = None,
) -> VectorIndex | None:
    """Do what `build_index` does; of several processes all embed, and the first alone writes and opens the index.

    Returns:
        The index, or None in the other processes, which do not wait for it.
    """
    if rank() == 0:
        check_place(place)
    work = work_folder(place)
    vectors: Any = embed_corpus(embedder, passages, work, options, progress)
    if embedder.fingerprint is None:
        raise UsageError("the embedder was never saved and has no fingerprint; save the model before indexing")
    if rank() > 0:
        return None
    kind: Any = MilvusIndex if is_milvus_place(place) else FaissIndex
    built: VectorIndex = kind.build(place, as_sequence(passages), vectors, embedder.fingerprint, similarity)
    shutil.rmtree(work, ignore_errors=True)
    return built


def check_place(place: str | Path) -> None:
    """Make sure, before any work, that an index can be written somewhere.

    Raises:
        UsageError: it cannot; says why.
    """
    if is_milvus_place(place):
        MilvusIndex.check_target(place)
    else:
        check_target(Path(place), OWN_NAMES)


def work_folder(place: str | Path) -> Path:
    """Return where the unfinished work for an index lies: in its folder; for Milvus, in a hidden one beside."""
    return MilvusPlace.parse(place).work_folder if is_milvus_place(place) else Path(place) / PARTIAL
