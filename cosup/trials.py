"""Whether a model keeps the sequences of a packed row apart: what its architecture says, and what a trial shows.

A trial leaves the model and the random state as they were.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel

from cosup.attention import PACKED, PackedLayout, implementation_of, keeps_apart_itself, packed_inputs

logger = logging.getLogger(__name__)


_KINDS = {"full_attention", "sliding_attention"}  # layer types whose masks are known here


_TRIED = [7, 5]  # tokens of the two sequences that a model is tried with


_REFUSALS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError)


_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}  # largest difference a state may have, over the largest state


_HALF_TOLERANCE = 5e-2


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
    before = implementation_of(model)
    if before == PACKED:
        return True
    if not _may_pack(model):
        logger.info("%s cannot keep the sequences of a packed row apart; its rows are padded", type(model).__name__)
        return False
    if keeps_apart_itself(before):
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


def _may_pack(model: PreTrainedModel) -> bool:
    """What the architecture says of itself."""
    config = model.config.get_text_config()
    implementation = implementation_of(model)
    able = getattr(model, "_supports_attention_backend", False) and model._can_set_attn_implementation()
    causal = getattr(config, "is_causal", True) and not getattr(config, "use_bidirectional_attention", False)
    carries = getattr(model, "_is_stateful", False) or getattr(config, "is_encoder_decoder", False)
    other_layers = set(getattr(config, "layer_types", None) or ()) - _KINDS
    other_masks = other_layers or getattr(config, "attention_chunk_size", None) or getattr(config, "alibi", False)
    known = implementation == "sdpa" or keeps_apart_itself(implementation)
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
