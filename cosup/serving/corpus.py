"""The corpus that is searched: changed by requests or by others on disk, while answers go on with what they began with.

Every change opens the index anew beside the one in use, and a new engine over it takes the answers to come.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from cosup.errors import CosupError, InputError
from cosup.generation.engine import Engine
from cosup.generation.searching import query_vectors
from cosup.generation.settings import GenerationSettings
from cosup.index.base import LiveIndex, Vectors
from cosup.index.faiss_index import FaissIndex
from cosup.index.manifest import IndexManifest
from cosup.index.open import open_index
from cosup.modeling import CoSupervisedModel
from cosup.records import Passage, Question
from cosup.serving.errors import ApiError
from cosup.serving.runner import Runner

logger = logging.getLogger(__name__)

PIECE = 16  # texts embedded between two steps of the answers on their way


class Corpus:
    """An index that is served.

    Args:
        place: of the index; see `index.open.open_index`.
        model: the pair that searches it.
        settings: how answers are written where a request does not say otherwise.

    Raises:
        InputError: there is no index, or another embedder made it.
    """

    def __init__(self, place: str, model: CoSupervisedModel, settings: GenerationSettings) -> None:
        self.place = place
        self.model = model
        self.settings = settings
        self.index = self._opened()
        self._changing = asyncio.Lock()

    def __len__(self) -> int:
        return len(self.index)

    def engine(self) -> Engine:
        """Return an engine over the index as it is now."""
        return Engine(self.model, self.index, self.settings)

    def passage(self, passage_id: str) -> Passage:
        """Return a passage.

        Raises:
            ApiError: there is none of this id.
        """
        try:
            return self.index.passage(passage_id)
        except InputError as error:
            raise ApiError(404, str(error), "passage_id", "no_such_passage") from None

    async def add(self, runner: Runner, passages: Sequence[Passage], replace: bool) -> None:
        """Embed passages and add them, whole or not at all.

        Args:
            runner: embeds them, and answers over the new corpus from then on.
            passages: with ids of their own.
            replace: whether those with the same ids give way.

        Raises:
            InputError: an id is taken, and `replace` is false; or two have one id.
        """
        vectors = await embed_passages(runner, [p.rendered for p in passages])
        await self._change(runner, lambda index: (index.replace if replace else index.add)(passages, vectors))

    async def delete(self, runner: Runner, passage_id: str) -> None:
        """Take a passage out.

        Raises:
            ApiError: there is none of this id.
        """
        self.passage(passage_id)
        await self._change(runner, lambda index: index.delete([passage_id]))

    async def watch(self, runner: Runner, seconds: float) -> None:
        """Take up what others change in the index folder, until cancelled; looks every so many seconds."""
        while isinstance(self.index, FaissIndex):
            await asyncio.sleep(seconds)
            try:
                if await asyncio.to_thread(IndexManifest.read, Path(self.place)) != self.index.manifest:
                    await self._change(runner, None)
                    logger.warning("took up the changed index: %s passages", f"{len(self):,}")
            except CosupError as error:
                logger.warning("the index on disk cannot be taken up: %s", error)

    async def _change(self, runner: Runner, change: Callable[[LiveIndex], None] | None) -> None:
        async with self._changing:
            self.index = await asyncio.to_thread(self._changed, change)
            await runner.swap(self.engine())

    def _changed(self, change: Callable[[LiveIndex], None] | None) -> LiveIndex:
        """Return the index opened anew, with a change made to it."""
        index = self._opened() if isinstance(self.index, FaissIndex) else self.index
        if change is not None:
            change(index)
        return index

    def _opened(self) -> LiveIndex:
        return open_index(self.place, self.model.fingerprint)


async def embed_passages(runner: Runner, texts: Sequence[str]) -> Vectors:
    """Embed texts as the pair embeds passages: [len(texts), D] float32."""
    return await in_pieces(runner, texts, lambda engine, piece: _passage_vectors(engine.model, piece))


async def embed_queries(runner: Runner, texts: Sequence[str]) -> Vectors:
    """Embed questions as the pair asks for passages: [len(texts), D] float32.

    Raises:
        InputError: one does not fit into the context.
    """
    return await in_pieces(
        runner, texts, lambda engine, piece: query_vectors(engine, [Question("input", text) for text in piece]).numpy()
    )


async def in_pieces(runner: Runner, texts: Sequence[str], embed: Callable[[Engine, Sequence[str]], Vectors]) -> Vectors:
    """Embed texts a few at a time, so that answers go on in between: [len(texts), D]."""
    found = []
    for start in range(0, len(texts), PIECE):
        found.append(await runner.call(partial(_embed_piece, embed, texts[start : start + PIECE])))
    return np.concatenate(found)


def _embed_piece(embed: Callable[[Engine, Sequence[str]], Vectors], piece: Sequence[str], engine: Engine) -> Vectors:
    return embed(engine, piece)


def _passage_vectors(model: CoSupervisedModel, texts: Sequence[str]) -> Vectors:
    vectors: Vectors = model.embed_ids(model.encode_passages(texts)).float().cpu().numpy()
    return vectors
