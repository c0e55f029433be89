"""What the generator has seen of each row, kept from one feeding to the next.

Rows come, go and take tokens back at any time. Two ways to keep them:

- `SlotRows`: new tokens lie in one flat row without padding, keys and values in slots (`slots.py`). For models whose
  attention can be exchanged; tried out before use.
- `PaddedRows`: for all others. Columns are appended for all rows at once; where a row has nothing to add, its columns
  are holes, masked for ever and squeezed out now and then. Positions count a row's own tokens, so a hole changes
  nothing that a row sees, but for a sliding window, which counts columns: there holes are squeezed out each time.

Shapes: B rows, T new tokens of all rows, H width.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import DynamicCache, PreTrainedModel

from cosup.attention import PACKED
from cosup.data.padding import pad_right
from cosup.groups import built_by_length, rounded
from cosup.slots import Chunk, SlotCache, SlotLayout
from cosup.trials import at_rest

logger = logging.getLogger(__name__)

_TRIED = ((7, 30), (5, 1), (1, 26))  # new tokens of two rows, feeding after feeding
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}  # largest difference a state may have, over the largest state
_HALF_TOLERANCE = 5e-2
_EXACT = 32  # new tokens of a row up to which it is never filled up
_REFUSALS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError)


class RowCache(ABC):
    """The rows of a batch, numbered from 0 without gaps.

    Args:
        generator: a causal language model.
        most: rows at a time, at most.

    Attributes:
        lengths: tokens that each row holds.
    """

    def __init__(self, generator: PreTrainedModel, most: int) -> None:
        self.generator = generator
        self.body: Any = generator.base_model
        self.most = most
        self.lengths: list[int] = []

    def __len__(self) -> int:
        return len(self.lengths)

    @abstractmethod
    def enter(self) -> int:
        """Add an empty row and return its number, the highest."""

    @abstractmethod
    def leave(self, row: int) -> None:
        """Take a row out; the one with the highest number takes its place and number."""

    @abstractmethod
    def fork(self, row: int) -> int:
        """Add a copy of a row and return its number, the highest."""

    @abstractmethod
    def feed(self, chunks: Sequence[Sequence[int]]) -> torch.Tensor:
        """Append each row's tokens (none for some, but not for all).

        Returns:
            [T, H] hidden state at each new token, row after row.
        """

    @abstractmethod
    def forget(self, row: int, start: int) -> None:
        """Drop a row's tokens from position `start` on; what is fed next takes their places."""


class SlotRows(RowCache):
    """Rows in slots; see the top of the file."""

    def __init__(self, generator: PreTrainedModel, most: int) -> None:
        super().__init__(generator, most)
        config = generator.config.get_text_config()
        self.cache = SlotCache(int(config.num_hidden_layers), most)
        self.mask = torch.empty(1, 1, 0, 0, dtype=torch.bool, device=generator.device)

    def enter(self) -> int:
        """Add an empty row."""
        self.lengths.append(0)
        return len(self.lengths) - 1

    def leave(self, row: int) -> None:
        """Take a row out."""
        last = len(self.lengths) - 1
        if row != last:
            self.cache.copy(last, row, self.lengths[last])
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()

    def fork(self, row: int) -> int:
        """Add a copy of a row."""
        self.lengths.append(self.lengths[row])
        self.cache.copy(row, len(self.lengths) - 1, self.lengths[row])
        return len(self.lengths) - 1

    def feed(self, chunks: Sequence[Sequence[int]]) -> torch.Tensor:
        """Append each row's tokens."""
        device = self.generator.device
        new = [Chunk(row, self.lengths[row], len(ids)) for row, ids in enumerate(chunks) if ids]
        flat = [token for ids in chunks for token in ids]
        filling = self._filling(len(flat))
        layout = self.cache.layout = SlotLayout(new, len(self.lengths), device, filling)
        states: torch.Tensor = self.body(
            input_ids=torch.tensor([flat + flat[-1:] * filling], device=device),
            position_ids=layout.position_ids,
            attention_mask=self.mask,
            past_key_values=self.cache,
            use_cache=True,
            slot_layout=layout,
        ).last_hidden_state[0]
        for chunk in new:
            self.lengths[chunk.slot] = chunk.end
        return states[: len(flat)]

    def _filling(self, tokens: int) -> int:
        """Return how many tokens fill a row up, so that rows have few lengths where each costs kernels of its own."""
        apart = tokens > _EXACT and built_by_length(self.generator.device, self.generator.dtype)
        return rounded(tokens) - tokens if apart else 0

    def forget(self, row: int, start: int) -> None:
        """Drop a row's tokens from `start` on."""
        self.lengths[row] = min(start, self.lengths[row])


