"""A KV cache of many sequences, each in its slot, fed in one flat row without padding.

Continuous batching feeds sequences at different stages together: one writes a token, the next reads a passage of 150.
Their new tokens lie one after another in one row [1, T]; every layer of the model but attention works on the row as it
is. Keys and values go to [slots, heads, capacity, width] at the sequence's own positions, so nothing is moved when
sequences come, go, or take tokens back: a shorter length is all there is to forgetting.

How it works with transformers' models: `SlotCache` is one of its caches; a `SlotLayout` goes along as a keyword
argument and is called by the attention function that `trials.enable_packing` has set. As for packed rows, an empty
four-dimensional mask keeps a mask from being built, and a model that loses the keyword argument fails on it.

Shapes: T new tokens, S slots in use, H heads, K key-value heads, G = H / K, D width of a head, Q most new tokens of a
short chunk, C keys that short chunks look at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

SHORT = 24  # new tokens up to which chunks are attended all at once, padded to the longest of them
_ROOM = 64  # capacity grows in steps of this


@dataclass(frozen=True)
class Chunk:
    """New tokens of one sequence.

    Attributes:
        slot: where its keys and values are.
        start: position of its first new token: the tokens that the slot holds.
        length: new tokens, at least 1.
    """

    slot: int
    start: int
    length: int

    @property
    def end(self) -> int:
        """Tokens of the sequence after this chunk."""
        return self.start + self.length


class SlotLayout:
    """Where the new tokens of a flat row belong; made once a forward and shared by all layers.

    Args:
        chunks: in the order in which their tokens lie in the row, at most one a slot.
        slots: S, slots in use: 0 to S - 1.
        device: where the row is.
        filling: tokens at the row's end that belong to no sequence: they are not kept, and what comes of them is of no
            use.
    """

    def __init__(self, chunks: Sequence[Chunk], slots: int, device: torch.device, filling: int = 0) -> None:
        self.chunks = tuple(chunks)
        self.slots = slots
        self.device = device
        self.filling = filling
        self.tokens = sum(chunk.length for chunk in chunks)
        self.longest = max(chunk.end for chunk in chunks)
        #: Whether attention layers came to us: a model whose layers do not cannot use slots.
        self.used = False
        self.windows: set[int | None] = set()

    @cached_property
    def lengths(self) -> torch.Tensor:
        """New tokens of each chunk."""
        return torch.tensor([chunk.length for chunk in self.chunks], device=self.device)

    @cached_property
    def positions(self) -> torch.Tensor:
        """Position of each new token in its sequence: [T]."""
        return torch.cat([torch.arange(chunk.start, chunk.end) for chunk in self.chunks]).to(self.device)

    @property
    def position_ids(self) -> torch.Tensor:
        """The row's positions [1, T and filling], as models take them."""
        return torch.nn.functional.pad(self.positions, (0, self.filling))[None]

    @cached_property
    def slot_of(self) -> torch.Tensor:
        """Slot of each new token: [T]."""
        return torch.tensor([chunk.slot for chunk in self.chunks], device=self.device).repeat_interleave(self.lengths)

    @cached_property
    def _short(self) -> _Short | None:
        tokens: list[int] = []
        chunks, begin = [], 0
        for chunk in self.chunks:
            if chunk.length <= SHORT:
                tokens += range(begin, begin + chunk.length)
                chunks.append(chunk)
            begin += chunk.length
        return _Short(chunks, tokens, self.slots, self.device) if chunks else None

    def attend(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scaling: float | None = None,
        window: int | None = None,
    ) -> torch.Tensor:
        """Let every new token attend to its own sequence up to itself.

        Args:
            query: [1, H, T and filling, D].
            keys: [slots, K, capacity, D], the new ones included.
            values: likewise.
            scaling: of the scores; None is 1 / sqrt(D).
            window: how many tokens a token sees, itself included; None sees all.

        Returns:
            [1, T and filling, H, D].
        """
        self.used = True
        self.windows.add(window)
        rows_THD = query[0].transpose(0, 1)
        short = self._short
        if short is not None and len(short.tokens) == len(rows_THD):
            return short.attend(rows_THD, keys, values, scaling, window)[None]
        out = query.new_empty(*rows_THD.shape[:2], values.shape[-1])
        out[self.tokens :] = 0
        if short is not None:
            out[short.tokens] = short.attend(rows_THD[short.tokens], keys, values, scaling, window)
        begin = 0
        for chunk in self.chunks:
            if chunk.length > SHORT:
                part = slice(begin, begin + chunk.length)
                seen = (slice(chunk.slot, chunk.slot + 1), slice(None), slice(chunk.end))
                out[part] = _attend_long(query[:, :, part], keys[seen], values[seen], chunk, scaling, window)
            begin += chunk.length
        return out[None]


