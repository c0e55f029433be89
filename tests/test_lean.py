"""Lean layers: the same states, gradients no worse, less kept; what cannot be had is left as it was."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import AutoModel, PreTrainedModel

from cosup.attention import packed_inputs
from cosup.groups import FINE, STEP, Groups, even, rounded
from cosup.lean import make_lean, only
from cosup.trials import enable_packing
from tests.packed import gradients, made, row_of

LENGTHS = [70, 33, 90, 5, 64]


def states(model: PreTrainedModel, half: bool = True) -> torch.Tensor:
    inputs = packed_inputs(model, torch.tensor(LENGTHS))
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        found: torch.Tensor = model(input_ids=row_of(LENGTHS), use_cache=False, **inputs).last_hidden_state
    return found.float()


def packed(family: str) -> PreTrainedModel:
    model = made(family)
    assert enable_packing(model)
    return model


def distance(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    assert found.keys() == wanted.keys()
    return max(float((found[n] - wanted[n]).norm() / wanted[n].norm()) for n in wanted)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_states_are_the_same_and_gradients_no_further_from_the_true_ones(family: str) -> None:
    plain, lean, exact = packed(family), packed(family), packed(family)
    assert make_lean(lean)
    wanted, found = states(plain), states(lean)
    assert torch.equal(found, wanted)
    true = gradients(exact, states(exact, half=False))
    off_plain, off_lean = distance(gradients(plain, wanted), true), distance(gradients(lean, found), true)
    assert 0 < off_lean < 1.3 * off_plain


def test_in_full_precision_and_without_gradients_nothing_changes() -> None:
    plain, lean = packed("llama"), packed("llama")
    assert make_lean(lean)
    found, wanted = states(lean, half=False), states(plain, half=False)
    assert torch.equal(found, wanted)
    own, other = gradients(lean, found), gradients(plain, wanted)
    assert all(torch.allclose(own[n], other[n], rtol=1e-5, atol=1e-5) for n in other)
    with torch.no_grad():
        assert torch.equal(states(lean), states(plain))


def test_much_less_is_kept() -> None:
    def kept(model: PreTrainedModel) -> int:
        seen: dict[int, int] = {p.untyped_storage().data_ptr(): 0 for p in model.parameters()}
        alive = []

        def note(t: torch.Tensor) -> torch.Tensor:
            alive.append(t)
            seen.setdefault(t.untyped_storage().data_ptr(), t.untyped_storage().nbytes())
            return t

        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            states(model)
        return sum(seen.values())

    plain, lean = packed("llama"), packed("llama")
    assert make_lean(lean)
    assert kept(lean) < 0.8 * kept(plain)


def test_models_keep_their_names_copies_and_folders(tmp_path: Any) -> None:
    lean, names = packed("llama"), [type(m).__name__ for m in packed("llama").modules()]
    assert make_lean(lean)
    assert not make_lean(lean), "nothing is left to do"
    assert [type(m).__name__ for m in lean.modules()] == names
    assert torch.equal(states(copy.deepcopy(lean)), states(lean))
    lean.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), lean.parameters(), strict=True))


class Exact(torch.nn.Linear):
    """Reads what the norm gives in full precision, whatever autocast says."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            return super().forward(states.float())


def test_a_model_that_would_compute_something_else_is_left_as_it_was() -> None:
    model = packed("llama")
    part: Any = model.layers[1].mlp
    part.gate_proj = Exact(32, 48, bias=False)
    classes, wanted = [type(m) for m in model.modules()], states(model)
    assert not make_lean(model)
    assert [type(m) for m in model.modules()] == classes
    assert torch.equal(states(model), wanted)
    assert not make_lean(made("gpt2")), "it has nothing of the kind"


def test_the_last_layer_runs_for_some_tokens_alone() -> None:
    lean = packed("llama")
    assert make_lean(lean)
    rows = torch.tensor([3, 69, 70, 200, sum(LENGTHS) - 1])
    whole = states(lean)
    weights = torch.randn(len(rows), whole.shape[-1], generator=torch.Generator().manual_seed(0))

    def learn(found: torch.Tensor) -> dict[str, torch.Tensor]:
        lean.zero_grad()
        (found[0, rows] * weights).sum().backward()  # type: ignore[no-untyped-call]
        return {n: p.grad.clone() for n, p in lean.named_parameters() if p.grad is not None}

    with only(lean, rows):
        some = states(lean)
    assert torch.allclose(some[0, rows], whole[0, rows], rtol=1e-2, atol=1e-2)
    assert not torch.allclose(some, whole, rtol=1e-1, atol=1e-1), "all tokens were run"
    assert distance(learn(some), learn(whole)) < 2e-2
    assert torch.equal(states(lean), whole), "it goes on after the block"


def test_layers_that_run_again_in_the_backward_pass_run_for_all_tokens() -> None:
    lean = packed("llama").train()
    assert make_lean(lean)
    getattr(lean, "activation_checkpointing_enable", lean.gradient_checkpointing_enable)()
    whole = states(lean)
    with only(lean, torch.tensor([3])):
        assert torch.equal(states(lean), whole)


def test_few_lengths_are_left() -> None:
    """Kernels that are built for each length would otherwise fill the memory."""
    lengths = torch.randint(1, 600, (300,), generator=torch.Generator().manual_seed(0)).tolist()
    shapes = Groups(lengths, even(lengths), torch.device("cpu"), STEP).shapes
    assert sum(rows for rows, _ in shapes) == len(lengths)
    assert all(longest % STEP == 0 for _, longest in shapes)
    assert len(shapes) <= 600 // STEP + 1
    places = {rounded(tokens) for tokens in range(1024, 4096)}
    assert len(places) <= 2 * FINE + 1
    assert all(tokens <= rounded(tokens) <= tokens * (1 + 1 / FINE) + 16 for tokens in range(1, 5000))
