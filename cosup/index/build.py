"""From a corpus to an index folder in one call, and changes to it; the same call resumes after an interruption."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from cosup.errors import InputError, UsageError
from cosup.index.base import PARTIAL, LiveIndex, check_embedder
from cosup.index.embed import PassageEmbedder, Progress, embed_corpus
from cosup.index.faiss_index import FaissIndex, check_folder
from cosup.index.structures import IndexSettings
from cosup.records import Passage


def build_index(
    embedder: PassageEmbedder,
    passages: Sequence[Passage],
    folder: str | Path,
    similarity: str,
    progress: Progress | None = None,
    settings: IndexSettings | None = None,
) -> FaissIndex:
    """Embed `passages` and write their index.

    Args:
        embedder: a saved pair.
        passages: the corpus.
        folder: where to; may hold an older index or an interrupted run, nothing else.
        similarity: of the pair: `cosine` or `inner_product`.
        progress: called after each batch with the passages done and all passages.
        settings: type and precision of the index; by default chosen from the corpus size, and float32.

    Raises:
        InputError: no passages, or two with one id.
        UsageError: the embedder was never saved, or `folder` cannot be used.
        CosupError: the embedder gives a vector that is not finite.
    """
    check_folder(Path(folder))
    vectors = embed_corpus(embedder, passages, folder, progress=progress)
    if embedder.fingerprint is None:
        raise UsageError("the embedder was never saved and has no fingerprint; save the model before indexing")
    built = FaissIndex.build(folder, passages, vectors, embedder.fingerprint, similarity, settings)
    shutil.rmtree(Path(folder) / PARTIAL, ignore_errors=True)
    return built


def add_passages(
    embedder: PassageEmbedder,
    passages: Sequence[Passage],
    index: LiveIndex,
    scratch: str | Path,
    replacing: bool,
    progress: Progress | None = None,
) -> None:
    """Embed `passages` and add them to an index.

    Args:
        embedder: the pair that made the index.
        passages: what is new.
        index: is changed.
        scratch: folder for the vectors until all are there; an interrupted call goes on from them.
        replacing: whether passages of the same ids give way; else they are refused.
        progress: called after each batch with the passages done and all passages.

    Raises:
        InputError: the index is another embedder's, or a passage is there already (before anything is embedded).
        UsageError: the embedder was never saved.
    """
    check_embedder(index.embedder_fingerprint, embedder.fingerprint or "unsaved", scratch)
    known = None if replacing else next((p.id for p in passages if _is_there(index, p.id)), None)
    if known is not None:
        raise InputError(f"the index has a passage {known!r} already; replace it, or choose another id")
    vectors = embed_corpus(embedder, passages, scratch, progress=progress)
    (index.replace if replacing else index.add)(passages, vectors)
    shutil.rmtree(Path(scratch) / PARTIAL, ignore_errors=True)


def _is_there(index: LiveIndex, passage_id: str) -> bool:
    try:
        index.passage(passage_id)
    except InputError:
        return False
    return True
