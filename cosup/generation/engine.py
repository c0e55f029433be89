"""The engine: writes, stops at `[Ret]`, retrieves with the model's own state, reads, and goes on.

Questions become rows (`rows.py`) that share each step of the generator (`scheduler.py`) over one KV cache (`cache.py`);
nothing that a row has read or written is ever encoded again, but for a claim whose passage is dropped (`ctx_truncate`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from functools import cache

import torch
from typing_extensions import TypeIs

from cosup.errors import InputError
from cosup.generation.cache import SlotRows, cache_class
from cosup.generation.drafts import Drafter
from cosup.generation.events import HALF_CHARACTER, Event, EventStream, answer_of
from cosup.generation.prompts import Prompts
from cosup.generation.retrieval import Retriever, retriever_for
from cosup.generation.rows import Piece, Row
from cosup.generation.scheduler import Codec, Scheduler
from cosup.generation.settings import GenerationSettings
from cosup.index.base import VectorIndex
from cosup.modeling import CoSupervisedModel
from cosup.records import Answer, Question

_STOPS = (".", "!", "?", "\u3002", "\uff01", "\uff1f")


class Engine:
    """Answers questions with passages retrieved in the middle of the text.

    Args:
        model: the pair; put into evaluation mode.
        index: an index that the pair's embedder made, or a `Retriever` of another kind.
        settings: how to write, where a call does not say otherwise.

    Raises:
        InputError: the index was made by another embedder.
        UsageError: `max_length` is more than the model's context.
    """

    def __init__(
        self,
        model: CoSupervisedModel,
        index: VectorIndex | Retriever,
        settings: GenerationSettings | None = None,
    ) -> None:
        self.model = model.eval()
        self.retriever: Retriever = retriever_for(model, index) if _is_index(index) else index
        self.settings = settings or GenerationSettings()
        self._prompts = Prompts(model, self.settings)
        self.encoder = self._prompts.encoder
        control = model.control
        meant = {control.eos, control.ret, control.ce}
        forbidden = sorted(i for i in self.encoder.text.forbidden if i not in meant)
        self._forbidden = torch.tensor(forbidden, dtype=torch.long, device=model.device)
        self._cache = cache_class(model.generator)
        self._ends_sentence = _sentence_ends(model)

    def ask(self, question: str, settings: GenerationSettings | None = None) -> Answer:
        """Answer one question that is a text; see `generate`, which answers many at once."""
        return self.generate([Question("asked", question)], 1, settings)[0]

    def generate(
        self, questions: Sequence[Question], batch_size: int = 32, settings: GenerationSettings | None = None
    ) -> list[Answer]:
        """Answer many questions; the same answers as one by one, in the order of the questions.

        Args:
            questions: what is asked; `candidates` limit a question's search.
            batch_size: questions at once.
            settings: how to write; None takes the engine's.

        Raises:
            InputError: a question does not fit into the context, or its candidates are empty.
        """
        found: dict[int, Answer] = dict(self.finished(questions, batch_size, settings))
        return [found[number] for number in range(len(questions))]

    def finished(
        self, questions: Sequence[Question], batch_size: int = 32, settings: GenerationSettings | None = None
    ) -> Iterator[tuple[int, Answer]]:
        """Answer many questions; yield each answer with its question's number as soon as it is there.

        Args and errors are those of `generate`; every question is checked first.
        """
        rows = [self.row(question, settings) for question in questions]
        numbers = {id(row): number for number, row in enumerate(rows)}
        scheduler = self.scheduler(batch_size)
        for row in rows:
            scheduler.add(row)
        while scheduler.busy:
            for row in scheduler.step():
                yield numbers[row.origin], self.answer(row)

    def stream(self, question: Question, settings: GenerationSettings | None = None) -> Iterator[Event]:
        """Answer one question and give what happens as it happens; `Finished` comes last.

        With a beam, everything comes at the end.

        Raises:
            InputError: see `generate`.
        """
        row = self.row(question, settings)
        scheduler = self.scheduler(1)
        scheduler.add(row)
        news = self.events(row)
        while scheduler.busy:
            done = scheduler.step()
            if row.settings.beam == 1:
                yield from news.news()
            elif done:
                yield from self.events(done[0]).news()

    def check(self, question: Question) -> None:
        """Check a question before any work is done.

        Raises:
            InputError: it does not fit into the context, or its candidates are empty or unknown.
        """
        self.row(question)
        for passage_id in question.candidates or ():
            self.retriever.passage(passage_id)

    # -- for those who drive many answers themselves ---------------------------------------------------------------

    def searching_with(self, retriever: Retriever) -> Engine:
        """Return this engine with another retriever, such as one that watches its own; the model is the same."""
        other = copy(self)
        other.retriever = retriever
        return other

    def scheduler(self, most: int, chunk_tokens: int = 512, bear_failures: bool = False) -> Scheduler:
        """Return an empty batch for at most so many rows at a time; add rows to it and step it. See `Scheduler`."""
        cache = self._cache(self.model.generator, most)
        codec = Codec(self._passage, self._decode)
        return Scheduler(self.model, self.retriever, codec, self._forbidden, cache, chunk_tokens, bear_failures)

    def row(self, question: Question, settings: GenerationSettings | None = None) -> Row:
        """Return a question as a row.

        Raises:
            InputError: it does not fit into the context, or its candidates are empty.
            UsageError: `max_length` is more than the model's context.
        """
        settings = settings or self.settings
        length = self._prompts.length(settings)
        prompt = self._prompts.ids(question, length)
        if question.candidates is not None and not question.candidates:
            raise InputError(f"question '{question.id}' has an empty list of candidates; leave it out to search all")
        return Row(question, prompt, self.model.control, settings, length, self._drafter(settings))

    def prompt(self, question: Question) -> list[int]:
        """Return the token ids of a question's prompt with a `[Ret]` behind it. Raises `InputError`: it is too long."""
        return [*self._prompts.ids(question, self._prompts.length(self.settings)), self.model.control.ret]

    def events(self, row: Row) -> EventStream:
        """Return what tells the events of a row."""
        return EventStream(row, self._decode, self.retriever.passage)

    def answer(self, row: Row) -> Answer:
        """Return the answer of a row that is done."""
        return answer_of(row, self._decode)

    def _drafter(self, settings: GenerationSettings) -> Drafter | None:
        if not settings.draft_tokens or self._cache is not SlotRows:  # padded rows would all be as long as the guess
            return None
        control = self.model.control
        ids = (control.ret, control.cs, control.ce, control.eos)
        return Drafter(ids, settings.draft_tokens, self._ends_sentence, control.ce)

    def _passage(self, passage_id: str) -> list[int]:
        return self.encoder.passage(self.retriever.passage(passage_id))

    def _decode(self, piece: Piece) -> str:
        """Return a piece's text; where it goes on with text from before an abstention, what it adds to that."""
        if not piece.before:
            return self._text(piece.ids)
        before = self._text(list(piece.before)).rstrip(HALF_CHARACTER)
        return self._text([*piece.before, *piece.ids])[len(before) :]

    def _text(self, ids: list[int]) -> str:
        return _text_of(self.model, ids)


def _text_of(model: CoSupervisedModel, ids: list[int]) -> str:
    tokenizer = model.generator_tokenizer
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _sentence_ends(model: CoSupervisedModel) -> Callable[[int], bool]:
    """Return what tells whether a token ends a sentence; it knows no engine, which then goes with its last user."""

    @cache
    def ends(token: int) -> bool:
        return _text_of(model, [token]).rstrip().endswith(_STOPS)

    return ends


def _is_index(source: VectorIndex | Retriever) -> TypeIs[VectorIndex]:
    return hasattr(source, "embedder_fingerprint")
