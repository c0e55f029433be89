"""Passage dropout: examples whose generator does not get to read some of the passages it asked for."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from cosup.data.encoding import EncodedExample, Kind
from cosup.data.keys import stable_key


@dataclass
class PassageDropout:
    """Draws which passages are dropped: a function of seed, epoch and example alone, so that resuming meets it again.

    Attributes:
        share: of the passages, each by itself, from 0 to 1.
        seed: of the run.
        epoch: whose draw it is.
    """

    share: float
    seed: int
    epoch: int = 0

    def __call__(self, example: EncodedExample) -> EncodedExample:
        """Return the example without the passages that are drawn; itself where none is."""
        if self.share <= 0 or not example.ret_positions:
            return example
        draw = random.Random(stable_key("passage dropout", str(self.seed), str(self.epoch), example.example_id))
        dropped = [draw.random() < self.share for _ in example.ret_positions]
        return without_passages(example, dropped) if any(dropped) else example


def without_passages(example: EncodedExample, dropped: Sequence[bool]) -> EncodedExample:
    """Return an example without the tokens of some spliced passages; what each `[Ret]` must pick stays.

    Args:
        example: as encoded.
        dropped: for each `[Ret]`, whether its passage goes.
    """
    starts = set(example.ret_positions)
    number = list(accumulate(int(i in starts) for i in range(len(example.input_ids))))  # of [Ret] up to each token
    kept = [
        i for i, kind in enumerate(example.kinds) if not (kind == Kind.PASSAGE and number[i] and dropped[number[i] - 1])
    ]
    place = {old: new for new, old in enumerate(kept)}
    return replace(
        example,
        input_ids=[example.input_ids[i] for i in kept],
        kinds=[example.kinds[i] for i in kept],
        ret_positions=[place[i] for i in example.ret_positions],
    )
