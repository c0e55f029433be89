"""A differentiable gather of rows over the processes of `torch.distributed`, each with as many as it has, or none.

Every rank's loss is its own part of one loss over all ranks, the sum of them. What a rank's rows get as their gradient:
    full: the gradient of that sum. Backward adds up what all ranks found for the row, by one more collective.
    own:  the gradient of the rank's own loss alone; the others' rows are constants (the paper's code).

DDP and FSDP average gradients over ranks, so a loss that is meant as a sum over ranks goes into backward multiplied by
the number of ranks.

The collectives are the plain ones over a list of tensors: gloo and NCCL have them, on every torch from 2.11 on, and the
functional ones changed their names in between. Every rank calls them in the same order, in backward as well: autograd
runs the newest operation first, and all ranks build the same operations, whatever their sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

Gradient = Literal["full", "own"]


@dataclass(frozen=True)
class Slots:
    """Where each rank's rows stand in a gathered tensor.

    Attributes:
        sizes: rows of each rank.
        rank: this process.
        tracked: whether the tensor has a graph on any rank. All ranks must know, because backward is a collective too.
    """

    sizes: tuple[int, ...]
    rank: int
    tracked: bool

    @property
    def offset(self) -> int:
        """The first row of this rank."""
        return sum(self.sizes[: self.rank])

    @property
    def size(self) -> int:
        """Rows of this rank."""
        return self.sizes[self.rank]


def agree(*tensors: torch.Tensor) -> list[Slots]:
    """Return the slots of several tensors, for which all ranks exchange the sizes at once (one small collective)."""
    rank, world = _place()
    own = [n for t in tensors for n in (len(t), int(t.requires_grad and torch.is_grad_enabled()))]
    every = [own]
    if world > 1:
        sent = torch.tensor(own, dtype=torch.long, device=tensors[0].device)
        received = [torch.empty_like(sent) for _ in range(world)]
        dist.all_gather(received, sent)
        every = torch.stack(received).tolist()
    return [
        Slots(tuple(row[2 * i] for row in every), rank, any(row[2 * i + 1] for row in every))
        for i in range(len(tensors))
    ]


def alone(x: torch.Tensor) -> Slots:
    """Return the slots of a tensor that is not gathered: this rank's rows are all there are."""
    return Slots((len(x),), 0, x.requires_grad)


def gather(x: torch.Tensor, gradient: Gradient = "full", slots: Slots | None = None) -> tuple[torch.Tensor, int]:
    """Return all ranks' rows in the order of the ranks, and the number of the first that is this rank's own.

    Without a process group, or with one rank, it is `x` itself. Whole numbers (keys), and what has a graph on no rank,
    come back without a graph; where some rank has one, all get one, so that none waits for another in backward.

    Args:
        x: [n, ..], n of this rank's own, 0 included; type and the other dimensions are those of all ranks.
        gradient: see the top of the file.
        slots: what `agree` said, where the caller has asked already.
    """
    slots = agree(x)[0] if slots is None else slots
    if len(slots.sizes) == 1 or sum(slots.sizes) == 0:
        return x, 0
    if not (slots.tracked and x.is_floating_point() and torch.is_grad_enabled()):
        return _collect(x.detach(), slots), slots.offset
    x = x if x.requires_grad else x.detach().requires_grad_()
    if gradient == "full":
        gathered: torch.Tensor = _FullGather.apply(x, slots)  # type: ignore[no-untyped-call]
        return gathered, slots.offset
    others = _collect(x.detach(), slots)
    return torch.cat([others[: slots.offset], x, others[slots.offset + slots.size :]]), slots.offset


class _FullGather(torch.autograd.Function):
    """The gather whose backward sums every rank's gradient of this rank's rows."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, slots: Slots) -> torch.Tensor:
        ctx.slots = slots
        return _collect(x, slots)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.narrow(0, ctx.slots.offset, ctx.slots.size), None


def _collect(x: torch.Tensor, slots: Slots) -> torch.Tensor:
    """Gather rows padded to the most of any rank (one collective), and cut the padding off."""
    most = max(slots.sizes)
    padded = x.contiguous()
    if len(x) < most:
        padded = x.new_zeros(most, *x.shape[1:])
        padded[: len(x)] = x
    received = [torch.empty_like(padded) for _ in slots.sizes]
    dist.all_gather(received, padded)
    return torch.cat([rows[:size] for rows, size in zip(received, slots.sizes, strict=True)])


def _place() -> tuple[int, int]:
    """Return rank and number of ranks: (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1
