"""Lean layers: the same states, gradients no worse, less kept; what cannot be had is left as it was."""

from __future__ import annotations

import copy
import os
import platform
import subprocess
import sys
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


def test_freed_memory_is_kept_unless_the_user_has_tuned_the_heap(tmp_path: Any) -> None:
    """In a process of its own: what is freed stays with it, so that the next step is given it without new pages."""
    script = """
import os, sys, torch
from cosup.heap import keep_freed_memory
print(keep_freed_memory())
held = torch.ones(50_000_000)
del held
pages = int(open("/proc/self/statm").read().split()[1])
print(pages * os.sysconf("SC_PAGE_SIZE") > 200_000_000 + int(sys.argv[1]))
"""
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        pytest.skip("only with glibc")

    def run(**more: str) -> list[str]:
        words = [sys.executable, "-c", script, "100_000_000"]
        done = subprocess.run(words, env=os.environ | more, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert run() == ["True", "True"]
    assert run(MALLOC_TRIM_THRESHOLD_="1000000")[0] == "False"


def test_what_was_kept_is_given_back(tmp_path: Any) -> None:
    """A process that has trained and goes on with other work does not hold the peak of its training."""
    program = """
import gc, os, torch
from cosup.heap import give_back_freed_memory, keep_freed_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

if keep_freed_memory():
    before = resident()
    tensors = [torch.ones(1 << 20) for _ in range(64)]
    del tensors
    gc.collect()
    assert resident() - before > 200e6
    assert give_back_freed_memory()
    assert resident() - before < 50e6
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
