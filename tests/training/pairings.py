"""Every kind of pair over `tests.bases`, by name, so that a second process can make the same: what proofs run over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from cosup.adapters import LoraSettings
from cosup.model_folder import PairSettings
from cosup.modeling import SHARED, CoSupervisedModel
from tests import pairs

SETTINGS = PairSettings(max_length=200, max_passage_length=24)
LORA = {"adapters": LoraSettings(r=2, alpha=8, dropout=0.1)}

#: Generator, embedder, and what `from_base` gets; `frozen` asks the trainer for it.
PAIRINGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    **{f"{one}+{other}": (one, other, {}) for one in pairs.FAMILIES for other in pairs.FAMILIES},
    "shared": ("llama-tied", SHARED, {}),
    "shared-lora": ("gpt2", SHARED, LORA),
    "one-base": ("gpt2", "gpt2", LORA),
    "two-bases": ("llama", "qwen2", LORA),
    "frozen": ("qwen2", "gpt2", {"freeze_embedder": True}),
}


def start(bases: Path, name: str, dropout: float = 0.0) -> CoSupervisedModel:
    """Return a pair whose trained weights have left their start (an adapter's would be zero), the same every time."""
    generator, embedder, options = PAIRINGS[name]
    torch.manual_seed(0)
    source = SHARED if embedder == SHARED else str(bases / embedder)
    model = CoSupervisedModel.from_base(str(bases / generator), source, SETTINGS, **options)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.02 * torch.randn(p.shape, generator=draw))
    set_dropout(model, dropout)
    return model


def set_dropout(model: CoSupervisedModel, share: float) -> None:
    """Drop this share everywhere the two models or their adapters can."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = share
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = share  # type: ignore[assignment]


def options_of(name: str) -> dict[str, Any]:
    """Return what the trainer's configuration has to say of a pairing."""
    return {"freeze_embedder": True} if "freeze_embedder" in PAIRINGS[name][2] else {}
