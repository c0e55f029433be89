"""Packed rows: the sequences of a row come out, and learn, as they do alone; nothing else changes."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    masking_utils,
)

from cosup import attention
from cosup.attention import PACKED, PackedLayout, packed_inputs
from cosup.trials import enable_packing
from tests.packed import CONFIGS, WORDS, gradients, made, row_of

# Short ones go through padded groups, long ones one by one; lengths that repeat, a single token, one alone.
ROWS = {"short": [9, 3, 12, 1, 9, 7], "long": [50, 81, 64, 30, 96], "uneven": [1, 2, 150], "one": [17]}


def packed_states(model: PreTrainedModel, lengths: list[int]) -> torch.Tensor:
    inputs = packed_inputs(model, torch.tensor(lengths))
    return model(input_ids=row_of(lengths), use_cache=False, **inputs).last_hidden_state


def states_alone(model: PreTrainedModel, lengths: list[int]) -> torch.Tensor:
    parts = row_of(lengths).split(lengths, dim=1)
    return torch.cat([model(input_ids=part, use_cache=False).last_hidden_state for part in parts], dim=1)


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], rtol: float = 1e-5) -> None:
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert torch.allclose(found[name], wanted[name], rtol=rtol, atol=rtol * float(wanted[name].abs().max())), name


@pytest.mark.parametrize("lengths", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("family", CONFIGS)
def test_a_packed_row_equals_its_sequences_alone(family: str, lengths: list[int]) -> None:
    """States and all parameter gradients, against plain `sdpa`; windows of 5 and 6 are shorter than most sequences."""
    plain, packed = made(family), made(family)
    assert enable_packing(packed)
    wanted, found = states_alone(plain, lengths), packed_states(packed, lengths)
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-5)
    assert_same(gradients(packed, found), gradients(plain, wanted))


@pytest.mark.parametrize("lengths", [ROWS["short"], ROWS["long"]], ids=["short", "long"])
@pytest.mark.parametrize("family", CONFIGS)
def test_activation_checkpointing_changes_nothing(family: str, lengths: list[int]) -> None:
    plain, checkpointed = made(family).train(), made(family).train()
    assert enable_packing(plain)
    assert enable_packing(checkpointed)
    # Its name from transformers 5.23 on; it doesn't re-enter by default.
    getattr(checkpointed, "activation_checkpointing_enable", checkpointed.gradient_checkpointing_enable)()
    wanted, found = packed_states(plain, lengths), packed_states(checkpointed, lengths)
    assert torch.equal(found, wanted)
    assert_same(gradients(checkpointed, found), gradients(plain, wanted), rtol=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral"])
def test_autocast_runs_in_its_type_and_stays_close(family: str) -> None:
    """As far from float32 as `sdpa` under autocast is."""
    lengths = [9, 30, 3]
    model = made(family)
    exact = states_alone(model, lengths).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wanted = states_alone(model, lengths)
        assert enable_packing(model)
        found = packed_states(model, lengths)
    noise = float((wanted.detach() - exact).abs().max())
    assert noise > 1e-3
    assert float((found - wanted).detach().abs().max()) < 2 * noise
    found.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_dropout_drops_attention_weights() -> None:
    """Drawn anew at every pass, the same under the same random state, none in evaluation."""
    model = made("llama", attention_dropout=0.5).train()
    assert enable_packing(model)
    for lengths in (ROWS["short"], ROWS["long"]):
        torch.manual_seed(3)
        first = packed_states(model, lengths)
        second = packed_states(model, lengths)
        torch.manual_seed(3)
        assert torch.equal(packed_states(model, lengths), first)
        assert not torch.allclose(first, second, atol=1e-3)
        model.eval()
        assert torch.equal(packed_states(model, lengths), packed_states(model, lengths))
        model.train()


def test_what_stands_elsewhere_in_the_row_is_never_seen() -> None:
    """Other tokens, other order, other neighbours: a sequence's states stay."""
    model = made("llama")
    assert enable_packing(model)
    first, second, third = row_of([12, 7, 20]).split([12, 7, 20], dim=1)

    def states(*parts: torch.Tensor) -> list[torch.Tensor]:
        lengths = [p.shape[1] for p in parts]
        inputs = packed_inputs(model, torch.tensor(lengths))
        together = model(input_ids=torch.cat(parts, dim=1), use_cache=False, **inputs).last_hidden_state
        return list(together.split(lengths, dim=1))

    reference = states(first, second, third)[1]
    for found in (states(third, first, second)[2], states(second, first)[0], states(first * 0 + 5, second)[1]):
        assert torch.allclose(found, reference, atol=1e-5)
    assert not torch.allclose(states(first, second.flip(1))[1], reference, atol=1e-2)


