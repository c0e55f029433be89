"""The engine: writes, stops at `[Ret]`, retrieves with the model's own state, reads, and goes on.

A batch is a set of rows (`rows.py`) over one KV cache (`cache.py`). Rows write together; those that reach `[Ret]` wait
until no row can write, then all are searched in one call and their passages are read together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from typing_extensions import TypeIs

from cosup.data.encoding import ExampleEncoder
from cosup.errors import InputError, UsageError
from cosup.generation.cache import RowCache
from cosup.generation.citations import Part, compose
from cosup.generation.retrieval import RetrievalRequest, Retriever, retriever_for, text_so_far
from cosup.generation.rows import CLAIM_ROOM, Piece, Row, Stage
from cosup.generation.settings import GenerationSettings
from cosup.index.base import VectorIndex
from cosup.modeling import CoSupervisedModel
from cosup.records import Answer, Hit, Question, Retrieval


@dataclass(frozen=True)
class TextDelta:
    """New text of an answer; `claim` tells whether it stands inside a citation."""

    text: str
    claim: bool


@dataclass(frozen=True)
class Retrieved:
    """A `[Ret]` was answered: the hits, best first; the first one's passage is being read."""

    hits: tuple[Hit, ...]


@dataclass(frozen=True)
class Finished:
    """The answer is complete."""

    answer: Answer


Event = TextDelta | Retrieved | Finished


