"""Evaluation during training: both losses, in-batch accuracy, and recall over a pool of held-out passages.

Shapes: R retrievals, N passages of the pool, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from cosup.data.collate import CoSupervisionCollator, Pack, model_inputs, passage_key
from cosup.data.encoding import EncodedExample
from cosup.losses.nsp import info_nce
from cosup.modeling import CoSupervisedModel
from cosup.pair import PairOutput
from cosup.processes import gather_objects, rank, sum_over, world_size
from cosup.records import Passage
from cosup.training.batches import collated
from cosup.training.config import CoSupervisionConfig
from cosup.training.sweep import embed_lists, level

RECALL_AT = (1, 10)
_NAMES = ("ntp", "tokens", "nsp", "correct", "retrievals")


@dataclass(frozen=True)
class Pool:
    """The passages that recall is measured over.

    Attributes:
        encoded: N lists of embedder tokens.
        rows: row of each passage by its candidate key.
    """

    encoded: Sequence[Sequence[int]]
    rows: Mapping[int, int]


def held_out_pool(
    model: CoSupervisedModel,
    examples: Sequence[EncodedExample],
    passages: Mapping[str, Passage],
    more: Sequence[Passage],
) -> Pool:
    """Return the passages that held-out examples name, and `more`."""
    texts = {passages[i].rendered for e in examples for i in e.passage_ids} | {p.rendered for p in more}
    encoded = [model.encode_passage(text) for text in sorted(texts)]
    return Pool(encoded, {passage_key(ids): row for row, ids in enumerate(encoded)})


def held_out_packs(
    collator: CoSupervisionCollator, examples: Sequence[EncodedExample], args: CoSupervisionConfig
) -> list[Pack]:
    """Collate this device's share of held-out examples, one pack a batch, as many on every device."""
    packs = collated(collator, examples[rank() :: world_size()], args.per_device_eval_batch_size)
    return level(packs, collator.empty_pack(), args.device)


def objective(found: Mapping[str, float], args: CoSupervisionConfig) -> float:
    """Return the run's loss of what `validate` has found: `ntp_loss + nsp_weight * nsp_loss`, as far as trained."""
    nsp = found.get("nsp_loss", 0.0)
    if not args.trains_ntp:
        return nsp
    return found["ntp_loss"] + (args.nsp_weight * nsp if args.trains_nsp else 0.0)


@dataclass
class _Sums:
    numbers: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_NAMES, 0.0))
    queries: list[torch.Tensor] = field(default_factory=list)
    wanted: list[int] = field(default_factory=list)


@torch.no_grad()
def validate(
    model: CoSupervisedModel, packs: Sequence[Pack], pool: Pool | None, batch_tokens: int = 8192
) -> dict[str, float]:
    """Return `ntp_loss` (per supervised token), `nsp_loss`, `nsp_accuracy` (share of 1, in-batch) and `recall@k`.

    Retrieval figures are left out where the examples hold no `[Ret]` or `pool` is None. Sums run over all processes.

    Args:
        model: the pair; put into evaluation mode and back.
        packs: this process's packs, as many on every process; each is contrasted by itself.
        pool: what recall is measured over.
        batch_tokens: padded tokens a batch while the pool is embedded.
    """
    training = model.training
    model.eval()
    sums = _Sums()
    for pack in packs:
        _add(sums, model, {name: values.to(model.device) for name, values in pack.items()}, pool is not None)
    found = dict(zip(_NAMES, sum_over([sums.numbers[name] for name in _NAMES], model.device), strict=True))
    metrics = {"ntp_loss": found["ntp"] / max(1, found["tokens"])}
    if found["retrievals"]:
        metrics["nsp_loss"] = found["nsp"] / found["retrievals"]
        metrics["nsp_accuracy"] = found["correct"] / found["retrievals"]
    if pool is not None and found["retrievals"]:
        parts = gather_objects((torch.cat(sums.queries), [pool.rows[key] for key in sums.wanted]))
        queries, wanted = torch.cat([q for q, _ in parts]), [row for _, rows in parts for row in rows]
        metrics |= recall(queries, embed_lists(model, pool.encoded, batch_tokens), wanted)
    model.train(training)
    return metrics


def _add(sums: _Sums, model: CoSupervisedModel, pack: Pack, retrieves: bool) -> None:
    output: PairOutput = model(**model_inputs(pack, retrieval=retrieves))
    if output.ntp_sum is not None:
        sums.numbers["ntp"] += float(output.ntp_sum)
        sums.numbers["tokens"] += output.tokens
    if output.queries is None or output.passages is None:
        return
    candidates, positives = pack["candidates"], pack["positives"]
    result = info_nce(output.queries, output.passages[candidates], positives, model.temperature)
    sums.numbers["nsp"] += float(result.loss_sum)
    sums.numbers["correct"] += int(result.correct)
    sums.numbers["retrievals"] += len(positives)
    sums.queries.append(output.queries.float().cpu())
    sums.wanted += pack["candidate_keys"][positives].tolist()


def recall(queries: torch.Tensor, vectors: torch.Tensor, wanted: Sequence[int]) -> dict[str, float]:
    """Share of `[Ret]` tokens whose own passage is among the k nearest of the pool.

    Passages that score as high come first, so that neither a collapsed nor a diverged model (NaN) seems to find any.

    Args:
        queries: [R, D].
        vectors: [N, D].
        wanted: R rows of `vectors`.
    """
    scores = queries @ vectors.T
    own = scores.gather(1, torch.tensor(wanted)[:, None])
    place = (~(scores < own)).sum(dim=1) - 1
    found = {k: (place < k) & own[:, 0].isfinite() for k in RECALL_AT}
    return {f"recall@{k}": float(hits.float().mean()) for k, hits in found.items()}