def test_standard_arguments_alone_will_do() -> None:
    """What transformers' own collator for FlashAttention gives: no layout, an empty mask."""
    model = made("qwen2")
    assert enable_packing(model)
    inputs = packed_inputs(model, torch.tensor(ROWS["short"]))
    wanted = model(input_ids=row_of(ROWS["short"]), use_cache=False, **inputs).last_hidden_state
    del inputs["packed_layout"]
    assert torch.equal(model(input_ids=row_of(ROWS["short"]), use_cache=False, **inputs).last_hidden_state, wanted)


# Everything else stays as it was


@pytest.mark.parametrize("family", CONFIGS)
def test_generation_with_a_cache_is_unchanged(family: str) -> None:
    """Sampled and greedy, from prompts padded on the left."""
    plain, packed = made(family, head=True).eval(), made(family, head=True).eval()
    assert enable_packing(packed)
    prompts = torch.randint(3, WORDS, (3, 8))
    mask = torch.ones_like(prompts)
    prompts[1, :5] = mask[1, :5] = 0
    outputs = []
    for model in (plain, packed):
        for sample in (False, True):
            torch.manual_seed(5)
            outputs.append(
                model.generate(
                    prompts, attention_mask=mask, max_new_tokens=12, do_sample=sample, pad_token_id=0, eos_token_id=None
                )
            )
    assert torch.equal(outputs[0], outputs[2])
    assert torch.equal(outputs[1], outputs[3])


