"""The order of the training examples: a function of seed and epoch alone, so that resuming meets it again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import Sampler

from cosup.data.collate import ExampleDataset
from cosup.training.config import CoSupervisionConfig

MEGABATCH = 32


@dataclass(frozen=True)
class Topics:
    """What makes examples hard negatives for one another.

    Attributes:
        topics: topic of each example.
        passages: passage of each example; two with the same are no negatives for one another.
        together: examples of one topic that stand together in a batch.
    """

    topics: Sequence[str]
    passages: Sequence[str]
    together: int


@dataclass(frozen=True)
class Curriculum:
    """What makes examples easy, and how many of them come first.

    Attributes:
        hops: number of retrievals of each example.
        count: examples with the fewest retrievals that open the first epoch, about (what stands together is not cut).
    """

    hops: Sequence[int]
    count: int


class EpochSampler(Sampler[int]):
    """Random order, reshuffled every epoch; optionally in batches of similar length, with topics together.

    Args:
        count: number of examples.
        batch_size: examples a step.
        seed: the order's seed.
        lengths: length of each example, to group by; None does not group.
        topics: what is to stand together; None puts nothing together.
        curriculum: which examples come first in the first epoch; None mixes all.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int,
        lengths: Sequence[int] | None = None,
        topics: Topics | None = None,
        curriculum: Curriculum | None = None,
    ) -> None:
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self.lengths = lengths
        self.topics = topics
        self.curriculum = curriculum
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.count, generator=random).tolist()
        runs, last = [[index] for index in order], list[int]()
        if self.topics is not None:
            runs, last = self._runs(order, self.topics)
            runs = [runs[i] for i in torch.randperm(len(runs), generator=random).tolist()]
        parts = [runs] if self.curriculum is None or self.epoch else self._easy_first(runs, self.curriculum)
        if self.lengths is not None:
            parts = [self._grouped(part, random) for part in parts]
        return (index for part in [*parts, [last]] for run in part for index in run)

    def _easy_first(self, runs: list[list[int]], curriculum: Curriculum) -> list[list[list[int]]]:
        """Part runs into those that open the epoch, with the fewest retrievals, and the others in their order."""
        hardest = [max(curriculum.hops[i] for i in run) for run in runs]
        taken, held = set[int](), 0
        for place in sorted(range(len(runs)), key=hardest.__getitem__):
            if held >= curriculum.count:
                break
            taken.add(place)
            held += len(runs[place])
        return [[run for place, run in enumerate(runs) if (place in taken) is first] for first in (True, False)]

    def _runs(self, order: Sequence[int], topics: Topics) -> tuple[list[list[int]], list[int]]:
        """Cut each topic's examples into runs with distinct passages, alike in length.

        What is left of a topic makes up runs with what is left of others, so that topics of many examples and of few
        come mixed throughout an epoch.

        Returns:
            Runs of one size, and what is left in the end, which is less than a run.
        """
        layers: dict[tuple[str, int], list[int]] = {}
        seen: dict[str, int] = {}
        for index in order:
            passage = topics.passages[index]
            seen[passage] = seen.get(passage, -1) + 1
            layers.setdefault((topics.topics[index], seen[passage]), []).append(index)
        size = topics.together
        if self.lengths is not None:
            layers = {key: sorted(found, key=self.lengths.__getitem__) for key, found in layers.items()}
        runs = [found[i : i + size] for found in layers.values() for i in range(0, len(found), size)]
        left = [index for run in runs if len(run) < size for index in run]
        if self.lengths is not None:
            span = self.batch_size * MEGABATCH
            stretches = [left[i : i + span] for i in range(0, len(left), span)]
            left = [i for stretch in stretches for i in sorted(stretch, key=self.lengths.__getitem__)]
        whole = len(left) - len(left) % size
        mixed = [left[i : i + size] for i in range(0, whole, size)]
        return [r for r in runs if len(r) == size] + mixed, left[whole:]

    def _grouped(self, runs: list[list[int]], random: torch.Generator) -> list[list[int]]:
        """Sort within stretches of `MEGABATCH` batches, then shuffle the batches; a short last batch stays last."""
        lengths = self.lengths or []
        size = max(1, self.batch_size // max(1, len(runs[0]) if runs else 1))
        span = size * MEGABATCH
        stretches = [runs[i : i + span] for i in range(0, len(runs), span)]
        ordered = [r for s in stretches for r in sorted(s, key=lambda run: max(lengths[i] for i in run), reverse=True)]
        batches = [ordered[i : i + size] for i in range(0, len(ordered), size)]
        tail = [batches.pop()] if batches and len(batches[-1]) < size else []
        shuffled = [batches[i] for i in torch.randperm(len(batches), generator=random).tolist()]
        return [run for batch in shuffled + tail for run in batch]


def epoch_sampler(dataset: ExampleDataset, args: CoSupervisionConfig, step: int, packs: bool) -> EpochSampler:
    """Return the order that a run's settings ask for.

    Args:
        dataset: the training examples.
        args: the run's settings.
        step: examples of a step, on all devices.
        packs: whether examples are packed; where they are not, padding is saved by like lengths.
    """
    examples, lengths = dataset.examples, None
    if args.train_sampling_strategy == "group_by_length" or not packs:
        lengths = [len(dataset.whole(i).input_ids) for i in range(len(dataset))]
    seed = args.seed if args.data_seed is None else args.data_seed
    topics = _titles(dataset, args.same_title_examples) if args.same_title_examples > 1 else None
    hops = [len(e.passage_ids) for e in examples] if args.curriculum_steps else None
    first = None if hops is None else Curriculum(hops, args.curriculum_steps * step)
    return EpochSampler(len(dataset), step, seed, lengths, topics, first)


def _titles(dataset: ExampleDataset, together: int) -> Topics:
    """Titles of the examples' first passages; the passage's id where it has none."""
    first = [e.passage_ids[0] if e.passage_ids else "" for e in dataset.examples]
    return Topics([dataset.passages[i].title or i if i else "" for i in first], first, together)
