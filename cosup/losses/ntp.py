"""Next-token prediction: cross-entropy over the vocabulary, at the supervised positions alone."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy


def ntp_loss_sum(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the summed negative log-likelihood `-sum_i log P(t_i | t_<i)` (paper, section 3.1).

    The sum, not the mean: the trainer divides by the supervised tokens of the global batch.

    Args:
        logits: [N, V] at the positions before the targets, any float type.
        targets: [N] token ids.

    Returns:
        A float32 scalar; 0 for N = 0.
    """
    return cross_entropy(logits.float(), targets, reduction="sum")
