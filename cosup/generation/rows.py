"""One row of the engine: a small state machine over token ids.

    WRITING --[Ret]--> RETRIEVING --passage [Cs]--> CLAIMING --[Ce]--> WRITING --EOS--> DONE

`[Cs]` is never the model's to write: the engine forces it after the passage. A `[Ret]` inside a claim closes the claim
first, and so does the end (paper, section 3, "Inference").
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

import torch

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
    """Token ids of a stretch of output, and the hits it follows where it is a claim."""

    ids: list[int] = field(default_factory=list)
    hits: tuple[Hit, ...] | None = None


class Row:
    """A question on its way to an answer.

    Args:
        question: what is asked.
        prompt: its prompt's token ids.
        control: ids of the control tokens.
        settings: how to write.
        max_length: tokens of the whole sequence.
    """

    def __init__(
        self,
        question: Question,
        prompt: Sequence[int],
        control: ControlTokenIds,
        settings: GenerationSettings,
        max_length: int,
    ) -> None:
        self.question = question
        self.control = control
        self.settings = settings
        self.max_length = max_length
        self.stage = Stage.WRITING
        self.pieces: list[Piece] = [Piece()]
        self.context: list[int] = []
        self.pending: list[int] = [*prompt, control.ret] if settings.ret_first else list(prompt)
        self.retrievals = 0
        self.new_tokens = 0
        self.finish_reason = ""
        self.ret_position = 0
        self.state: torch.Tensor | None = None
        # A CPU generator reads the low 32 bits of its seed alone.
        self.random = torch.Generator().manual_seed(zlib.crc32(f"{settings.seed} {question.id}".encode()))

    def take_pending(self) -> list[int]:
        """Hand over the tokens to be fed next; the context now holds them."""
        taken, self.pending = self.pending, []
        self.context += taken
        return taken

    def banned(self) -> list[int]:
        """Control tokens that may not come next."""
        claiming = self.stage is Stage.CLAIMING
        banned = [self.control.cs] if claiming else [self.control.cs, self.control.ce]
        spent = self.retrievals >= self.settings.max_retrievals
        if spent or (claiming and self.settings.ctx_truncate):
            banned.append(self.control.ret)
        return banned

    def fed(self, state: torch.Tensor, choose: Callable[[Row], int]) -> bool:
        """React to the hidden state at the last fed token: wait for a passage, or choose the next token.

        Returns:
            Whether the row's cache must forget everything from `ret_position` on before the next feeding.
        """
        if self.context[-1] == self.control.ret:
            self.stage, self.state = Stage.RETRIEVING, state
            self.ret_position = len(self.context) - 1
            return False
        return self._write(choose(self))

    def read(self, hits: Sequence[Hit], passage: Sequence[int]) -> None:
        """Go on with a passage; it is cut where the context has no room for it and its claim."""
        room = self.max_length - len(self.context) - 1 - CLAIM_ROOM
        if room < 1:
            self.finish("context")
            return
        self.retrievals += 1
        self.stage, self.state = Stage.CLAIMING, None
        self.pieces.append(Piece(hits=tuple(hits)))
        self.pending = [*passage[:room], self.control.cs]

    def finish(self, reason: str) -> None:
        """End the row."""
        self.stage, self.state, self.pending, self.finish_reason = Stage.DONE, None, [], reason

    def _write(self, token: int) -> bool:
        control = self.control
        forget = False
        if token == control.eos:
            self.finish("eos")
            return False
        self.new_tokens += 1
        if token == control.ret:
            closing = [control.ce] if self.stage is Stage.CLAIMING else []
            self.stage, self.pending = Stage.WRITING, [*closing, control.ret]
        elif token == control.ce:
            forget = self._end_claim()
        else:
            if self.stage is Stage.WRITING and self.pieces[-1].hits is not None:
                self.pieces.append(Piece())
            self.pieces[-1].ids.append(token)
            self.pending = [token]
        if self.new_tokens >= self.settings.max_new_tokens:
            self.finish("length")
        elif len(self.context) + len(self.pending) >= self.max_length:
            self.finish("context")
        return forget and self.stage is not Stage.DONE

    def _end_claim(self) -> bool:
        claim = self.pieces[-1].ids
        self.stage = Stage.WRITING
        if not self.settings.ctx_truncate:
            self.pending = [self.control.ce]
            return False
        del self.context[self.ret_position :]
        self.pending = [self.control.cs, *claim, self.control.ce]
        return True
