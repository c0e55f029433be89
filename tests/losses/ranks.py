"""What two real processes compute over gloo, for the tests to compare with one: run by `tests/losses/conftest.py`.

python tests/losses/ranks.py RANK STORE RESULTS
"""

from __future__ import annotations

import datetime
import itertools
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from cosup.losses.gather import agree, gather
from cosup.losses.gradcache import PackVectors, RandomState, cache_gradients, surrogate_loss
from cosup.losses.nsp import Contrast, ContrastOptions, contrast
from cosup.processes import leave

WORLD = 2
WIDTH = 3
TEMPERATURE = 0.6
# Queries and candidates of each rank.
CASES = {
    "both": [(4, 5), (3, 4)],
    "a rank with nothing": [(5, 4), (0, 0)],
    "a rank without queries": [(0, 3), (4, 2)],
    "candidates only": [(0, 3), (0, 1)],
    "nothing anywhere": [(0, 0), (0, 0)],
}
OPTIONS = {
    f"{gather} {'symmetric' if symmetric else 'plain'} {'masked' if masked else 'unmasked'}": ContrastOptions(
        gather, masked, masked, symmetric
    )
    for gather, symmetric, masked in itertools.product(("full", "own"), (False, True), (False, True))
}
GATHERED = {"uneven": (3, 1), "the first has none": (0, 2), "the last has none": (2, 0), "none": (0, 0), "even": (2, 2)}
# Packs of each rank as (passages named by letters, picks of the queries).
PACKS = [[("abc", [0, 1, 1]), ("", []), ("bd", [1])], [("ce", [0, 1])]]
PACKS_OF_ONE = [PACKS[0], [("", [])]]


def parts_of(case: str) -> list[Contrast]:
    """Return what each rank brings, float64; keys and answers are few, so that they meet across ranks."""
    random = torch.Generator().manual_seed(len(case))
    found = []
    for rank, (queries, candidates) in enumerate(CASES[case]):
        found.append(
            Contrast(
                torch.randn(queries, WIDTH, generator=random, dtype=torch.float64),
                torch.randn(candidates, WIDTH, generator=random, dtype=torch.float64),
                torch.randint(max(1, candidates), (queries,), generator=random),
                torch.randint(10, 16, (candidates,), generator=random),
                torch.randint(3, (queries,), generator=random),
                rank * 10 + torch.arange(queries) // 2,
            )
        )
    return found


def tracked(part: Contrast) -> list[torch.Tensor]:
    """Make the part's vectors and a temperature leaves of a graph, and return these."""
    part.queries.requires_grad_()
    part.candidates.requires_grad_()
    temperature = torch.tensor(TEMPERATURE, dtype=torch.float64, requires_grad=True)
    return [part.queries, part.candidates, temperature]


class Towers(nn.Module):
    """A query and a passage side with dropout, and a learned temperature."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.query = nn.Linear(4, WIDTH, bias=False, dtype=torch.float64)
        self.passage = nn.Linear(2, WIDTH, bias=False, dtype=torch.float64)
        for layer in (self.query, self.passage):
            layer.weight.data.normal_(generator=random)
        self.dropout = nn.Dropout(dropout)
        self.log_temperature = nn.Parameter(torch.tensor(-0.3, dtype=torch.float64))

    def forward(self, queries: torch.Tensor, passages: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.dropout(self.query(queries)), self.dropout(self.passage(passages))

    def gradients(self) -> list[torch.Tensor]:
        return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in self.parameters()]


class Pack:
    """A micro-batch's input: passages by name, which of them each query must pick, what the queries' answers are."""

    def __init__(self, names: Sequence[str], picks: Sequence[int], seed: int = 0) -> None:
        random = torch.Generator().manual_seed(seed)
        self.names = list(names)
        self.queries = torch.randn(len(picks), 4, generator=random, dtype=torch.float64)
        self.passages = torch.tensor([[ord(n) % 7 / 3 - 1, ord(n) % 5 / 2 - 1] for n in names], dtype=torch.float64)
        self.passages = self.passages.reshape(len(names), 2)
        self.positives = torch.tensor(list(picks), dtype=torch.long)
        self.keys = torch.tensor([ord(n) for n in names], dtype=torch.long)
        self.answers = torch.randint(3, (len(picks),), generator=random)
        self.examples = seed * 10 + torch.arange(len(picks))

    def vectors(self, model: Towers, state: RandomState | None = None) -> PackVectors:
        queries, passages = model(self.queries, self.passages)
        every = torch.arange(len(self.names))
        return PackVectors(queries, passages, every, self.positives, self.keys, self.answers, self.examples, state)


def packs_of(described: Sequence[tuple[str, list[int]]], rank: int) -> list[Pack]:
    return [Pack(names, picks, 100 * rank + number) for number, (names, picks) in enumerate(described)]


def cached_step(model: Towers, packs: Sequence[Pack], options: ContrastOptions) -> list[Any]:
    """Take GradCache's three steps: loss, correct, negatives and the gradient of every parameter."""
    found = []
    for pack in packs:
        state = RandomState(torch.device("cpu"))
        with torch.no_grad():
            found.append(pack.vectors(model, state))
    step = cache_gradients(found, options, model.log_temperature.exp())
    model.zero_grad()
    for pack, cached in zip(packs, step.packs, strict=True):
        assert cached.random_state is not None
        with cached.random_state.replayed():
            queries, passages = model(pack.queries, pack.passages)
        surrogate_loss(queries, passages, cached, model.log_temperature.exp()).backward()
    assert not step.result.loss_sum.requires_grad
    return [step.result.loss_sum, step.result.correct, step.result.negatives, *model.gradients()]