class Engine:
    """Answers questions with passages retrieved in the middle of the text.

    Args:
        model: the pair; put into evaluation mode.
        index: an index that the pair's embedder made, or a `Retriever` of another kind.
        settings: how to write.

    Raises:
        UsageError: the index was made by another embedder, or `max_length` is more than the model's context.
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
        self.max_length = self.settings.max_length or model.settings.max_length
        limit = getattr(model.generator.config, "max_position_embeddings", None)
        if limit is not None and self.max_length > limit:
            raise UsageError(f"max_length is {self.max_length}; the generator has {limit} positions")
        own = model.settings
        self.encoder = ExampleEncoder(
            model.generator_tokenizer, model.control, own.prompt, self.max_length, own.max_passage_length
        )
        control = model.control
        meant = {control.eos, control.ret, control.ce}
        banned = sorted(i for i in self.encoder.text.forbidden if i not in meant)
        self._banned = torch.tensor(banned, dtype=torch.long, device=model.device)

    def generate(self, questions: Sequence[Question], batch_size: int = 32) -> list[Answer]:
        """Answer many questions; the same answers as one by one, in the order of the questions.

        Args:
            questions: what is asked; `candidates` limit a question's search.
            batch_size: questions at once.

        Raises:
            InputError: a question does not fit into the context, or its candidates are empty.
        """
        return [answer for batch in self.batches(questions, batch_size) for answer in batch]

    def batches(self, questions: Sequence[Question], batch_size: int = 32) -> Iterator[list[Answer]]:
        """Answer many questions, a batch of answers at a time; see `generate`. Every question is checked first."""
        rows = [self._row(q) for q in questions]
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            for _ in self._run(batch):
                pass
            yield [self._answer(row) for row in batch]

    def check(self, question: Question) -> None:
        """Check a question before any work is done.

        Raises:
            InputError: it does not fit into the context, or its candidates are empty or unknown.
        """
        self._row(question)
        for passage_id in question.candidates or ():
            self.retriever.passage(passage_id)

    def stream(self, question: Question) -> Iterator[Event]:
        """Answer one question and give what happens as it happens; `Finished` comes last.

        Raises:
            InputError: see `generate`.
        """
        row = self._row(question)
        piece, shown = 0, ""
        for _ in self._run([row]):
            while True:
                text = self._decode(row.pieces[piece])
                if len(text) > len(shown) and not text.endswith("\ufffd"):
                    yield TextDelta(text[len(shown) :], row.pieces[piece].hits is not None)
                    shown = text
                if piece + 1 == len(row.pieces):
                    break
                piece, shown = piece + 1, ""
                hits = row.pieces[piece].hits
                if hits is not None:
                    yield Retrieved(hits)
        yield Finished(self._answer(row))

    def _row(self, question: Question) -> Row:
        prompt = self.encoder.prompt(question.question, question.instruction)
        room = self.max_length - CLAIM_ROOM - 2
        if len(prompt) > room:
            raise InputError(
                f"question '{question.id}' has {len(prompt)} tokens with its prompt; the context of {self.max_length} "
                f"leaves room for {max(0, room)}: shorten it"
            )
        if question.candidates is not None and not question.candidates:
            raise InputError(f"question '{question.id}' has an empty list of candidates; leave it out to search all")
        return Row(question, prompt, self.model.control, self.settings, self.max_length)

    @torch.inference_mode()
    def _run(self, rows: Sequence[Row]) -> Iterator[None]:
        """Drive rows to their ends, pausing after every step."""
        cache = RowCache(self.model.generator, len(rows))
        active = list(rows)
        while active:
            if not any(row.pending for row in active):
                self._retrieve(active)
                cache.compact()
            else:
                self._step(cache, active)
            yield
            alive = [i for i, row in enumerate(active) if row.stage is not Stage.DONE]
            if not alive:
                return
            if 4 * len(alive) <= 3 * len(active):
                cache.keep(alive)
                active = [active[i] for i in alive]

    def _step(self, cache: RowCache, rows: Sequence[Row]) -> None:
        """Feed every row's pending tokens and let each fed row react."""
        chunks = [row.take_pending() for row in rows]
        states = cache.feed(chunks)
        fed = [i for i, chunk in enumerate(chunks) if chunk]
        writers = [i for i in fed if rows[i].context[-1] != self.model.control.ret]
        tokens = dict(zip(writers, self._choose([rows[i] for i in writers], states[writers]), strict=True))
        for i in fed:
            if rows[i].fed(states[i], lambda _, i=i: tokens[i]):  # type: ignore[misc]
                cache.forget(i, rows[i].ret_position)

    def _choose(self, rows: Sequence[Row], states: torch.Tensor) -> list[int]:
        """Choose each row's next token."""
        if not rows:
            return []
        head = self.model.generator.get_output_embeddings()
        logits = head(states).float()
        logits[:, self._banned] = -torch.inf
        for i, row in enumerate(rows):
            logits[i, row.banned()] = -torch.inf
        if not self.settings.do_sample:
            return [int(t) for t in logits.argmax(dim=-1).tolist()]
        return [self._sample(row, row_logits) for row, row_logits in zip(rows, logits.cpu(), strict=True)]

    def _sample(self, row: Row, logits: torch.Tensor) -> int:
        """Draw from the smallest set of tokens whose probability reaches top_p."""
        scaled = (logits - logits.max()) / self.settings.temperature  # the best stays 0, however cold
        chances, order = torch.softmax(scaled, dim=-1).sort(descending=True)
        outside = chances.cumsum(dim=-1) - chances >= self.settings.top_p
        chances = chances.masked_fill(outside, 0.0)
        return int(order[torch.multinomial(chances, 1, generator=row.random)])

    def _retrieve(self, rows: Sequence[Row]) -> None:
        """Search for all waiting rows in one call and hand each its passage."""
        waiting = [row for row in rows if row.stage is Stage.RETRIEVING and row.state is not None]
        found = self.retriever.search([self._request(row) for row in waiting], self.settings.top_k)
        for row, hits in zip(waiting, found, strict=True):
            row.read(hits, self.encoder.passage(self.retriever.passage(hits[0].passage_id)))

    def _request(self, row: Row) -> RetrievalRequest:
        assert row.state is not None
        asked = row.question
        text = text_so_far(asked.question, [self._decode(piece) for piece in row.pieces])
        return RetrievalRequest(row.state, row.context, asked.candidates, question=asked.question, text=text)

    def _answer(self, row: Row) -> Answer:
        parts = [Part(self._decode(p), None if p.hits is None else Retrieval(0, p.hits)) for p in row.pieces]
        return compose(row.question, parts, row.finish_reason)

    def _decode(self, piece: Piece) -> str:
        tokenizer = self.model.generator_tokenizer
        return str(tokenizer.decode(piece.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _is_index(source: VectorIndex | Retriever) -> TypeIs[VectorIndex]:
    return hasattr(source, "embedder_fingerprint")
