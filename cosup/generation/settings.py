"""How answers are written."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cosup.errors import UsageError


@dataclass(frozen=True)
class GenerationSettings:
    """Settings of the engine.

    Attributes:
        max_new_tokens: tokens the model writes itself, passages not counted.
        max_length: tokens of the whole sequence; None takes the pair's own.
        do_sample: sample instead of taking the likeliest token.
        temperature: of sampling (the paper's 0.7).
        top_p: nucleus of sampling (the paper's 0.9).
        seed: of sampling; every question draws from its own stream, whatever the batch.
        ret_first: force `[Ret]` as the first token.
        ctx_truncate: drop a passage from the context once its claim is closed; later text sees claims only.
        max_retrievals: `[Ret]` is banned after this many.
        top_k: hits kept for each `[Ret]`; the first is read.
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

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "max_retrievals", "top_k"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.max_length is not None and self.max_length < 1:
            raise UsageError(f"max_length is {self.max_length}; expected at least 1")
        if not 0 < self.temperature < math.inf:
            raise UsageError(f"temperature is {self.temperature}; expected a number above 0")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p is {self.top_p}; expected a number above 0 and at most 1")
