"""One row of the engine: a small state machine over token ids.

    WRITING --[Ret]--> RETRIEVING --passages [Cs]--> CLAIMING --[Ce]--> WRITING --EOS--> DONE

`[Cs]` is never the model's to write: the engine forces it after the passage. A `[Ret]` inside a claim closes the claim
first, and so does the end (paper, section 3, "Inference"). Tokens to be fed wait in `pending`; `context` is what the
model has seen and keeps.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto

import torch

from cosup.generation.drafts import Drafter
from cosup.generation.settings import GenerationSettings
from cosup.records import Hit, Question
from cosup.tokens import ControlTokenIds

CLAIM_ROOM = 32  # tokens kept free after a passage, so that there is room for its claim


class Stage(Enum):
    """What a row is doing."""

    WRITING = auto()
    RETRIEVING = auto()
    CLAIMING = auto()
    DONE = auto()


@dataclass
class Piece:
    """Token ids of a stretch of output; `hits` where it follows a retrieval, of which `read` were read.

    Where none was read, the piece stays empty: the row has abstained from citing, and the piece after it holds in
    `before` the ids of the text that it goes on with.
    """

    ids: list[int] = field(default_factory=list)
    hits: tuple[Hit, ...] | None = None
    read: int = 0
    before: tuple[int, ...] = ()


@dataclass
class Likelihood:
    """Summed log-probability of what a row has written, and of the passages it was given; see `beam.py`."""

    text: float = 0.0
    tokens: int = 0
    retrieval: float = 0.0


class Row:
    """A question on its way to an answer.

    Args:
        question: what is asked.
        prompt: its prompt's token ids.
        control: ids of the control tokens.
        settings: how to write.
        max_length: tokens of the whole sequence.
        drafter: guesses what comes next; None guesses nothing.
    """

    def __init__(
        self,
        question: Question,
        prompt: Sequence[int],
        control: ControlTokenIds,
        settings: GenerationSettings,
        max_length: int,
        drafter: Drafter | None = None,
    ) -> None:
        self.question = question
        self.control = control
        self.settings = settings
        self.max_length = max_length
        self.drafter = drafter
        self.stage = Stage.WRITING
        self.pieces: list[Piece] = [Piece()]
        self.context: list[int] = []
        self.pending: list[int] = [*prompt, control.ret] if settings.ret_first else list(prompt)
        self.drafts: list[int] = []
        self.retrievals = 0
        self.read_tokens = 0  # of passages, whether or not the context still has them
        self.new_tokens = 0
        self.finish_reason = ""
        self.ret_position = 0
        self.state: torch.Tensor | None = None
        self.origin = id(self)  # a fork keeps that of the row it comes from
        self.likelihood = Likelihood()
        self._abstained = False
        # A CPU generator reads the low 32 bits of its seed alone.
        self.random = torch.Generator().manual_seed(zlib.crc32(f"{settings.seed} {question.id}".encode()))

    # -- feeding ---------------------------------------------------------------------------------------------------

    def take(self, room: int) -> list[int]:
        """Hand over at most `room` of the tokens to be fed next, and a guess where it takes them all.

        The context holds the tokens taken, but not the guess.
        """
        taken, self.pending = self.pending[:room], self.pending[room:]
        self.context += taken
        self.drafts = [] if self.pending or not taken else self._guess(room - len(taken))
        return taken + self.drafts

    def _guess(self, room: int) -> list[int]:
        if self.drafter is None or not self.context or self.context[-1] == self.control.ret:
            return []
        room = min(
            room,
            self.max_length - len(self.context) - 1,
            self.settings.max_new_tokens - self.new_tokens - 1,
        )
        fresh = not self.new_tokens and self.stage is Stage.WRITING and self.control.ret not in self.banned()
        guess = [self.control.ret] if fresh else self.drafter.guess(self.context, self.stage is Stage.CLAIMING)
        return guess[: max(0, room)]

    def react(self, states: torch.Tensor, choose: Callable[[Row, int], int]) -> None:
        """Go on from the states at the last fed token and at the guesses after it.

        Afterwards the cache must hold the context alone.

        Args:
            states: [1 + guesses, H].
            choose: gives the next token after the state of a number.
        """
        drafts, self.drafts = self.drafts, []
        right = 0
        for number in range(len(drafts) + 1):
            if self.context[-1] == self.control.ret:
                self.stage, self.state = Stage.RETRIEVING, states[number]
                self.ret_position = len(self.context) - 1
                break
            self._write(choose(self, number))
            if number == len(drafts) or self.stage is Stage.DONE or self.pending != [drafts[number]]:
                break
            self.context.append(drafts[number])
            self.pending = []
            right += 1
        if self.drafter is not None:
            self.drafter.told(right, len(drafts))

    # -- retrieving ------------------------------------------------------------------------------------------------

    def read(self, hits: Sequence[Hit], passages: Sequence[Sequence[int]]) -> None:
        """Go on with the passages of the first hits; they are cut where the context has no room for them and a claim.

        A passage of which nothing is left then does not count as read.

        Args:
            hits: what the search found, best first.
            passages: token ids of the first hits' passages.
        """
        room = self.max_length - len(self.context) - 1 - CLAIM_ROOM
        self.retrievals += 1
        tokens, read = list[int](), 0
        for passage in passages:
            if len(tokens) < room:
                tokens += passage[: room - len(tokens)]
                read += 1
        self.pieces.append(Piece(hits=tuple(hits), read=read))
        if not read:
            self.finish("context")
            return
        self.stage, self.state = Stage.CLAIMING, None
        self.read_tokens += len(tokens)
        self.pending = [*tokens, self.control.cs]

    def abstain(self, hits: Sequence[Hit]) -> None:
        """Read nothing: take `[Ret]` back and go on writing something else."""
        self.retrievals += 1
        self.stage, self.state, self._abstained = Stage.WRITING, None, True
        self.pieces.append(Piece(hits=tuple(hits)))
        self._cut(self.ret_position)
        self.pending = [self.context.pop()]  # fed again for its state

    @property
    def read_ids(self) -> set[str]:
        """Ids of the passages that were read so far."""
        return {hit.passage_id for p in self.pieces for hit in (p.hits or ())[: p.read]}

    @property
    def claims(self) -> int:
        """Searches so far after which something was read."""
        return sum(p.read > 0 for p in self.pieces)

    # -- writing ---------------------------------------------------------------------------------------------------

    def banned(self) -> list[int]:
        """Control tokens that may not come next."""
        claiming = self.stage is Stage.CLAIMING
        banned = [self.control.cs] if claiming else [self.control.cs, self.control.ce]
        spent = self.retrievals >= self.settings.max_retrievals or self._abstained
        if spent or (claiming and self.settings.ctx_truncate):
            banned.append(self.control.ret)
        return banned

    def finish(self, reason: str) -> None:
        """End the row."""
        self.stage, self.state, self.pending, self.finish_reason = Stage.DONE, None, [], reason

    def fork(self) -> Row:
        """Return a copy that goes on by itself."""
        other = copy.copy(self)
        other.pieces = [replace(p, ids=list(p.ids)) for p in self.pieces]
        other.context, other.pending, other.drafts = list(self.context), list(self.pending), []
        other.likelihood = copy.copy(self.likelihood)
        other.drafter = None if self.drafter is None else self.drafter.fork()
        other.random = torch.Generator()
        other.random.set_state(self.random.get_state())
        return other

    def _write(self, token: int) -> None:
        control = self.control
        if token == control.eos:
            self.finish("eos")
            return
        self.new_tokens += 1
        if token == control.ret:
            closing = [control.ce] if self.stage is Stage.CLAIMING else []
            self.stage, self.pending = Stage.WRITING, [*closing, control.ret]
        elif token == control.ce:
            self._end_claim()
        else:
            self._abstained = False
            if self.stage is Stage.WRITING and self.pieces[-1].hits is not None:
                self.pieces.append(Piece(before=self._interrupted()))
            self.pieces[-1].ids.append(token)
            self.pending = [token]
        if self.new_tokens >= self.settings.max_new_tokens:
            self.finish("length")
        elif len(self.context) + len(self.pending) >= self.max_length:
            self.finish("context")

    def _interrupted(self) -> tuple[int, ...]:
        """Return the ids of the text after which the row has abstained, if it just has."""
        last = next(p for p in reversed(self.pieces) if p.hits is None or p.read)
        return () if last.read else (*last.before, *last.ids)

    def _end_claim(self) -> None:
        claim = self.pieces[-1].ids
        self.stage, self.pending = Stage.WRITING, [self.control.ce]
        if self.settings.ctx_truncate:
            self._cut(self.ret_position)
            self.pending = [self.control.cs, *claim, self.control.ce]

    def _cut(self, start: int) -> None:
        del self.context[start:]
        if self.drafter is not None:
            self.drafter.forget()
