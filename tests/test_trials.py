"""Trying a model out: no trace is left, and who cannot keep sequences apart is found out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BloomConfig,
    LlamaConfig,
    MambaConfig,
    NemotronConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from cosup.attention import PACKED, packed_inputs
from cosup.trials import enable_packing
from tests.packed import GROUPED, WORDS, made


def test_trying_a_model_out_leaves_no_trace() -> None:
    """Modes, gradients, weights and the random state are as before."""
    model = made("gpt2", attn_pdrop=0.5).train()
    model.wte.eval()
    weights = copy.deepcopy(model.state_dict())
    torch.manual_seed(11)
    state = torch.get_rng_state()
    assert enable_packing(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert model.h.training
    assert not model.wte.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert enable_packing(model), "asking again does no harm"


def test_architectures_that_cannot_keep_sequences_apart_are_left_alone() -> None:
    """Alibi in the model's own attention; states carried along; an encoder; no sdpa; an sdpa of its own."""
    small = {"vocab_size": WORDS, "hidden_size": 32}
    models: list[Any] = [
        AutoModelForCausalLM.from_config(BloomConfig(**small, n_layer=1, n_head=2)),
        AutoModelForCausalLM.from_config(MambaConfig(**small, num_hidden_layers=1, state_size=4)),
        T5ForConditionalGeneration(T5Config(vocab_size=WORDS, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)),
        AutoModelForCausalLM.from_config(LlamaConfig(**GROUPED), attn_implementation="eager"),
        AutoModelForCausalLM.from_config(NemotronConfig(**GROUPED)),
    ]
    for model in models:
        before = model.config._attn_implementation
        assert not enable_packing(model), type(model).__name__
        assert model.config._attn_implementation == before
        with pytest.raises(ValueError, match="need enable_packing"):
            packed_inputs(model, torch.tensor([2, 3]))


def test_a_model_that_mixes_sequences_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its layers add the state before to each state, whatever sequence that belongs to."""
    model = made("llama")
    layer = model.layers[1]
    forward = layer.mlp.forward
    monkeypatch.setattr(layer.mlp, "forward", lambda x: forward(x + x.roll(1, dims=1)))
    assert not enable_packing(model)
    assert model.config._attn_implementation == "sdpa"


def test_a_window_that_the_layers_do_not_tell_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two sequences it is tried with are shorter than the window, so that no state would show it."""
    model = made("mistral")
    model.config.sliding_window = 100
    plain = copy.deepcopy(model.config)
    plain.sliding_window = None
    for layer in model.layers:
        told = copy.deepcopy(plain)
        told._attn_implementation_internal = PACKED
        monkeypatch.setattr(layer.self_attn, "config", told)
    assert not enable_packing(model)


def test_a_model_without_weights_goes_by_what_it_says() -> None:
    with torch.device("meta"):
        model = made("llama")
        assert enable_packing(model)
        assert not enable_packing(AutoModel.from_config(MambaConfig(vocab_size=WORDS, hidden_size=32, state_size=4)))
