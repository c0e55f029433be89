"""Packed rows: several sequences one after another in one row, kept apart by attention and positions, no padding.

How it works with transformers' models:

- `enable_packing` sets a model to the attention function `cosup_packed`, registered here with transformers'
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

import contextlib
import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache
from math import inf
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from cosup.groups import HALF, MOST, STEP, Groups, alike, attend_by_products, built_by_length, even, singly

logger = logging.getLogger(__name__)

PACKED = "cosup_packed"

_KINDS = {"full_attention", "sliding_attention"}  # layer types whose masks are known here
_SHORT = 48  # tokens a sequence on average below which a CPU is faster with padded groups
_TRIED = [7, 5]  # tokens of the two sequences that a model is tried with
_REFUSALS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError)
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}  # largest difference a state may have, over the largest state
_HALF_TOLERANCE = 5e-2


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
    implementation = _implementation(model)
    if implementation != PACKED and not _keeps_apart_itself(implementation):
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


def enable_packing(model: PreTrainedModel) -> bool:
    """Set a model up for packed rows, if its architecture can keep the sequences of a row apart.

    What says no: attention that is not exchangeable or is set to `eager`, states carried along the row (Mamba, linear
    attention), encoders, masks other than causal or sliding ones. What is left is tried out, where the weights are at
    hand whole: two short sequences must come out of a packed row as they do alone, without anything random being
    drawn. A model on the meta device or in shards is not tried; call this before.

    Args:
        model: a decoder with or without its head.

    Returns:
        Whether `packed_inputs` can be used; if not, the model is as it was.
    """
    before = _implementation(model)
    if before == PACKED:
        return True
    if not _may_pack(model):
        logger.info("%s cannot keep the sequences of a packed row apart; its rows are padded", type(model).__name__)
        return False
    if _keeps_apart_itself(before):
        return True
    reason = _reason_against(model) if _is_whole(model) else None
    if reason is None:
        model.set_attn_implementation(PACKED)
        return True
    model.set_attn_implementation(before)
    logger.info("%s cannot take packed rows (%s); its rows are padded", type(model).__name__, reason)
    return False


def takes_positions(model: PreTrainedModel) -> bool:
    """Whether a model reads position ids that count from 0 as its own; a model that isn't here whole is believed to.

    RoBERTa and its kin count from their padding id on, and T5 knows no positions: they must be left to themselves.
    """
    if not _is_whole(model):
        return True
    row = trial_row(model, _TRIED[0])
    try:
        with at_rest(model):
            own = model.base_model(input_ids=row, use_cache=False)[0]
            told = model.base_model(
                input_ids=row, use_cache=False, position_ids=torch.arange(_TRIED[0], device=model.device)[None]
            )[0]
    except _REFUSALS:
        return False
    return float((told - own).abs().max() / own.abs().max()) <= _TOLERANCE.get(own.dtype, _HALF_TOLERANCE)


def _implementation(model: PreTrainedModel) -> str:
    return str(model.config.get_text_config()._attn_implementation)


def _keeps_apart_itself(implementation: str) -> bool:
    return "flash" in implementation or implementation == "flex_attention"


def _may_pack(model: PreTrainedModel) -> bool:
    """What the architecture says of itself."""
    config = model.config.get_text_config()
    implementation = _implementation(model)
    able = getattr(model, "_supports_attention_backend", False) and model._can_set_attn_implementation()
    causal = getattr(config, "is_causal", True) and not getattr(config, "use_bidirectional_attention", False)
    carries = getattr(model, "_is_stateful", False) or getattr(config, "is_encoder_decoder", False)
    other_layers = set(getattr(config, "layer_types", None) or ()) - _KINDS
    other_masks = other_layers or getattr(config, "attention_chunk_size", None) or getattr(config, "alibi", False)
    known = implementation == "sdpa" or _keeps_apart_itself(implementation)
    return bool(able and causal and known and not carries and not other_masks)


def _is_whole(model: PreTrainedModel) -> bool:
    """Whether every weight is here, in full."""
    return all(type(p) is torch.nn.Parameter and p.device.type != "meta" for p in model.parameters())


def _reason_against(model: PreTrainedModel) -> str | None:
    """Read two short sequences alone and in one packed row; say what is wrong, None if nothing is."""
    row = trial_row(model, sum(_TRIED))
    try:
        with at_rest(model), torch.autocast(model.device.type, enabled=False):
            alone = [model.base_model(input_ids=ids, use_cache=False)[0] for ids in row.split(_TRIED, dim=1)]
            model.set_attn_implementation(PACKED)
            inputs = packed_inputs(model, torch.tensor(_TRIED, device=model.device))
            together = model.base_model(input_ids=row, use_cache=False, **inputs)[0]
    except _REFUSALS as error:
        return f"{type(error).__name__}: {error}"
    if not _windows_told(model, inputs["packed_layout"]):
        return "its layers do not say how they attend"
    wanted = torch.cat(alone, dim=1)
    off = float((together - wanted).abs().max() / wanted.abs().max())
    return None if off <= _TOLERANCE.get(wanted.dtype, _HALF_TOLERANCE) else f"states differ by {off:.1e}"


def _windows_told(model: PreTrainedModel, layout: PackedLayout) -> bool:
    """Whether attention layers came to us, and asked for the sliding window where the configuration has one."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    slides = "sliding_attention" in (getattr(config, "layer_types", None) or ("sliding_attention",))
    return bool(layout.windows) and (window is None or not slides or window in layout.windows)


def trial_row(model: PreTrainedModel, tokens: int) -> torch.Tensor:
    """Return a row [1, tokens] of different token ids to try a model with."""
    table: Any = model.get_input_embeddings()
    return torch.arange(tokens, device=model.device)[None] * 7919 % int(table.num_embeddings)


@contextlib.contextmanager
def at_rest(model: PreTrainedModel) -> Iterator[None]:
    """Run a block without dropout and gradients, and leave the model's modes and the random state as they were."""
    modes = [(module, module.training) for module in model.modules()]
    devices = [model.device] if model.device.type == "cuda" else []
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            yield
    finally:
        for module, training in modes:
            module.training = training