class PaddedRows(RowCache):
    """Rows in columns with holes; see the top of the file."""

    def __init__(self, generator: PreTrainedModel, most: int) -> None:
        super().__init__(generator, most)
        self.cache = DynamicCache()
        self.mask = torch.zeros(0, 0, dtype=torch.long, device=generator.device)
        self.slides = getattr(generator.config.get_text_config(), "sliding_window", None) is not None

    def enter(self) -> int:
        """Add an empty row."""
        self._each(lambda states: torch.cat([states, torch.zeros_like(states[:1])]) if len(states) else states)
        self.mask = torch.cat([self.mask, self.mask.new_zeros(1, self.mask.shape[1])])
        self.lengths.append(0)
        return len(self.lengths) - 1

    def leave(self, row: int) -> None:
        """Take a row out."""
        order = list(range(len(self.lengths)))
        order[row] = order[-1]
        self._select(order[:-1])

    def fork(self, row: int) -> int:
        """Add a copy of a row."""
        self._select([*range(len(self.lengths)), row])
        return len(self.lengths) - 1

    def feed(self, chunks: Sequence[Sequence[int]]) -> torch.Tensor:
        """Append each row's tokens."""
        self._compact()
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
        return states[new.bool()]

    def forget(self, row: int, start: int) -> None:
        """Drop a row's tokens from `start` on."""
        seen = self.mask[row].cumsum(dim=0)
        self.mask[row] = self.mask[row] * (seen <= start)
        self.lengths[row] = min(start, self.lengths[row])

    def _select(self, rows: Sequence[int]) -> None:
        index = torch.tensor(rows, dtype=torch.long, device=self.mask.device)
        self._each(lambda states: states.index_select(0, index) if len(states) else states)
        self.mask = self.mask[index]
        self.lengths = [self.lengths[row] for row in rows]
        if not rows:
            self.cache, self.mask = DynamicCache(), self.mask[:, :0]

    def _compact(self) -> None:
        """Squeeze the holes out where they are many, or in the way: every row's tokens move to the right, in order."""
        width, columns = max(self.lengths), self.mask.shape[1]
        if not columns or (4 * width > 3 * columns and not self.slides):
            return
        order = torch.argsort(self.mask, dim=1, stable=True)[:, columns - width :]
        self._each(lambda states: _pick(states, order))
        self.mask = self.mask.gather(1, order)

    def _each(self, change: Any) -> None:
        layers: list[Any] = self.cache.layers
        for layer in layers:
            if layer.keys is not None:
                layer.keys, layer.values = change(layer.keys), change(layer.values)


def _pick(states: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    index = order[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3])
    return states.gather(2, index)


# Why slots do not fit a generator in a type and on a device; empty where they do.
_TRIED_OUT: WeakKeyDictionary[PreTrainedModel, dict[tuple[torch.dtype, torch.device], str]] = WeakKeyDictionary()


def cache_class(generator: PreTrainedModel) -> type[RowCache]:
    """Return the way of keeping rows that fits a generator; slots are tried out first, once for each generator."""
    if generator.config.get_text_config()._attn_implementation != PACKED:
        return PaddedRows
    tried, state = _TRIED_OUT.setdefault(generator, {}), (generator.dtype, generator.device)
    if state not in tried:
        tried[state] = _against_slots(generator)
        if reason := tried[state]:
            logger.info("%s cannot keep its rows in slots (%s); they are padded", type(generator).__name__, reason)
    return PaddedRows if tried[state] else SlotRows


def _against_slots(generator: PreTrainedModel) -> str:
    try:
        return "" if _slots_agree(generator) else "states differ"
    except _REFUSALS as error:
        return f"{type(error).__name__}: {error}"


@torch.no_grad()
def _slots_agree(generator: PreTrainedModel) -> bool:
    """Whether two rows fed in turns come out of slots as each does whole and alone."""
    table: Any = generator.get_input_embeddings()
    wanted = [[(row + t) * 7919 % int(table.num_embeddings) for t in range(64)] for row in (1, 100)]
    rows = SlotRows(generator, 2)
    found: list[list[torch.Tensor]] = [[], []]
    with at_rest(generator):
        rows.enter()
        rows.enter()
        for new in _TRIED:
            chunks = [wanted[row][rows.lengths[row] :][: new[row]] for row in range(2)]
            for row, states in enumerate(rows.feed(chunks).split(new)):
                found[row].append(states)
        alone = [generator.base_model(torch.tensor([w], device=generator.device)).last_hidden_state for w in wanted]
    layout = rows.cache.layout
    assert layout is not None
    return layout.used and all(
        _close(torch.cat(f), a[0, : len(torch.cat(f))]) for f, a in zip(found, alone, strict=True)
    )


def _close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    off = float((found - wanted).abs().max() / wanted.abs().max())
    return off <= _TOLERANCE.get(wanted.dtype, _HALF_TOLERANCE)
