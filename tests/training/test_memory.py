"""Memory of a step without weights: a pack on fakes takes what a real one takes."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

from cosup.adapters import LoraSettings
from cosup.losses.ntp import linear_ntp_loss_sum
from cosup.training.memory import LiveBytes, PackSettings, head_bytes, pack_bytes, run_counted, run_on_fakes
from tests.pairs import FAMILIES, config

SETTINGS = {
    "plain": PackSettings(),
    "bf16": PackSettings(half=True),
    "sharded": PackSettings(half=True, sharded=True),
    "checkpointed": PackSettings(checkpointing=True),
    "bf16 checkpointed": PackSettings(half=True, checkpointing=True),
    "lora": PackSettings(half=True, adapters=LoraSettings()),
    "lora checkpointed": PackSettings(half=True, checkpointing=True, adapters=LoraSettings()),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
def test_a_pack_on_fakes_takes_what_a_real_one_takes(family: str, checkpointing: bool, half: bool) -> None:
    """The same code on real tensors, counted by what its storages really hold."""
    shape = config(family, 90, width=32, layers=3)
    model: Any = AutoModel.from_config(shape, attn_implementation="cosup_counted").train()
    if checkpointing:
        checkpoint = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
        checkpoint({"use_reentrant": False})
    real = run_counted(model, torch.zeros(1, 200, dtype=torch.long), half)
    assert run_on_fakes(shape, 200, PackSettings(half=half, checkpointing=checkpointing)) == real


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
def test_what_is_kept_for_the_backward_pass_is_most_of_it(half: bool) -> None:
    """An independent measure: the tensors that autograd saves, on the attention that trains."""
    shape = config("llama", 90, width=64, layers=4)
    model = AutoModel.from_config(shape, attn_implementation="sdpa").train()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.zeros(1, 256, dtype=torch.long)
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=half):
        states = model(input_ids=ids, use_cache=False).last_hidden_state
    kept = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    assert states.requires_grad
    assert kept <= pack_bytes(shape, 256, PackSettings(half=half)) <= 1.25 * kept


def test_the_allocator_measures_the_same_peak(tmp_path: Path) -> None:
    """Another independent measure: what the profiler sees the allocator give and take."""
    shape = config("llama", 90, width=64, layers=4)
    model: Any = AutoModel.from_config(shape, attn_implementation="cosup_counted").train()
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    ids = torch.zeros(1, 256, dtype=torch.long)
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        model(input_ids=ids, position_ids=ids, use_cache=False).last_hidden_state.sum().backward()
    profile.export_chrome_trace(str(tmp_path / "trace.json"))
    trace = json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted((e["ts"], e["args"]["Bytes"]) for e in trace if e.get("name") == "[memory]")
    peak = max(itertools.accumulate(size for _, size in changes))
    assert pack_bytes(shape, 256, PackSettings()) == pytest.approx(peak, rel=0.05)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        *(("llama", name) for name in ("plain", "sharded", "bf16 checkpointed", "lora checkpointed")),
        *(("gpt2", name) for name in ("checkpointed", "lora")),
        ("qwen2", "bf16"),
    ],
)
def test_two_and_three_layers_tell_what_five_take(family: str, name: str) -> None:
    shape = config(family, 90, width=32, layers=5)
    assert pack_bytes(shape, 150, SETTINGS[name]) == run_on_fakes(shape, 150, SETTINGS[name])


def test_a_large_vocabulary_can_be_the_peak() -> None:
    """The gradient of the embedding comes last, when the activations have gone."""
    shape = config("llama", 20_000, width=32, layers=5)
    whole = run_on_fakes(shape, 8, PackSettings())
    assert whole > 20_000 * 32 * 4
    assert pack_bytes(shape, 8, PackSettings()) == pytest.approx(whole, rel=0.01)


def test_checkpointing_and_half_precision_save_memory() -> None:
    names = ("plain", "bf16", "sharded", "checkpointed", "lora", "lora checkpointed")
    sizes = {name: pack_bytes(config("llama", 90, width=64, layers=6), 256, SETTINGS[name]) for name in names}
    assert sizes["checkpointed"] < 0.4 * sizes["plain"]
    assert sizes["bf16"] < 0.85 * sizes["plain"]
    assert sizes["sharded"] < sizes["bf16"]
    assert sizes["lora checkpointed"] < 0.4 * sizes["lora"]


def test_the_head_on_fakes_takes_what_a_real_one_takes() -> None:
    states = torch.zeros(40, 16, requires_grad=True)
    weight = torch.zeros(500, 16, requires_grad=True)
    states.grad, weight.grad = torch.zeros_like(states), torch.zeros_like(weight)
    targets = torch.zeros(40, dtype=torch.long)
    with LiveBytes([states, weight, targets, states.grad, weight.grad]) as live:
        linear_ntp_loss_sum(states, weight, None, targets, 8).backward()
        peak = live.peak
    assert head_bytes(500, 16, 40, 8, PackSettings()) == peak
    assert peak < 40 * 500 * 4, "a chunk of logits at a time"
