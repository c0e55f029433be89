"""Evaluation during training: both losses, in-batch accuracy, and recall over a pool of held-out passages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch

from cosup.index.embed import batches_by_length
from cosup.losses.nsp import info_nce
from cosup.losses.ntp import ntp_loss_sum
from cosup.modeling import CoSupervisedModel

RECALL_AT = (1, 10)


@dataclass
class _Sums:
    ntp: float = 0.0
    tokens: int = 0
    nsp: float = 0.0
    correct: int = 0
    retrievals: int = 0
    queries: list[torch.Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Pool:
    """The passages that recall is measured over.

    Attributes:
        encoded: embedder token ids of each passage.
        wanted: for each `[Ret]` of the validation examples, in the loader's order, the row of its passage.
    """

    encoded: Sequence[list[int]]
    wanted: Sequence[int]


@torch.no_grad()
def validate(
    model: CoSupervisedModel,
    batches: Iterable[dict[str, torch.Tensor]],
    pool: Pool | None,
    autocast: AbstractContextManager[None],
    batch_tokens: int = 8192,
) -> dict[str, float]:
    """Return `ntp_loss` (per supervised token), `nsp_loss`, `nsp_accuracy` (share of 1, in-batch) and `recall@k`.

    Retrieval figures are left out where the examples hold no `[Ret]` or `pool` is None.

    Args:
        model: the pair; put into evaluation mode and back.
        batches: collated batches on the model's device.
        pool: what recall is measured over.
        autocast: context for mixed precision.
        batch_tokens: padded tokens a batch while the pool is embedded.
    """
    training = model.training
    model.eval()
    sums = _Sums()
    with autocast:
        for batch in batches:
            _add(sums, model, batch)
        metrics = {"ntp_loss": sums.ntp / max(1, sums.tokens)}
        if sums.retrievals:
            metrics["nsp_loss"] = sums.nsp / sums.retrievals
            metrics["nsp_accuracy"] = sums.correct / sums.retrievals
        if pool is not None and sums.retrievals:
            metrics |= _recall(model, torch.cat(sums.queries), pool, batch_tokens)
    model.train(training)
    return metrics


def _add(sums: _Sums, model: CoSupervisedModel, batch: dict[str, torch.Tensor]) -> None:
    inputs = dict(batch)
    candidates, positives = inputs.pop("candidates"), inputs.pop("positives")
    output = model(**inputs)
    if output.logits is not None and output.targets is not None:
        sums.ntp += float(ntp_loss_sum(output.logits, output.targets))
        sums.tokens += len(output.targets)
    if output.queries is not None and output.passages is not None and len(output.queries):
        result = info_nce(output.queries, output.passages[candidates], positives, model.settings.temperature)
        sums.nsp += float(result.loss_sum)
        sums.correct += int(result.correct)
        sums.retrievals += len(output.queries)
        sums.queries.append(output.queries.float().cpu())


def _recall(model: CoSupervisedModel, queries: torch.Tensor, pool: Pool, batch_tokens: int) -> dict[str, float]:
    """Share of `[Ret]` tokens whose own passage is among the k nearest of the pool.

    Passages that score as high come first, so that neither a collapsed nor a diverged model (NaN) seems to find any.
    """
    vectors = embed_sorted(model, pool.encoded, batch_tokens)
    wanted = torch.tensor(pool.wanted[: len(queries)])
    scores = queries @ vectors.T
    own = scores.gather(1, wanted[:, None])
    rank = (~(scores < own)).sum(dim=1) - 1
    found = {k: (rank < k) & own[:, 0].isfinite() for k in RECALL_AT}
    return {f"recall@{k}": float(hits.float().mean()) for k, hits in found.items()}


def embed_sorted(model: CoSupervisedModel, encoded: Sequence[list[int]], batch_tokens: int) -> torch.Tensor:
    """Embed token lists in batches of similar length: [len(encoded), D] on the CPU, in the given order."""
    vectors = torch.zeros(len(encoded), model.dimension)
    for rows in batches_by_length([len(ids) for ids in encoded], batch_tokens):
        vectors[rows] = model.embed_ids([encoded[row] for row in rows])
    return vectors
