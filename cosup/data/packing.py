"""Cutting a loader's batch into packs, each small enough for one forward and backward pass.

Two forms. *Packed*: sequences stand one after another in one row, which costs their tokens. *Padded*: a row each,
which costs rows x longest; sequences of similar length then go together. A pack keeps within its budget in both models,
unless a single example doesn't.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Load:
    """What an example asks of both models.

    Attributes:
        tokens: its generator tokens.
        passages: embedder tokens of each passage that it names; those of other examples are read once with its own.
    """

    tokens: int
    passages: Mapping[Hashable, int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Tokens of the model that has more to read."""
        return max(self.tokens, sum(self.passages.values()))


@dataclass
class _Pack:
    """A pack in the making, with its cost in each model."""

    padded: bool
    members: list[int] = field(default_factory=list)
    tokens: int = 0
    longest: int = 0
    passages: set[Hashable] = field(default_factory=set)
    embedded: int = 0
    widest: int = 0

    def cost_with(self, load: Load) -> int:
        """Return what the costlier of both models would read with this example in."""
        generator = self.tokens + load.tokens
        if self.padded:
            generator = max(self.longest, load.tokens) * (len(self.members) + 1)
        new = [length for passage, length in load.passages.items() if passage not in self.passages]
        embedder = self.embedded + sum(new)
        if self.padded:
            embedder = max(self.widest, *new, 0) * (len(self.passages) + len(new))
        return max(generator, embedder)

    def add(self, number: int, load: Load) -> None:
        """Put an example in."""
        self.members.append(number)
        self.tokens += load.tokens
        self.longest = max(self.longest, load.tokens)
        self.embedded += sum(length for passage, length in load.passages.items() if passage not in self.passages)
        self.widest = max(self.widest, *load.passages.values(), 0)
        self.passages.update(load.passages)


def plan_packs(loads: Sequence[Load], budget: int | None, padded: bool = False) -> list[list[int]]:
    """Split examples into packs.

    Packed form: best-fit decreasing (each example, largest first, into the fullest pack that can take it); then, with
    as many packs, each into the emptiest, where that fits: packs of like size. Padded form: in order of length, as
    many as fit. The same examples give the same packs.

    Args:
        loads: what each example asks for.
        budget: tokens of each model in a pack at most, padding included; None makes one pack. An example above it
            gets a pack of its own.
        padded: whether rows are padded.

    Returns:
        Indices of the examples of each pack, in order within a pack; packs in order of their first example.
    """
    if budget is None:
        return [list(range(len(loads)))] if loads else []
    if padded:
        packs = _similar(loads, sorted(range(len(loads)), key=lambda i: (-loads[i].tokens, i)), budget)
    else:
        order = sorted(range(len(loads)), key=lambda i: (-loads[i].size, i))
        packs = _best_fit(loads, order, budget)
        packs = _level(loads, order, budget, len(packs)) or packs
    return sorted(sorted(pack.members) for pack in packs)


def _best_fit(loads: Sequence[Load], order: Sequence[int], budget: int) -> list[_Pack]:
    packs: list[_Pack] = []
    for i in order:
        costs = [(pack.cost_with(loads[i]), -number) for number, pack in enumerate(packs)]
        fitting = [(cost, number) for cost, number in costs if cost <= budget]
        if fitting:
            packs[-max(fitting)[1]].add(i, loads[i])
        else:
            packs.append(_Pack(padded=False))
            packs[-1].add(i, loads[i])
    return packs


def _level(loads: Sequence[Load], order: Sequence[int], budget: int, count: int) -> list[_Pack] | None:
    """Spread the examples over `count` packs of like size; None where that breaks the budget."""
    packs = [_Pack(padded=False) for _ in range(count)]
    for i in order:
        costs = [(pack.cost_with(loads[i]), number) for number, pack in enumerate(packs)]
        cost, number = min(costs)
        if cost > budget and packs[number].members:
            return None
        packs[number].add(i, loads[i])
    return packs


def _similar(loads: Sequence[Load], order: Sequence[int], budget: int) -> list[_Pack]:
    packs: list[_Pack] = []
    for i in order:
        if not packs or packs[-1].cost_with(loads[i]) > budget:
            packs.append(_Pack(padded=True))
        packs[-1].add(i, loads[i])
    return packs
