"""The yardstick of answering: inference as the paper's code does it, written anew from its description.

It keeps what costs speed and memory there: one question at a time; token by token through the whole model, with every
layer's hidden states kept and logits at every position; the whole context read again from scratch after each
retrieval; and an exact index built anew for every question from Python lists.

What is written is what cosup's engine writes: greedy, with the same forced and banned tokens (paper, section 3), so
that the same checkpoint gives the same text in float32.

Shapes: T tokens fed at once, H width, V vocabulary, N passages, D width of the sequence space.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import faiss
import numpy as np
import torch

from cosup.data.encoding import ExampleEncoder
from cosup.errors import UsageError
from cosup.generation.citations import Part, compose
from cosup.generation.settings import GenerationSettings
from cosup.modeling import CoSupervisedModel
from cosup.records import Answer, Hit, Passage, Question, Retrieval

CLAIM_ROOM = 32  # tokens that cosup's engine keeps free after a passage


@dataclass(frozen=True)
class Corpus:
    """What every question's index is built from.

    Attributes:
        passages: N passages.
        vectors: their embeddings, N lists of D numbers.
    """

    passages: list[Passage]
    vectors: list[list[float]]

    @classmethod
    def of(cls, model: CoSupervisedModel, passages: Sequence[Passage], batch_size: int = 32) -> Corpus:
        """Embed passages with a pair."""
        vectors: list[list[float]] = []
        for start in range(0, len(passages), batch_size):
            rows = [model.encode_passage(p.rendered) for p in passages[start : start + batch_size]]
            vectors += model.embed_ids(rows).tolist()
        return cls(list(passages), vectors)


@dataclass
class Counts:
    """What a model was given to read.

    Attributes:
        forwards: forward passes.
        tokens: tokens in them, those that are read again included.
    """

    forwards: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Timed:
    """Answers and what they took.

    Attributes:
        answers: in the order of the questions.
        seconds: wall time of each.
        counts: what the generator read for all of them.
    """

    answers: list[Answer]
    seconds: list[float]
    counts: Counts

    @property
    def questions_per_second(self) -> float:
        """Over all questions."""
        return len(self.answers) / sum(self.seconds)


def answer_all(
    model: CoSupervisedModel, corpus: Corpus, questions: Sequence[Question], settings: GenerationSettings
) -> Timed:
    """Answer questions one after another and take the time of each."""
    answers, seconds, counts = [], [], Counts()
    for question in questions:
        begun = time.perf_counter()
        answers.append(answer(model, corpus, question, settings, counts))
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        seconds.append(time.perf_counter() - begun)
    return Timed(answers, seconds, counts)


def answer(
    model: CoSupervisedModel,
    corpus: Corpus,
    question: Question,
    settings: GenerationSettings,
    counts: Counts | None = None,
) -> Answer:
    """Answer one question.

    Args:
        model: the pair.
        corpus: what its index is built from; `candidates` of the question limit it.
        question: what is asked.
        settings: as for cosup's engine; sampling is not offered.
        counts: adds up what the generator reads.

    Raises:
        UsageError: sampling is asked for.
    """
    if settings.do_sample:
        raise UsageError("the yardstick is greedy; leave do_sample out")
    return _Run(model, corpus, question, settings, counts or Counts()).to_the_end()


@dataclass
class _Claim:
    """Where an open claim stands: its `[Ret]` in the context, and what has been written of it."""

    ret_position: int
    ids: list[int] = field(default_factory=list)


class _Run:
    """One question on its way to its answer."""

    def __init__(
        self, model: CoSupervisedModel, corpus: Corpus, question: Question, settings: GenerationSettings, counts: Counts
    ) -> None:
        own = model.settings
        self.model, self.question, self.settings, self.counts = model.eval(), question, settings, counts
        self.max_length = settings.max_length or own.max_length
        self.encoder = ExampleEncoder(
            model.generator_tokenizer, model.control, own.prompt, self.max_length, own.max_passage_length
        )
        self.passages, self.index = _build_index(corpus, question)
        self.context = self.encoder.prompt(question.question, question.instruction)
        self.cache: object = None
        self.read = 0  # tokens of the context that the cache holds
        self.parts: list[tuple[list[int], tuple[Hit, ...] | None]] = [([], None)]
        self.claim: _Claim | None = None
        self.unread: tuple[Retrieval, ...] = ()  # a search after which the context had no room
        self.retrievals = self.new_tokens = 0
        meant = {model.control.eos, model.control.ret, model.control.ce}
        self.never = sorted(set(self.encoder.text.forbidden) - meant)

    def to_the_end(self) -> Answer:
        """Write until something ends it."""
        reason = ""
        if self.settings.ret_first:
            self.context.append(self.model.control.ret)
            reason = self._retrieve()
        while not reason:
            reason = self._write(self._next_token())
        parts = [Part(self._decode(ids), None if hits is None else Retrieval(0, hits)) for ids, hits in self.parts]
        parts += [Part(retrieval=retrieval) for retrieval in self.unread]
        return compose(self.question, parts, reason)

    # -- the model -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _feed(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Read what of the context was not read yet; return logits [V] and state [H] at its end."""
        ids = torch.tensor([self.context[self.read :]], device=self.model.device)
        output = self.model.generator(
            input_ids=ids, past_key_values=self.cache, use_cache=True, output_hidden_states=True
        )
        self.cache, self.read = output.past_key_values, len(self.context)
        self.counts.forwards += 1
        self.counts.tokens += ids.shape[1]
        return output.logits[0, -1], output.hidden_states[-1][0, -1]

    def _forget(self) -> None:
        """Drop all that was read: the context is read again from its beginning."""
        self.cache, self.read = None, 0

    def _next_token(self) -> int:
        logits, _ = self._feed()
        logits = logits.float()
        logits[self.never + self._banned()] = -torch.inf
        return int(logits.argmax())

    def _banned(self) -> list[int]:
        control = self.model.control
        banned = [control.cs] if self.claim else [control.cs, control.ce]
        spent = self.retrievals >= self.settings.max_retrievals
        return banned + [control.ret] * (spent or bool(self.claim and self.settings.ctx_truncate))

    # -- what is written -------------------------------------------------------------------------------------------

    def _write(self, token: int) -> str:
        """Add a token that the model chose; return why the answer ends with it, or nothing."""
        control = self.model.control
        if token == control.eos:
            return "eos"
        self.new_tokens += 1
        if token == control.ret:
            self.context += [control.ce, control.ret] if self.claim else [control.ret]
            self.claim = None
        elif token == control.ce and self.claim:
            self._close(self.claim)
        else:
            self._add(token)
        if self.new_tokens >= self.settings.max_new_tokens:
            return "length"
        if len(self.context) >= self.max_length:
            return "context"
        return self._retrieve() if token == control.ret else ""

    def _add(self, token: int) -> None:
        self.context.append(token)
        if self.claim:
            self.claim.ids.append(token)
        elif self.parts[-1][1] is not None:
            self.parts.append(([], None))
        self.parts[-1][0].append(token)

    def _close(self, claim: _Claim) -> None:
        """End a claim; under `ctx_truncate`, `[Ret]` and the passage are cut out and the rest is read again."""
        control = self.model.control
        self.claim = None
        if self.settings.ctx_truncate:
            self.context[claim.ret_position :] = [control.cs, *claim.ids]
            self._forget()
        self.context.append(control.ce)

    def _retrieve(self) -> str:
        """Search with the state at `[Ret]`, which ends the context, and splice the best passage."""
        _, state = self._feed()
        hits = self._search(state)
        room = self.max_length - len(self.context) - 1 - CLAIM_ROOM
        if room < 1:
            self.unread = (Retrieval(0, hits, 0),)
            return "context"
        self.retrievals += 1
        self.claim = _Claim(len(self.context) - 1)
        self.parts.append(([], hits))
        best = next(p for p in self.passages if p.id == hits[0].passage_id)
        self.context += [*self.encoder.passage(best)[:room], self.model.control.cs]
        self._forget()
        return ""

    def _search(self, state: torch.Tensor) -> tuple[Hit, ...]:
        query = self.model.to_query(state[None]).cpu().numpy()
        scores, rows = self.index.search(query, min(self.settings.top_k, len(self.passages)))
        return tuple(Hit(self.passages[r].id, float(s)) for r, s in zip(rows[0], scores[0], strict=True))

    def _decode(self, ids: list[int]) -> str:
        words = self.model.generator_tokenizer
        return str(words.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _build_index(corpus: Corpus, question: Question) -> tuple[list[Passage], faiss.IndexFlatIP]:
    """Build a question's index from lists of numbers."""
    wanted = None if question.candidates is None else set(question.candidates)
    chosen = [i for i, p in enumerate(corpus.passages) if wanted is None or p.id in wanted]
    vectors = np.array([corpus.vectors[i] for i in chosen], dtype=np.float32)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return [corpus.passages[i] for i in chosen], index