@pytest.mark.parametrize("family", CONFIGS)
def test_padded_rows_are_unchanged(family: str) -> None:
    plain, packed = made(family), made(family)
    assert enable_packing(packed)
    ids = row_of([60]).view(4, 15)
    mask = (torch.arange(15) < torch.tensor([15, 4, 9, 1])[:, None]).long()
    both = [m(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state for m in (plain, packed)]
    assert torch.equal(both[0], both[1])


def test_the_saved_model_knows_nothing_of_it(tmp_path: Path) -> None:
    model = made("llama", head=True)
    assert enable_packing(model)
    model.save_pretrained(tmp_path)
    assert PACKED not in (tmp_path / "config.json").read_text(encoding="utf-8")
    assert "attn_implementation" not in json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"


@pytest.mark.parametrize("lengths", [[], [3, 0]])
def test_lengths_are_checked(lengths: list[int]) -> None:
    model = made("llama")
    assert enable_packing(model)
    with pytest.raises(ValueError, match="at least 1"):
        packed_inputs(model, torch.tensor(lengths, dtype=torch.long))


def test_a_packed_call_in_the_wrong_shape_is_refused() -> None:
    model = made("llama")
    assert enable_packing(model)
    inputs = packed_inputs(model, torch.tensor([3, 4]))
    with pytest.raises(NotImplementedError, match="expected \\[1, H, 7, D\\]"):
        model(input_ids=row_of([8]), use_cache=False, **(inputs | {"position_ids": torch.arange(8)[None]}))


# The parts


def test_groups_are_few_and_their_padding_small() -> None:
    lengths = torch.randint(10, 1000, (200,), generator=torch.Generator().manual_seed(0)).tolist()
    shapes = PackedLayout(lengths, torch.device("cpu")).groups.shapes
    assert sum(rows for rows, _ in shapes) == len(lengths)
    assert len(shapes) <= 21  # 100 x 0.8^21 < 1
    assert sum(rows * longest for rows, longest in shapes) < 1.15 * sum(lengths)


@pytest.mark.parametrize("sliding", [False, True])
def test_a_user_who_chose_flex_attention_keeps_it(sliding: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library builds the right block mask from the positions alone (compiled in earnest, here not)."""
    monkeypatch.setattr(masking_utils, "create_block_mask", lambda **k: create_block_mask(**(k | {"_compile": False})))
    model = made("mistral" if sliding else "llama")
    model.set_attn_implementation("flex_attention")
    assert enable_packing(model)
    assert model.config._attn_implementation == "flex_attention"
    lengths = torch.tensor([9, 3, 12])
    inputs = packed_inputs(model, lengths)
    assert "attention_mask" not in inputs
    make = masking_utils.create_sliding_window_causal_mask if sliding else masking_utils.create_causal_mask
    mask = make(model.config, torch.zeros(1, 24, 32), None, None, inputs["position_ids"])
    spots, start = torch.arange(24), torch.zeros((), dtype=torch.long)
    found = mask.mask_mod(start, start, spots[:, None], spots[None])
    owner = torch.repeat_interleave(torch.arange(3), lengths)
    wanted = (owner[:, None] == owner) & (spots[:, None] >= spots)
    assert torch.equal(found, wanted & (spots[:, None] - spots < 6) if sliding else wanted)


def test_flash_attention_gets_restarting_positions_and_boundaries(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not installed here: only what the model would be given is looked at."""
    model = made("llama")
    monkeypatch.setattr(model.config, "_attn_implementation_internal", "flash_attention_2")
    assert enable_packing(model)
    inputs = packed_inputs(model, torch.tensor([2, 3, 1]))
    assert inputs["position_ids"].tolist() == [[0, 1, 0, 1, 2, 0]]
    assert inputs["cu_seq_lens_q"].tolist() == inputs["cu_seq_lens_k"].tolist() == [0, 2, 5, 6]
    assert inputs["cu_seq_lens_q"].dtype == torch.int32
    assert inputs["max_length_q"] == inputs["max_length_k"] == 3
    assert inputs.keys().isdisjoint(("attention_mask", "packed_layout"))


def by_varlen(*row: torch.Tensor, **options: Any) -> torch.Tensor:
    """Stand in for torch's kernel, written from its description: [T, H, D] rows, boundaries, (left, right) window."""
    query, key, value, starts, _, longest, _ = row
    assert longest == int(starts.diff().max())
    left, right = options["window_size"]
    assert right == 0
    outputs = []
    for a, b in pairwise(starts):
        q, k, v = (x[a:b].transpose(0, 1) for x in (query, key, value))
        k, v = (x.repeat_interleave(len(q) // len(k), dim=0) for x in (k, v))
        spots = torch.arange(int(b - a))
        ago = spots[:, None] - spots
        seen = (ago >= 0) & ((ago <= left) | (left < 0))
        scores = (q @ k.mT * options["scale"]).masked_fill(~seen, float("-inf"))
        outputs.append((scores.softmax(-1) @ v).transpose(0, 1))
    return torch.cat(outputs)


@pytest.mark.parametrize("grouped", [False, True], ids=["repeated heads", "enable_gqa"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral"])
def test_the_kernel_for_rows_of_unequal_length_is_given_what_it_describes(
    family: str, grouped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel itself runs on CUDA alone."""
    model = made(family)
    assert enable_packing(model)
    wanted = packed_states(model, ROWS["short"])
    options = frozenset(["scale", "window_size", *(["enable_gqa"] if grouped else [])])
    monkeypatch.setattr(attention, "_varlen", lambda: (by_varlen, options))
    monkeypatch.setattr(attention, "_varlen_fits", lambda query, value: True)
    assert torch.allclose(packed_states(model, ROWS["short"]), wanted, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", CONFIGS)
def test_a_packed_row_on_cuda_equals_its_sequences_alone(family: str) -> None:
    for dtype, allowed in ((torch.bfloat16, 5e-2), (torch.float32, 1e-3)):
        model = made(family).to("cuda", dtype)
        ids, lengths = row_of(ROWS["long"]).cuda(), torch.tensor(ROWS["long"], device="cuda")
        alone = torch.cat([model(input_ids=i, use_cache=False)[0] for i in ids.split(ROWS["long"], dim=1)], dim=1)
        assert enable_packing(model)
        found = model(input_ids=ids, use_cache=False, **packed_inputs(model, lengths))[0]
        assert float((found - alone).abs().max() / alone.abs().max()) < allowed
        found.float().square().mean().backward()
