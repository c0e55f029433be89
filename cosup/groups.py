"""Sequences of a packed row in padded groups, for kernels that want a batch; and attention by matrix products.

On a CPU in half precision torch (2.13) builds its kernels for each length of a sequence anew and keeps them: gigabytes
over a run. Lengths are therefore rounded up there. Its fused attention is also slower, for sequences of
some hundred tokens, than plain products, scores and all.

Shapes: S sequences, T tokens of the row, H heads, D width of a head, L length of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import dropout

STEP = 32  # lengths are rounded up to a multiple of this where kernels are built for each length
FINE = 32  # a row's tokens are rounded up by no more than about one in so many
MOST = 512  # tokens of a sequence up to which scores are held whole
HALF = (torch.float16, torch.bfloat16)
_ALIKE = 0.8  # the shortest sequence of a group is at least this share of its longest


def built_by_length(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch builds its kernels for each length anew."""
    return device.type == "cpu" and dtype in HALF


def rounded(tokens: int) -> int:
    """Return a row's tokens rounded up so that rows have few lengths: `FINE` between a power of two and the next."""
    step = max(16, (1 << tokens.bit_length()) // (2 * FINE))
    return -(-tokens // step) * step


class Groups:
    """Groups of sequences of similar length; `pad` and `unpad` go between the row and the groups.

    Args:
        lengths: of the row's sequences.
        members: the sequences of each group, its longest first.
        device: where the row is.
        step: a group's length is a multiple of it.

    Attributes:
        shapes: sequences and length of each group.
        index: [sum of sequences x length] token of the row that stands at each place; at padding, the sequence's last.
        inverse: [T] place of each token.
    """

    def __init__(
        self, lengths: Sequence[int], members: Sequence[Sequence[int]], device: torch.device, step: int = 1
    ) -> None:
        starts = [0]
        for length in lengths:
            starts.append(starts[-1] + length)
        self.shapes = [(len(group), -(-lengths[group[0]] // step) * step) for group in members]
        index, inverse, place = [], torch.empty(starts[-1], dtype=torch.long), 0
        for group, (_, longest) in zip(members, self.shapes, strict=True):
            for i in group:
                index.append(torch.arange(longest).clamp_max(lengths[i] - 1) + starts[i])
                inverse[starts[i] : starts[i + 1]] = torch.arange(place, place + lengths[i])
                place += longest
        self.index = torch.cat(index).to(device)
        self.inverse = inverse.to(device)

    def pad(self, states: torch.Tensor) -> list[torch.Tensor]:
        """Return each group's [S, H, L, D] of a row's [1, H, T, D]."""
        padded: torch.Tensor = _Pad.apply(states[0].transpose(0, 1), self.index, self.inverse)  # type: ignore[no-untyped-call]
        parts = padded.split([rows * longest for rows, longest in self.shapes])
        return [p.unflatten(0, shape).transpose(1, 2) for p, shape in zip(parts, self.shapes, strict=True)]

    def unpad(self, padded: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return a row's [1, T, H, D] of each group's [S, H, L, D]."""
        flat = torch.cat([p.transpose(1, 2).flatten(0, 1) for p in padded])
        row: torch.Tensor = _Unpad.apply(flat, self.index, self.inverse)  # type: ignore[no-untyped-call]
        return row[None]


class _Pad(torch.autograd.Function):
    """Gathers a row into groups. Nothing real attends to padding, whose gradient is zero: it need not be added up."""

    @staticmethod
    def forward(ctx: Any, row: torch.Tensor, index: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(inverse)
        return row.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradients[0].index_select(0, ctx.saved_tensors[0]), None, None


class _Unpad(torch.autograd.Function):
    """Takes the real tokens of groups back into their row."""

    @staticmethod
    def forward(ctx: Any, padded: torch.Tensor, index: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(inverse)
        ctx.places = len(index)
        return padded.index_select(0, inverse)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        spread = gradients[0].new_zeros(ctx.places, *gradients[0].shape[1:])
        return spread.index_copy_(0, ctx.saved_tensors[0], gradients[0]), None, None


def alike(lengths: Sequence[int]) -> list[list[int]]:
    """Group the sequences, longest first; lengths of a group differ by little (`_ALIKE`)."""
    groups: list[list[int]] = []
    for i in _longest_first(lengths):
        if groups and lengths[i] >= _ALIKE * lengths[groups[-1][0]]:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def even(lengths: Sequence[int]) -> list[list[int]]:
    """Group the sequences, longest first, that have one length once it is rounded up to a multiple of `STEP`."""
    groups: dict[int, list[int]] = {}
    for i in _longest_first(lengths):
        groups.setdefault(-(-lengths[i] // STEP), []).append(i)
    return list(groups.values())


def singly(lengths: Sequence[int]) -> list[list[int]]:
    """Make a group of each sequence."""
    return [[i] for i in range(len(lengths))]


def _longest_first(lengths: Sequence[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))


def attend_by_products(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor,
    scaling: float | None,
    dropped: float,
) -> torch.Tensor:
    """Attend with the scores held whole, in the type of the states.

    Args:
        query: [S, H, L, D].
        key: as `query`.
        value: as `query`.
        bias: [L, L] added to the scores.
        scaling: of the products; None is 1 / sqrt(D).
        dropped: probability with which a weight is dropped.

    Returns:
        [S, H, L, D].
    """
    shape = query.shape
    queries, keys, values = (x.flatten(0, 1) for x in (query, key, value))
    own = shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.baddbmm(bias.expand(len(queries), *bias.shape), queries, keys.transpose(1, 2), alpha=own)
    weights = dropout(scores.softmax(dim=-1), dropped) if dropped else scores.softmax(dim=-1)
    return torch.bmm(weights, values).view(shape)
