"""The KV cache of a batch whose rows read and write different numbers of tokens.

Columns are appended for all rows at once; where a row has nothing to add, its columns are holes, masked for ever and
squeezed out by `compact`. Positions count a row's own tokens, so a hole changes nothing that a row sees.

Shapes: B rows, T new columns, S all columns, H width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from cosup.data.padding import pad_right


class RowCache:
    """Feeds tokens to a generator and keeps what each row has seen.

    Args:
        generator: a causal language model.
        rows: B.
    """

    def __init__(self, generator: PreTrainedModel, rows: int) -> None:
        self.generator = generator
        self.body: Any = generator.base_model
        self.cache = DynamicCache()
        self.mask = torch.zeros(rows, 0, dtype=torch.long, device=generator.device)
        self.lengths = [0] * rows

    def feed(self, chunks: Sequence[Sequence[int]]) -> torch.Tensor:
        """Append each row's tokens (none for some, but not for all).

        Returns:
            [B, H] hidden state at each row's last new token; meaningless where a row had none.
        """
        device = self.generator.device
        ids, new = (t.to(device) for t in pad_right(chunks, 0))
        start = torch.tensor(self.lengths, device=device)[:, None]
        positions = (start + new.cumsum(dim=1) - 1).clamp_min(0) * new
        self.mask = torch.cat([self.mask, new], dim=1)
        states: torch.Tensor = self.body(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        self.lengths = [n + len(chunk) for n, chunk in zip(self.lengths, chunks, strict=True)]
        last = (new.sum(dim=1) - 1).clamp_min(0)
        return states[torch.arange(len(chunks), device=device), last]

    def forget(self, row: int, start: int) -> None:
        """Drop a row's tokens from position `start` on; what is fed next takes their places."""
        seen = self.mask[row].cumsum(dim=0)
        self.mask[row] = self.mask[row] * (seen <= start)
        self.lengths[row] = start

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only these rows, in this order."""
        index = torch.tensor(rows, dtype=torch.long, device=self.mask.device)
        self.cache.batch_select_indices(index)
        self.mask = self.mask[index]
        self.lengths = [self.lengths[row] for row in rows]

    def compact(self) -> None:
        """Squeeze the holes out: every row's tokens move to the left, in order; the rest is cut or masked."""
        width = max(self.lengths)
        if width == self.mask.shape[1]:
            return
        order = torch.argsort(1 - self.mask, dim=1, stable=True)[:, :width]
        layers: list[Any] = self.cache.layers
        for layer in layers:
            layer.keys = _pick(layer.keys, order)
            layer.values = _pick(layer.values, order)
        self.mask = self.mask.gather(1, order)


def _pick(tensor: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    index = order[:, None, :, None].expand(-1, tensor.shape[1], -1, tensor.shape[3])
    return tensor.gather(2, index)
