"""Laying lists of ids out as tensors: padded to a rectangle, or end to end in one row."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def pad_right(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad id lists to a rectangle.

    Args:
        rows: B lists of ids.
        pad: what to fill with.

    Returns:
        Ids and mask (1 on real tokens), both int64 [B, L]; L is the longest list's length, at least 1.
    """
    width = max([1, *map(len, rows)])
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[index, : len(row)] = 1
    return ids, mask


def lay_end_to_end(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Lay id lists one after another.

    Args:
        rows: S lists of ids.

    Returns:
        The row [1, T] and the length of each list [S], both int64.
    """
    ids = torch.tensor([[token for row in rows for token in row]], dtype=torch.long)
    return ids, torch.tensor([len(row) for row in rows], dtype=torch.long)
