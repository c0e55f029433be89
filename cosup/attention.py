"""Packed rows: several sequences one after another in one row, kept apart by attention and positions, no padding.

How it works with transformers' models:

- `trials.enable_packing` sets a model to the attention function `cosup_packed`, registered here with transformers'
  `AttentionInterface`. Without a packed row it is `sdpa`, mask and all, so that padded rows and generation with a
  cache stay as they were.
- `packed_inputs` describes a packed row in transformers' own terms: positions that restart, and the keyword arguments
  of FlashAttention (`cu_seq_lens_q`, ..), which models hand down to their attention layers.
- A model builds a mask before its layers. For a packed row that would be a T x T tensor, so it is given an empty
  four-dimensional one: transformers takes a four-dimensional mask for a finished one and hands it down untouched. The
  attention function below never looks at it; any other cannot use an empty mask and fails, so that an architecture
  that loses the keyword arguments on the way can't mix sequences unseen.
- A model that its user has set to FlashAttention or to flex attention stays there: the first goes by the same keyword
  arguments, for the second transformers builds a block mask from the positions.

Shapes: S sequences, T tokens of the row, H heads, D width of a head, L longest sequence.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from math import inf
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from cosup.groups import HALF, MOST, STEP, Groups, alike, attend_by_products, built_by_length, even, singly

PACKED = "cosup_packed"

_SHORT = 48  # tokens a sequence on average below which a CPU is faster with padded groups


class PackedLayout:
    """Where the sequences of a packed row stand; made once a forward and shared by all layers.

    Args:
        lengths: S lengths, each at least 1.
        device: where the row is.

    Attributes:
        lengths: as above.
        windows: sliding windows that attention layers have asked for so far (None: full attention).
    """

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        if not lengths or min(lengths) < 1:
            raise ValueError(f"lengths of a packed row are {list(lengths)}; expected at least one, each at least 1")
        self.lengths = tuple(lengths)
        self.device = device
        self.windows: set[int | None] = set()
        self._bands: dict[tuple[int, int], torch.Tensor] = {}
        self._biases: dict[tuple[int, int, torch.dtype], torch.Tensor] = {}

    @property
    def tokens(self) -> int:
        """T, the tokens of the row."""
        return sum(self.lengths)

    @cached_property
    def positions(self) -> torch.Tensor:
        """Position ids [1, T], from 0 in each sequence."""
        starts = self.boundaries[:-1].repeat_interleave(self._lengths, output_size=self.tokens)
        return (torch.arange(self.tokens, device=self.device) - starts)[None]

    @cached_property
    def boundaries(self) -> torch.Tensor:
        """Start of each sequence and the end of the last: int32 [S + 1]."""
        return torch.nn.functional.pad(self._lengths.cumsum(0), (1, 0)).to(torch.int32)

    @cached_property
    def _lengths(self) -> torch.Tensor:
        return torch.tensor(self.lengths, device=self.device)

    @cached_property
    def short(self) -> bool:
        """Whether sequences are so short that a CPU is faster with groups of them than with each by itself."""
        return self.tokens < _SHORT * len(self.lengths)

    @cached_property
    def groups(self) -> Groups:
        """The sequences in groups of similar length, padded on the right within each."""
        return Groups(self.lengths, alike(self.lengths), self.device)

    @cached_property
    def even_groups(self) -> Groups:
        """The same with lengths that are multiples of `groups.STEP`; each sequence by itself unless they are short."""
        return Groups(self.lengths, even(self.lengths) if self.short else singly(self.lengths), self.device, STEP)

    def band(self, length: int, window: int) -> torch.Tensor:
        """Return a sliding window's mask, bool [length, length]: a token sees itself and `window` - 1 before it."""
        if (length, window) not in self._bands:
            square = torch.ones(length, length, dtype=torch.bool, device=self.device)
            self._bands[length, window] = square.tril().triu(1 - window)
        return self._bands[length, window]

    def bias(self, length: int, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """Return what is added to scores, [length, length]: minus infinity where a token does not see another."""
        key = (length, window or length, dtype)
        if key not in self._biases:
            seen = self.band(length, window or length)
            self._biases[key] = torch.zeros(length, length, dtype=dtype, device=self.device).masked_fill_(~seen, -inf)
        return self._biases[key]


def packed_inputs(model: PreTrainedModel, lengths: torch.Tensor) -> dict[str, Any]:
    """Return the keyword arguments with which a model reads a packed row.

    Use: `model(input_ids=row, use_cache=False, **packed_inputs(model, lengths))`.

    Args:
        model: what `enable_packing` has said yes to; only its configuration is read.
        lengths: [S] int64 lengths of the sequences, on the row's device.

    Raises:
        ValueError: the model is set to an attention that can't keep sequences apart.
    """
    implementation = implementation_of(model)
    if implementation != PACKED and not keeps_apart_itself(implementation):
        raise ValueError(f"packed rows need enable_packing(model); its attention is '{implementation}'")
    layout = PackedLayout(lengths.tolist(), lengths.device)
    if len(layout.lengths) == 1:
        return {"position_ids": layout.positions}
    longest = max(layout.lengths)
    inputs: dict[str, Any] = {
        "position_ids": layout.positions,
        "cu_seq_lens_q": layout.boundaries,
        "cu_seq_lens_k": layout.boundaries,
        "max_length_q": longest,
        "max_length_k": longest,
    }
    if implementation == PACKED:
        inputs["packed_layout"] = layout
        inputs["attention_mask"] = torch.empty(1, 1, 0, 0, dtype=torch.bool, device=lengths.device)
    return inputs


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each sequence of a packed row; without one, do as `sdpa` does.

    A row counts as packed where `packed_layout` or `cu_seq_lens_q` comes with it. The arguments are those of every
    attention function of transformers.

    Args:
        module: the attention layer.
        query: [1, H, T, D] for a packed row.
        key: [1, H or fewer, T, D].
        value: [1, H or fewer, T, D].
        attention_mask: unused for a packed row.
        dropout: probability with which an attention weight is dropped.
        scaling: of the scores; None is 1 / sqrt(D).
        kwargs: `packed_layout`, where the sequences stand; `slot_layout` in its place, for a row of new tokens over the
            slots of a cache, see `slots.py`; `sliding_window`, of which a token sees itself and one less
            before it; `is_causal`, not False for a packed row; and what else models send.

    Returns:
        [1, T, H, D], and no weights.

    Raises:
        NotImplementedError: the layer asks for what packed rows can't have.
    """
    if (slots := kwargs.get("slot_layout")) is not None:
        _check_attention(module, kwargs)
        return slots.attend(query, key, value, scaling, kwargs.get("sliding_window")), None
    layout: PackedLayout | None = kwargs.get("packed_layout")
    if layout is None and kwargs.get("cu_seq_lens_q") is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    layout = layout or PackedLayout(kwargs["cu_seq_lens_q"].diff().tolist(), query.device)
    _check_packed(module, query, key, layout, kwargs)
    sliding_window: int | None = kwargs.get("sliding_window")
    layout.windows.add(sliding_window)
    query, key, value = _in_autocast(query, key, value)
    if dropout == 0.0 and _varlen_fits(query, value):
        return _attend_varlen(query, key, value, layout, scaling, sliding_window), None

    def attend(*group: torch.Tensor) -> torch.Tensor:
        return _attend_alike(group, layout, dropout, scaling, sliding_window)

    by_length = built_by_length(query.device, query.dtype)
    if query.device.type == "cpu" and not (by_length or layout.short):
        parts = zip(*(x.split(layout.lengths, dim=2) for x in (query, key, value)), strict=True)
        return torch.cat([attend(*part).transpose(1, 2) for part in parts], dim=1), None
    groups = layout.even_groups if by_length else layout.groups
    parts = zip(*(groups.pad(x) for x in (query, key, value)), strict=True)
    return groups.unpad([attend(*part) for part in parts]), None


def _attend_alike(
    group: tuple[torch.Tensor, ...],
    layout: PackedLayout,
    dropout: float,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """Attend within each sequence of a group: queries [S, H, L, D], keys and values [S, H or fewer, L, D]."""
    queries, keys, values = group
    heads, length = queries.shape[1:3]
    by_products = built_by_length(queries.device, queries.dtype) and length <= MOST
    banded = window is not None and window < length
    if by_products or banded:  # neither products nor kernels with a mask take fewer keys than queries
        keys, values = (_repeat_heads(x, heads) for x in (keys, values))
    if by_products:
        bias = layout.bias(length, window, queries.dtype)
        return attend_by_products(queries, keys, values, bias, scaling, dropout)
    mask = layout.band(length, window or 0) if banded else None
    return scaled_dot_product_attention(
        queries, keys, values, mask, dropout, is_causal=not banded, scale=scaling,
        enable_gqa=keys.shape[1] != heads,
    )  # fmt: skip


def _check_packed(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    layout: PackedLayout,
    more: dict[str, Any],
) -> None:
    _check_attention(module, more)
    if query.shape[0] != 1 or not query.shape[2] == key.shape[2] == layout.tokens:
        raise NotImplementedError(
            f"packed rows come alone and without a cache: expected [1, H, {layout.tokens}, D], "
            f"got {list(query.shape)} and {list(key.shape)}"
        )


def _check_attention(module: torch.nn.Module, more: dict[str, Any]) -> None:
    asked = more.get("is_causal")
    causal = getattr(module, "is_causal", True) if asked is None else asked
    extras = [name for name in ("softcap", "s_aux", "position_bias", "cache") if more.get(name) is not None]
    if not causal or extras:
        raise NotImplementedError(f"packed rows cannot have {', '.join(extras) or 'attention to what follows'}")


def _in_autocast(*states: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Cast to what autocast would have attention run in; queries and values may differ (rotary positions)."""
    kind = states[0].device.type
    if torch.is_autocast_enabled(kind):
        return tuple(x.to(torch.get_autocast_dtype(kind)) for x in states)
    return states


def _repeat_heads(states: torch.Tensor, heads: int) -> torch.Tensor:
    own = states.shape[1]
    return states if own == heads else states.repeat_interleave(heads // own, dim=1)


@lru_cache(maxsize=1)
def _varlen() -> tuple[Callable[..., Any], frozenset[str]] | None:
    """Return torch's attention over rows of unequal length and its options; None where it lacks what we need."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    options = frozenset(inspect.signature(varlen_attn).parameters)
    return (varlen_attn, options) if options.issuperset(("scale", "window_size")) else None


def _varlen_fits(query: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether torch's kernel takes these: half precision on CUDA (Ampere or later), heads of a width it knows."""
    if query.device.type != "cuda" or query.dtype not in HALF or query.shape[-1] != value.shape[-1]:
        return False
    if query.shape[-1] % 8 or query.shape[-1] > 256 or _varlen() is None:
        return False
    return torch.version.hip is not None or torch.cuda.get_device_capability(query.device) >= (8, 0)


def _attend_varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: PackedLayout,
    scaling: float | None,
    sliding_window: int | None,
) -> torch.Tensor:
    found = _varlen()
    assert found is not None
    attend, options = found
    more: dict[str, Any] = {}
    if key.shape[1] != query.shape[1]:
        if "enable_gqa" in options:
            more["enable_gqa"] = True
        else:
            key, value = (_repeat_heads(x, query.shape[1]) for x in (key, value))
    longest = max(layout.lengths)
    left = -1 if sliding_window is None or sliding_window >= longest else sliding_window - 1
    row = (x[0].transpose(0, 1) for x in (query, key, value))
    out: torch.Tensor = attend(
        *row, layout.boundaries, layout.boundaries, longest, longest, scale=scaling, window_size=(left, 0), **more
    )
    return out[None]


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)


def implementation_of(model: PreTrainedModel) -> str:
    """Return the name of the attention function that a model is set to."""
    return str(model.config.get_text_config()._attn_implementation)


def keeps_apart_itself(implementation: str) -> bool:
    """Whether an attention function of transformers takes packed rows as it is."""
    return "flash" in implementation or implementation == "flex_attention"
