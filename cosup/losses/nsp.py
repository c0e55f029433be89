"""Next-sequence prediction: InfoNCE between `[Ret]` states and passage embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy


@dataclass
class NSPResult:
    """Summed loss (float32 scalar) and the number of queries whose positive scored highest (int64 scalar)."""

    loss_sum: torch.Tensor
    correct: torch.Tensor


def info_nce(
    queries: torch.Tensor, candidates: torch.Tensor, positives: torch.Tensor, temperature: float = 1.0
) -> NSPResult:
    """Return `-sum log( exp(s(q, c+)/t) / sum_c exp(s(q, c)/t) )` with inner-product similarity (paper, section 3.2).

    For cosine similarity the vectors come in at unit length. The sum, not the mean: the trainer divides by the
    retrievals of the global batch. A query counts as correct where no other candidate scores as high.

    Args:
        queries: [R, D] states at `[Ret]`.
        candidates: [M, D] passage embeddings; the negatives of a query are all candidates but its positive.
        positives: [R] each query's candidate.
        temperature: t, above 0; the paper has none, that is 1.
    """
    if len(queries) == 0:
        zero = 0.0 * (queries.sum() + candidates.sum())  # part of the graph, so that it can be backpropagated
        return NSPResult(zero.float(), torch.zeros((), dtype=torch.long, device=queries.device))
    scores_RM = queries.float() @ candidates.float().T / temperature
    best = scores_RM.gather(1, positives[:, None])
    rivals = (scores_RM >= best).sum(dim=1) - 1
    return NSPResult(cross_entropy(scores_RM, positives, reduction="sum"), (rivals == 0).sum())
