"""From a corpus to an index folder in one call; the same call resumes after an interruption."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cosup.errors import UsageError
from cosup.index.base import check_target
from cosup.index.embed import PassageEmbedder, Progress, embed_corpus
from cosup.index.faiss_index import OWN_NAMES, FaissIndex
from cosup.records import Passage


def build_index(
    embedder: PassageEmbedder,
    passages: Sequence[Passage],
    folder: str | Path,
    similarity: str,
    progress: Progress | None = None,
) -> FaissIndex:
    """Embed `passages` and write their exact index.

    Args:
        embedder: a saved pair.
        passages: the corpus.
        folder: where to; may hold an older index or an interrupted run, nothing else.
        similarity: of the pair: `cosine` or `inner_product`.
        progress: called after each batch with the passages done and all passages.

    Raises:
        InputError: no passages, or two with one id.
        UsageError: the embedder was never saved, or `folder` cannot be used.
        CosupError: the embedder gives a vector that is not finite.
    """
    check_target(Path(folder), OWN_NAMES)
    vectors = embed_corpus(embedder, passages, folder, progress=progress)
    if embedder.fingerprint is None:
        raise UsageError("the embedder was never saved and has no fingerprint; save the model before indexing")
    return FaissIndex.build(folder, passages, vectors, embedder.fingerprint, similarity)
