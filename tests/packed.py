"""Tiny models of several families, to be given packed rows."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

WORDS = 61


SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPE |= {"vocab_size": WORDS, "max_position_embeddings": 256, "initializer_range": 0.2}


GROUPED = SHAPE | {"num_key_value_heads": 2}


QUIET = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


HALF_SLIDING = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}


CONFIGS: dict[str, Any] = {
    "gpt2": lambda **more: GPT2Config(
        vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4, n_positions=256, initializer_range=0.2, **(QUIET | more)
    ),
    "llama": lambda **more: LlamaConfig(**GROUPED, **more),
    "qwen2": lambda **more: Qwen2Config(**GROUPED, **HALF_SLIDING, **more),
    "qwen3": lambda **more: Qwen3Config(**GROUPED, head_dim=8, **more),
    "mistral": lambda **more: MistralConfig(**GROUPED, sliding_window=6, **more),
}


def made(family: str, head: bool = False, seed: int = 0, **more: Any) -> PreTrainedModel:
    """Return a model of a family, its weights drawn from a seed."""
    torch.manual_seed(seed)
    model: PreTrainedModel = (AutoModelForCausalLM if head else AutoModel).from_config(CONFIGS[family](**more))
    return model


def row_of(lengths: list[int]) -> torch.Tensor:
    """Return a row of random tokens for sequences of these lengths."""
    return torch.randint(3, WORDS, (1, sum(lengths)), generator=torch.Generator().manual_seed(len(lengths)))


def gradients(model: PreTrainedModel, states: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the gradients of a loss in which every state has a weight of its own."""
    weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(1))
    model.zero_grad()
    (states * weights).sum().backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
