"""How answers are written."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cosup.errors import UsageError
from cosup.index.filters import Filter


@dataclass(frozen=True)
class GenerationSettings:
    """Settings of an answer; every question of a batch may have its own.

    Attributes:
        max_new_tokens: tokens the model writes itself, passages not counted.
        max_length: tokens of the whole sequence; None takes the pair's own.
        do_sample: sample instead of taking the likeliest token.
        temperature: of sampling (the paper's 0.7); 0 takes the likeliest token.
        top_p: nucleus of sampling (the paper's 0.9).
        seed: of sampling; every question draws from its own stream, whatever the batch.
        ret_first: force `[Ret]` as the first token.
        ctx_truncate: drop a passage from the context once its claim is closed; later text sees claims only.
        max_retrievals: `[Ret]` is banned after this many.
        top_k: hits kept for each `[Ret]`.
        read: how many of them are read, best first; the claim is cited to all that were read.
        min_score: similarity below which a hit is not read; where none is left nothing is cited, and the text goes on.
        distinct: never read a passage twice in one answer.
        filter: what a passage's metadata must meet.
        beam: partial answers kept at each `[Ret]`; 1 keeps the first hit alone. See `beam.py`.
        beam_passages: hits that each of them is continued with.
        beam_retrieval_weight: of the retrieval's score beside the text's likelihood.
        draft_tokens: tokens at most that are copied from what was read and checked in one step, greedy or sampled; it
            changes how fast an answer is written, not what is written (up to rounding). 0 writes token by token.
    """

    max_new_tokens: int = 256
    max_length: int | None = None
    do_sample: bool = False
    temperature: float = 0.7
    top_p: float = 0.9
    seed: int = 0
    ret_first: bool = False
    ctx_truncate: bool = False
    max_retrievals: int = 8
    top_k: int = 10
    read: int = 1
    min_score: float | None = None
    distinct: bool = False
    filter: Filter | None = None
    beam: int = 1
    beam_passages: int = 2
    beam_retrieval_weight: float = 1.0
    draft_tokens: int = 16

    def __post_init__(self) -> None:
        for name in (*_AT_LEAST_1, "draft_tokens"):
            least = 0 if name == "draft_tokens" else 1
            if getattr(self, name) < least:
                raise UsageError(f"{name} is {getattr(self, name)}; expected at least {least}")
        if self.max_length is not None and self.max_length < 1:
            raise UsageError(f"max_length is {self.max_length}; expected at least 1")
        if not 0 <= self.temperature < math.inf:
            raise UsageError(f"temperature is {self.temperature}; expected a number of at least 0")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p is {self.top_p}; expected a number above 0 and at most 1")
        if self.min_score is not None and not math.isfinite(self.min_score):
            raise UsageError(f"min_score is {self.min_score}; expected a number")
        self._check_reading()

    def _check_reading(self) -> None:
        if self.read > self.top_k:
            raise UsageError(f"read is {self.read}, more than top_k {self.top_k}; raise top_k")
        if self.beam > 1 and self.do_sample:
            raise UsageError("beam above 1 is a search for the best answer; leave out do_sample")
        if self.beam > 1 and self.read > 1:
            raise UsageError("beam above 1 reads one passage at a time; leave out read")
        if not 0 <= self.beam_retrieval_weight < math.inf:
            raise UsageError(f"beam_retrieval_weight is {self.beam_retrieval_weight}; expected a number of at least 0")


_AT_LEAST_1 = ("max_new_tokens", "max_retrievals", "top_k", "read", "beam", "beam_passages")
