"""Going over many passages or examples without gradients, the work shared by all processes of a run.

Every process runs the same number of batches (empty ones where it has fewer), as sharded models need.

Shapes: N passages, D dimensions of the sequence space, De the embedder's width, R retrievals.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from cosup.data.collate import Pack, model_inputs
from cosup.data.padding import pad_right
from cosup.index.embed import batches_by_length
from cosup.modeling import CoSupervisedModel
from cosup.pair import PairOutput
from cosup.processes import gather_objects, max_over, rank, world_size


@torch.no_grad()
def embed_lists(
    model: CoSupervisedModel,
    encoded: Sequence[Sequence[int]],
    batch_tokens: int,
    pooled: bool = False,
    device: torch.device | None = None,
) -> torch.Tensor:
    """Embed token lists on all processes together.

    Args:
        model: the pair, in evaluation mode.
        encoded: N lists of embedder tokens, the same on every process.
        batch_tokens: padded tokens of a batch at most.
        pooled: whether to give the embedder's own states, before projection and normalisation.
        device: where the embedder is; None: where the generator is.

    Returns:
        [N, D] ([N, De] where `pooled`) float32 on the CPU, in the given order, the same on every process.
    """
    device = model.device if device is None else device
    own = list(range(rank(), len(encoded), world_size()))
    batches = [[own[i] for i in rows] for rows in batches_by_length([len(encoded[i]) for i in own], batch_tokens)]
    pad = int(model.embedder_tokenizer.pad_token_id)
    found: list[torch.Tensor] = []
    for rows in level(batches, [], device):
        ids, mask = pad_right([encoded[i] for i in rows] or [[pad]], pad)
        mask[:, 0] = 1
        vectors = _embedded(model, ids.to(device), mask.to(device), pooled)
        found.append(vectors[: len(rows)].float().cpu())
    order = [i for rows in batches for i in rows]
    parts = gather_objects((order, torch.cat(found) if found else torch.zeros(0, 0)))
    width = max((int(vectors.shape[1]) for _, vectors in parts), default=0)
    table = torch.zeros(len(encoded), width)
    for rows, vectors in parts:
        if rows:
            table[rows] = vectors
    return table


def _embedded(model: CoSupervisedModel, ids: torch.Tensor, mask: torch.Tensor, pooled: bool) -> torch.Tensor:
    """Embed through the model's forward, where shards are gathered; `pooled` is for models that are not sharded yet."""
    if pooled:
        return model.pooled(ids, mask)
    output: PairOutput = model(passage_input_ids=ids, passage_attention_mask=mask)
    assert output.passages is not None
    return output.passages


@torch.no_grad()
def query_packs(model: CoSupervisedModel, packs: Iterable[Pack]) -> torch.Tensor:
    """Return the queries at every `[Ret]` of this process's packs: [R, D] float32 on the CPU.

    Args:
        model: the pair, in evaluation mode.
        packs: what the collator makes; every process gives as many (see `level`).
    """
    found = [torch.zeros(0, model.dimension)]
    for pack in packs:
        inputs = model_inputs(pack, labels=False, passages=False)
        output: PairOutput = model(**{name: values.to(model.device) for name, values in inputs.items()})
        assert output.queries is not None
        found.append(output.queries.float().cpu())
    return torch.cat(found)


def level(items: Sequence[Any], empty: Any, device: torch.device) -> list[Any]:
    """Return the items and as many empty ones as bring every process to the same number."""
    most = int(max_over([float(len(items))], device)[0])
    return [*items, *(empty for _ in range(most - len(items)))]
