"""The corpus that is searched: changed by requests or by others on disk, while answers go on with what they began with.

Every change opens the index anew beside the one in use, and a new engine over it takes the answers to come.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from cosup.errors import InputError
from cosup.generation.engine import Engine
from cosup.generation.searching import query_vectors
from cosup.generation.settings import GenerationSettings
from cosup.heap import give_back_freed_memory
from cosup.index.base import LiveIndex, Vectors
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
        self.model = model
        self.settings = settings
        self.index = open_index(place, model.fingerprint)
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
        """Embed passages and add them, whole or not at all; what is asked afterwards knows them.

        Args:
            runner: embeds them, and answers over the new corpus from then on.
            passages: with ids of their own.
            replace: whether those with the same ids give way.

        Raises:
            InputError: an id is taken, and `replace` is false; or two have one id.
        """
        vectors, _ = await embed_passages(runner, [p.rendered for p in passages])
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
        told = ""
        while True:
            await asyncio.sleep(seconds)
            try:
                if await self._take_up(runner):
                    logger.warning("took up the changed index: %s passages", f"{len(self):,}")
                told = ""
            except Exception as error:  # noqa: BLE001 - whatever it is now, the next look may find it mended
                if told != (told := str(error)):
                    logger.warning("the index on disk cannot be taken up: %s", error)

    async def _take_up(self, runner: Runner) -> bool:
        async with self._changing:
            index = self.index
            if not await asyncio.to_thread(index.changed):
                return False
            await self._use(runner, await asyncio.to_thread(index.reopened))
        return True

    async def _change(self, runner: Runner, change: Callable[[LiveIndex], None]) -> None:
        async with self._changing:
            await self._use(runner, await asyncio.to_thread(self._changed, change))

    async def _use(self, runner: Runner, index: LiveIndex) -> None:
        self.index = index
        await runner.swap(self.engine)
        await asyncio.to_thread(give_back_freed_memory)  # each thread that opened an index would keep what it freed

    def _changed(self, change: Callable[[LiveIndex], None]) -> LiveIndex:
        """Return the index opened anew, with a change made to it."""
        index = self.index.reopened()
        change(index)
        return index


async def embed_passages(runner: Runner, texts: Sequence[str]) -> tuple[Vectors, int]:
    """Embed texts as the pair embeds passages: [len(texts), D] float32, and how many tokens were read of them."""
    return await _in_pieces(runner, texts, _passage_vectors)


async def embed_queries(runner: Runner, texts: Sequence[str]) -> tuple[Vectors, int]:
    """Embed questions as the pair asks for passages: [len(texts), D] float32, and how many tokens were read of them.

    Raises:
        InputError: one does not fit into the context.
    """
    return await _in_pieces(runner, texts, _query_vectors)


async def _in_pieces(
    runner: Runner, texts: Sequence[str], embed: Callable[[Sequence[str], Engine], tuple[Vectors, int]]
) -> tuple[Vectors, int]:
    """Embed texts a few at a time, so that answers go on in between."""
    pieces = [texts[start : start + PIECE] for start in range(0, len(texts), PIECE)]
    found = await runner.call(*(partial(embed, piece) for piece in pieces))
    return np.concatenate([vectors for vectors, _ in found]), sum(tokens for _, tokens in found)


def _passage_vectors(texts: Sequence[str], engine: Engine) -> tuple[Vectors, int]:
    ids = engine.model.encode_passages(texts)
    return engine.model.embed_ids(ids).float().cpu().numpy(), sum(map(len, ids))


def _query_vectors(texts: Sequence[str], engine: Engine) -> tuple[Vectors, int]:
    questions = [Question("input", text) for text in texts]
    return query_vectors(engine, questions).numpy(), sum(len(engine.prompt(question)) for question in questions)
