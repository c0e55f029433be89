"""The order of the training examples: a function of seed and epoch alone, so that resuming meets it again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

MEGABATCH = 32


class EpochSampler(Sampler[int]):
    """Random order, reshuffled every epoch; optionally in batches of similar length or with similar topics together.

    Args:
        count: number of examples.
        batch_size: examples a step, for grouping.
        seed: the order's seed.
        lengths: length of each example, to group by; None does not group.
        topics: topic of each example; examples of one topic then stand together, `together` at a time, so that they
            are hard negatives for one another. None does not. Excludes `lengths`.
        together: see `topics`.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int,
        lengths: Sequence[int] | None = None,
        topics: Sequence[str] | None = None,
        together: int = 1,
    ) -> None:
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self.lengths = lengths
        self.topics = topics
        self.together = together
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.count, generator=random).tolist()
        if self.topics is not None:
            return iter(self._by_topic(order, random))
        if self.lengths is None:
            return iter(order)
        return iter(self._grouped(order, random))

    def _grouped(self, order: list[int], random: torch.Generator) -> list[int]:
        """Sort within stretches of `MEGABATCH` batches, then shuffle the batches; a short last batch stays last."""
        lengths = self.lengths or []
        span = self.batch_size * MEGABATCH
        stretches = [order[i : i + span] for i in range(0, self.count, span)]
        ordered = [i for stretch in stretches for i in sorted(stretch, key=lambda i: lengths[i], reverse=True)]
        batches = [ordered[i : i + self.batch_size] for i in range(0, self.count, self.batch_size)]
        tail = [batches.pop()] if batches and len(batches[-1]) < self.batch_size else []
        shuffled = [batches[i] for i in torch.randperm(len(batches), generator=random).tolist()]
        return [i for batch in shuffled + tail for i in batch]

    def _by_topic(self, order: list[int], random: torch.Generator) -> list[int]:
        """Cut each topic's examples into runs of `together` and shuffle the runs; shorter runs come last."""
        topics = self.topics or []
        members: dict[str, list[int]] = {}
        for index in order:
            members.setdefault(topics[index], []).append(index)
        size = self.together
        runs = [found[i : i + size] for found in members.values() for i in range(0, len(found), size)]
        shuffled = [runs[i] for i in torch.randperm(len(runs), generator=random).tolist()]
        return [i for run in sorted(shuffled, key=lambda run: len(run) < size) for i in run]