class _Short:
    """The chunks of few new tokens, attended all at once over the slots as they lie.

    Slots that have no short chunk take part with a query of zeros that sees one key: copying the others' keys out would
    cost more.

    Args:
        chunks: in the order of their tokens.
        tokens: their places in the row.
        slots: S.
        device: where the row is.
    """

    def __init__(self, chunks: Sequence[Chunk], tokens: Sequence[int], slots: int, device: torch.device) -> None:
        self.tokens = torch.tensor(tokens, device=device)
        self.slots = slots
        self.queries = max(chunk.length for chunk in chunks)
        self.keys = max(chunk.end for chunk in chunks)
        #: Whether each slot has one new token and they lie in the slots' order, so that nothing has to be moved.
        self.in_place = [(chunk.slot, chunk.length) for chunk in chunks] == [(slot, 1) for slot in range(slots)]
        self._chunks = chunks
        places = [chunk.slot * self.queries + column for chunk in chunks for column in range(chunk.length)]
        self._places = torch.tensor(places, device=device)
        self._masks: dict[tuple[int, int | None], torch.Tensor | None] = {}

    def attend(
        self,
        rows_NHD: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scaling: float | None,
        window: int | None,
    ) -> torch.Tensor:
        """Attend for the short chunks' tokens [N, H, D]; returns [N, H, D]."""
        heads, kv_heads = rows_NHD.shape[1], keys.shape[1]
        share = heads // kv_heads
        if self.in_place:
            grid = rows_NHD[:, None]
        else:
            flat = rows_NHD.new_zeros(self.slots * self.queries, *rows_NHD.shape[1:])
            grid = flat.index_copy_(0, self._places, rows_NHD).unflatten(0, (self.slots, self.queries))
        # Heads that share keys become queries side by side: [S, K, G * Q, D].
        folded = grid.unflatten(2, (kv_heads, share)).permute(0, 2, 3, 1, 4).flatten(2, 3)
        out = scaled_dot_product_attention(
            folded,
            keys[: self.slots, :, : self.keys],
            values[: self.slots, :, : self.keys],
            self._mask(share, window),
            scale=scaling,
        )
        spread = out.unflatten(2, (share, self.queries)).permute(0, 3, 1, 2, 4).flatten(2, 3)
        found: torch.Tensor = spread.flatten(0, 1)
        return found if self.in_place else found.index_select(0, self._places)

    def _mask(self, share: int, window: int | None) -> torch.Tensor | None:
        """Return what each query sees: bool [S, 1, G * Q, C]; None where that is everything."""
        if (share, window) not in self._masks:
            self._masks[share, window] = self._made_mask(share, window)
        return self._masks[share, window]

    def _made_mask(self, share: int, window: int | None) -> torch.Tensor | None:
        if self.slots == 1 and self.queries == 1 and (window is None or self.keys <= window):
            return None
        ends = torch.zeros(self.slots, self.queries, dtype=torch.long)  # what is no token sees the first key
        for chunk in self._chunks:
            ends[chunk.slot, : chunk.length] = torch.arange(chunk.start, chunk.end)
        columns = torch.arange(self.keys)
        sees = columns <= ends[:, :, None]
        if window is not None:
            sees &= columns > ends[:, :, None] - window
        return sees[:, None, None].expand(-1, 1, share, -1, -1).flatten(2, 3).to(self.tokens.device)