def rows_of(case: str, rank: int, kind: torch.dtype = torch.float64) -> torch.Tensor:
    """Return a rank's rows: row i of rank r is (10 r + i, 10 r + i + 0.5)."""
    start = 10.0 * rank + torch.arange(GATHERED[case][rank])
    return torch.stack([start, start + 0.5], dim=1).to(kind)


def weights_of(rank: int, rows: int) -> torch.Tensor:
    """Return the gradient that a rank's loss has for gathered rows."""
    return torch.randn(rows, 2, generator=torch.Generator().manual_seed(rank), dtype=torch.float64)


def _gathers(rank: int) -> Iterator[tuple[str, list[Any]]]:
    for case in GATHERED:
        for gradient in ("full", "own"):
            x = rows_of(case, rank).requires_grad_()
            every, offset = gather(x * 2, gradient)
            (every * weights_of(rank, len(every))).sum().backward()
            yield f"gather {case} {gradient}", [every.detach(), torch.tensor(offset), x.grad]
        keys, offset = gather(torch.arange(GATHERED[case][rank]) + 2**60 * rank)
        yield f"keys {case}", [keys, torch.tensor(offset)]
    half = rows_of("uneven", rank, torch.bfloat16)
    yield "bfloat16", [gather(half)[0]]
    x = rows_of("uneven", rank)
    every, _ = gather(x.requires_grad_() if rank == 0 else x)
    every.sum().backward()
    yield "one has a graph", [x.grad if rank == 0 else torch.zeros(0), torch.tensor(every.requires_grad)]
    with torch.no_grad():
        yield "no graph", [torch.tensor(gather(x.requires_grad_())[0].requires_grad)]
    slots = agree(x, torch.zeros(7 * rank))
    yield "agreed", [torch.tensor([[s.size, s.offset, sum(s.sizes), s.tracked] for s in slots])]


def _contrasts(rank: int) -> Iterator[tuple[str, list[Any]]]:
    for case, (name, options) in itertools.product(CASES, OPTIONS.items()):
        part = parts_of(case)[rank]
        leaves = tracked(part)
        result = contrast(part, options, leaves[-1])
        result.loss_sum.backward()
        grads = [leaf.grad for leaf in leaves]
        yield f"contrast {case} {name}", [result.loss_sum.detach(), result.correct, result.negatives, *grads]
    part = parts_of("both")[rank]
    apart = contrast(part, ContrastOptions(gather=None), TEMPERATURE)
    yield "apart", [apart.loss_sum, apart.correct, apart.negatives]


def _counted(rank: int) -> Iterator[tuple[str, list[Any]]]:
    """Count the collectives of a whole contrast, forward and backward."""
    counts = {"all_gather": 0, "all_reduce": 0}
    plain = {name: getattr(dist, name) for name in counts}

    def counting(name: str) -> Any:
        def call(*args: Any) -> Any:
            counts[name] += 1
            return plain[name](*args)

        return call

    for name in counts:
        setattr(dist, name, counting(name))
    part = parts_of("both")[rank]
    tracked(part)
    contrast(part, ContrastOptions(), TEMPERATURE).loss_sum.backward()
    for name, function in plain.items():
        setattr(dist, name, function)
    yield "collectives", [torch.tensor(list(counts.values()))]


def _caches(rank: int) -> Iterator[tuple[str, list[Any]]]:
    for name, described in (("packs", PACKS), ("packs of one", PACKS_OF_ONE)):
        for symmetric in (False, True):
            model, options = Towers(0.5), ContrastOptions("full", True, True, symmetric)
            torch.manual_seed(50 + rank)
            step = cached_step(model, packs_of(described[rank], rank), options)
            yield f"cached {name} {symmetric}", step


def main(rank: int, store: str, results: str) -> None:
    warnings.simplefilter("error")
    timeout = datetime.timedelta(seconds=300)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD, timeout=timeout)
    found = dict(itertools.chain(_gathers(rank), _contrasts(rank), _counted(rank), _caches(rank)))
    torch.save(found, results)
    leave(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
