"""From a corpus to an index in one call, and changes to it; the same call resumes after an interruption."""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from cosup.errors import InputError, UsageError
from cosup.index.adding import adding_folder
from cosup.index.base import PARTIAL, UNSAVED, LiveIndex, check_embedder
from cosup.index.corpus import Corpus, as_sequence
from cosup.index.embed import EmbedOptions, PassageEmbedder, embed_corpus
from cosup.index.faiss_index import FaissIndex, check_folder
from cosup.index.milvus_index import MilvusIndex
from cosup.index.milvus_place import MilvusPlace, is_milvus_place, shown_place
from cosup.index.open import open_index
from cosup.index.progress import Progress
from cosup.index.structures import IndexSettings
from cosup.locks import held_together
from cosup.processes import barrier, rank


def build_index(
    embedder: PassageEmbedder,
    passages: Corpus,
    place: str | Path,
    progress: Progress | None = None,
    settings: IndexSettings | None = None,
    options: EmbedOptions | None = None,
) -> LiveIndex:
    """Embed `passages`, write their index and open it.

    Args:
        embedder: a saved pair.
        passages: the corpus, in memory or in a store.
        place: a folder, which may hold an older index or an interrupted run, nothing else; or a place in Milvus.
        progress: called with the passages done and all passages.
        settings: type and precision of the index; by default chosen from the corpus size, and float32.
        options: how to embed.

    Raises:
        InputError: no passages, or two with one id.
        UsageError: the embedder was never saved, or `place` cannot be used.
        CosupError: the embedder gives a vector that is not finite.
    """
    if rank() == 0:
        check_place(place, settings)
    with building(place):
        written = write_index(embedder, passages, place, progress, settings, options)
        barrier()
    return open_index(place, embedder.fingerprint) if written is None else written


def write_index(
    embedder: PassageEmbedder,
    passages: Corpus,
    place: str | Path,
    progress: Progress | None = None,
    settings: IndexSettings | None = None,
    options: EmbedOptions | None = None,
) -> LiveIndex | None:
    """Do what `build_index` does; of several processes all embed, and the first alone writes and opens the index.

    Whoever calls this has checked the place and holds it: see `check_place` and `building`.

    Returns:
        The index, or None in the other processes, which do not wait for it.
    """
    work = work_folder(place)
    vectors: Any = embed_corpus(embedder, passages, work, options, progress)
    if embedder.fingerprint is None:
        raise UsageError("the embedder was never saved and has no fingerprint; save the model before indexing")
    if rank() > 0:
        return None
    built: LiveIndex
    what = (as_sequence(passages), vectors, embedder.fingerprint, embedder.similarity)
    if is_milvus_place(place):
        built = MilvusIndex.build(place, *what, None if settings is None or settings.type == "auto" else settings.type)
    else:
        built = FaissIndex.build(place, *what, settings)
    shutil.rmtree(work, ignore_errors=True)
    return built


def building(place: str | Path) -> AbstractContextManager[None]:
    """Hold what is unfinished of a build for all processes of this run; see `held_together`.

    Who opens the index, or changes it meanwhile, is not kept from it.
    """
    work = work_folder(place)
    return held_together(work.with_name(f"{work.name}.lock"), f"an index is being built at {shown_place(place)}")


def check_place(place: str | Path, settings: IndexSettings | None = None) -> None:
    """Make sure, before any work, that an index can be written somewhere.

    Args:
        place: where it is to be.
        settings: that it is to have, where they are known yet.

    Raises:
        UsageError: it cannot; says why.
    """
    if is_milvus_place(place):
        settings = settings or IndexSettings()
        MilvusIndex.check_target(place, settings.type, settings.vector_dtype)
    else:
        check_folder(Path(place))


def work_folder(place: str | Path) -> Path:
    """Return where the unfinished work for an index lies: in its folder; for Milvus, in a hidden one beside."""
    return MilvusPlace.parse(place).work_folder if is_milvus_place(place) else Path(place) / PARTIAL


def add_passages(
    embedder: PassageEmbedder,
    passages: Corpus,
    index: LiveIndex,
    place: str | Path,
    replacing: bool,
    progress: Progress | None = None,
    options: EmbedOptions | None = None,
    work: Path | None = None,
) -> None:
    """Embed `passages` and add them to an index. A build that is not done, and other additions, go on undisturbed.

    Args:
        embedder: the pair that made the index.
        passages: what is new.
        index: is changed.
        place: where the index is; an interrupted call goes on.
        replacing: whether passages of the same ids give way; else they are refused.
        progress: called after each batch with the passages done and all passages.
        options: how to embed.
        work: folder for the unfinished work, from `adding_folder`; None takes one for the time of the call.

    Raises:
        InputError: the index is another embedder's, or a passage is there already (before anything is embedded).
        UsageError: the embedder was never saved, or nothing can be written beside the index.
    """
    if work is None:
        with adding_folder(work_folder(place)) as own:
            add_passages(embedder, passages, index, place, replacing, progress, options, own)
        return
    check_embedder(index.embedder_fingerprint, embedder.fingerprint or UNSAVED, shown_place(place))
    known = None if replacing else next((p.id for p in as_sequence(passages) if _is_there(index, p.id)), None)
    if known is not None:
        raise InputError(f"the index has a passage {known!r} already; replace it, or choose another id")
    vectors: Any = embed_corpus(embedder, passages, work, options, progress)
    (index.replace if replacing else index.add)(as_sequence(passages), vectors)


def _is_there(index: LiveIndex, passage_id: str) -> bool:
    try:
        index.passage(passage_id)
    except InputError:
        return False
    return True