def _attend_long(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    chunk: Chunk,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """Attend for one chunk: query [1, H, n, D], keys and values [1, K, end, D]; returns [n, H, D]."""
    causal = chunk.start == 0 and (window is None or chunk.end <= window)
    mask = None
    if not causal:  # kernels with a mask want as many keys as queries
        share = query.shape[1] // keys.shape[1]
        keys, values = (x.repeat_interleave(share, dim=1) if share > 1 else x for x in (keys, values))
        square = torch.ones(chunk.length, chunk.end, dtype=torch.bool, device=query.device)
        mask = square.tril(chunk.start)
        mask = mask if window is None else mask.triu(chunk.start + 1 - window)
    gqa = query.shape[1] != keys.shape[1]
    out = scaled_dot_product_attention(query, keys, values, mask, is_causal=causal, scale=scaling, enable_gqa=gqa)
    return out[0].transpose(0, 1)


@dataclass
class _Going:
    """What the layers of a cache share; apart from it, so that nothing refers to itself and memory is freed at once."""

    most: int
    layout: SlotLayout | None = None


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, [slots, K, capacity, D] each, grown as needed.

    Args:
        going: where new tokens belong; its cache's.
    """

    def __init__(self, going: _Going) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.going = going
        self.stored: list[torch.Tensor] = []

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Take type, heads and width from the first tokens."""
        self.stored = [x.new_empty(0, x.shape[1], 0, x.shape[3]) for x in (key_states, value_states)]
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put a flat row's new keys and values [1, K, T and filling, D] into their slots; return all slots."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        layout = self.going.layout
        assert layout is not None
        self._reserve(layout.slots, layout.longest)
        for stored, new in zip(self.stored, (key_states, value_states), strict=True):
            stored[layout.slot_of, :, layout.positions] = new[0].transpose(0, 1)[: layout.tokens]
        keys, values = self.stored
        return keys, values

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy a slot's first tokens to another slot."""
        if self.is_initialized and length:
            self._reserve(target + 1, length)
            for states in self.stored:
                states[target, :, :length] = states[source, :, :length]

    def _reserve(self, slots: int, length: int) -> None:
        have, room = self.stored[0].shape[0], self.stored[0].shape[2]
        if slots <= have and length <= room:
            return
        slots = have if slots <= have else max(slots, min(2 * have, self.going.most))
        room = room if length <= room else -(-max(length, room + room // 2) // _ROOM) * _ROOM
        self.stored = [_grown(states, slots, room) for states in self.stored]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return what a mask would have to cover; none is built."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """Return 0: sequences have lengths of their own, and positions are always given."""
        return 0

    def get_max_length(self) -> int:
        """Return -1: it grows."""
        return -1


def _grown(states: torch.Tensor, slots: int, room: int) -> torch.Tensor:
    """Return a larger tensor with the old content; what is new is zero, so that nothing that is not seen is NaN."""
    larger = states.new_zeros(slots, states.shape[1], room, states.shape[3])
    larger[: states.shape[0], :, : states.shape[2]] = states
    return larger


class SlotCache(Cache):
    """transformers' cache over slots; `layout` says where the new tokens of the next forward belong.

    Args:
        layers: of the model.
        most: slots that will be in use at most; more are possible.
    """

    def __init__(self, layers: int, most: int) -> None:
        self._going = _Going(most)
        self._own = [SlotLayer(self._going) for _ in range(layers)]
        super().__init__(layers=list(self._own))

    @property
    def layout(self) -> SlotLayout | None:
        """Where the new tokens of the forward that is going on belong."""
        return self._going.layout

    @layout.setter
    def layout(self, layout: SlotLayout | None) -> None:
        self._going.layout = layout

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of a slot to another."""
        for layer in self._own:
            layer.copy(source, target, length)
