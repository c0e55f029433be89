"""NTP equals a float64 computation by hand (proof 1)."""

from __future__ import annotations

import math
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from cosup.losses import ntp
from cosup.losses.ntp import LearntRows, linear_ntp_loss_sum, ntp_loss_sum


def by_hand(logits: list[list[float]], targets: list[int]) -> float:
    """-sum_i log( exp(l_i[t_i]) / sum_v exp(l_i[v]) ), in Python's float64, shifted so that nothing overflows."""
    total = 0.0
    for row, target in zip(logits, targets, strict=True):
        top = max(row)
        total += top + math.log(sum(math.exp(x - top) for x in row)) - row[target]
    return total


def test_a_known_batch_has_its_known_value() -> None:
    """Probabilities 1/4, 1/2 and 3/4 of the targets: log 4 + log 2 + log(4/3) = log(32/3) = 2.36712361413161."""
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [math.log(3), 0.0, 0.0, 0.0], [math.log(9), 0.0, 0.0, 0.0]])
    assert ntp_loss_sum(logits, torch.tensor([2, 0, 0])).item() == pytest.approx(2.36712361413161, rel=1e-6)


@given(st.integers(1, 12), st.integers(2, 30), st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_random_batches_equal_the_computation_by_hand(count: int, words: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, words, generator=random) * 8
    targets = torch.randint(words, (count,), generator=random)
    expected = by_hand(logits.double().tolist(), targets.tolist())
    found = ntp_loss_sum(logits, targets)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_the_gradient_is_the_probability_less_one_at_the_target() -> None:
    logits = torch.randn(3, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = torch.tensor([1, 6, 0])
    (gradient,) = torch.autograd.grad(ntp_loss_sum(logits, targets), logits)
    expected = torch.softmax(logits.double(), dim=1)
    expected[torch.arange(3), targets] -= 1
    assert torch.allclose(gradient.double(), expected, atol=1e-6)


def test_half_precision_logits_are_summed_in_full_precision() -> None:
    """1,000 equal positions of log 2 each; bf16 could not even hold the sum."""
    logits = torch.zeros(1000, 2, dtype=torch.bfloat16)
    loss = ntp_loss_sum(logits, torch.zeros(1000, dtype=torch.long))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(1000 * math.log(2), rel=1e-5)


def test_nothing_supervised_is_zero_and_can_be_backpropagated() -> None:
    logits = torch.zeros(0, 5, requires_grad=True)
    loss = ntp_loss_sum(logits, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0.0


# The head and the loss in one


def head(
    count: int = 23, width: int = 8, words: int = 50, bias: bool = True, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Return states, weight, bias and targets; the same values in every type."""
    random = torch.Generator().manual_seed(0)
    states, weight, shift = (torch.randn(*s, generator=random) for s in ((count, width), (words, width), (words,)))
    made = [x.to(dtype).requires_grad_() for x in (states, weight, shift)]
    return made[0], made[1], made[2] if bias else None, torch.randint(words, (count,), generator=random)


def gradients(loss: torch.Tensor, *leaves: torch.Tensor | None, scale: float = 1.0) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss * scale, [x for x in leaves if x is not None]))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("chunk", [1, 7, 23, 100, None])
def test_chunks_equal_the_whole_in_float64(chunk: int | None, bias: bool) -> None:
    """Loss and all gradients, with a loss that is divided and weighted afterwards."""
    exact = head(bias=bias, dtype=torch.float64)
    logits = torch.nn.functional.linear(*exact[:3])
    wanted_loss = torch.nn.functional.cross_entropy(logits, exact[3], reduction="sum")
    assert wanted_loss.item() == pytest.approx(by_hand(logits.tolist(), exact[3].tolist()), rel=1e-12)
    mine = head(bias=bias)
    loss = linear_ntp_loss_sum(*mine, chunk)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(wanted_loss.item(), rel=1e-6)
    found = gradients(loss, *mine[:3], scale=0.3)
    for a, b in zip(found, gradients(wanted_loss, *exact[:3], scale=0.3), strict=True):
        assert a.dtype == torch.float32
        assert torch.allclose(a.double(), b, rtol=1e-5, atol=1e-6)


def test_large_logits_do_not_overflow() -> None:
    states, weight, _, targets = head(bias=False)
    loss = linear_ntp_loss_sum(states * 1e4, weight, None, targets, 7)
    logits = (states * 1e4).double() @ weight.double().T
    assert loss.item() == pytest.approx(by_hand(logits.tolist(), targets.tolist()), rel=1e-5)
    assert all(g.isfinite().all() for g in gradients(loss, states, weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32 weights", "bfloat16 weights"])
def test_bfloat16_is_close(dtype: torch.dtype) -> None:
    """Under autocast with float32 weights, and with weights in bfloat16 and no autocast; gradients in their types."""
    exact, mine = head(300, 16, 80), head(300, 16, 80, dtype=dtype)
    wanted = linear_ntp_loss_sum(*exact)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.float32):
        found = linear_ntp_loss_sum(*mine, 64)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(wanted.item(), rel=1e-2)
    for a, b in zip(gradients(found, *mine[:3]), gradients(wanted, *exact[:3]), strict=True):
        assert a.dtype == dtype
        assert float((a.float() - b).norm() / b.norm()) < 2e-2
    assert found.item() != wanted.item(), "the products have run in bfloat16"


def _same_storage(one: torch.Tensor, other: Any) -> bool:
    return isinstance(other, torch.Tensor) and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


class Watch(TorchDispatchMode):
    """Notes the largest tensor that any operation makes; a view makes none."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0
        self.products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and not any(_same_storage(out, x) for x in args):
            self.largest = max(self.largest, out.numel())
        self.products += func in (torch.ops.aten.mm.default, torch.ops.aten.addmm_.default)
        return out


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_no_tensor_is_larger_than_a_chunk_of_logits(bias: bool, autocast: bool) -> None:
    """400 positions x 300 words, 20 at a time; the weight is 300 x 8. The plain way is seen to make the whole."""
    states, weight, shift, targets = head(400, 8, 300, bias)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        with Watch() as watch:
            linear_ntp_loss_sum(states, weight, shift, targets, 20).backward()
        assert watch.largest == 20 * 300
        with Watch() as plain:
            ntp_loss_sum(torch.nn.functional.linear(states, weight, shift), targets).backward()
        assert plain.largest == 400 * 300


def test_only_wanted_gradients_are_worked_out() -> None:
    """Three products a chunk for states and weight, two where the head is frozen, one where nothing is wanted."""
    states, weight, shift, targets = head(20)
    for needs, products in (((True, True), 3), ((True, False), 2), ((False, False), 1)):
        inputs = [x.detach().requires_grad_(need) for x, need in zip((states, weight), needs, strict=True)]
        with Watch() as watch:
            loss = linear_ntp_loss_sum(*inputs, shift.detach() if shift is not None else None, targets, 10)
            if any(needs):
                loss.backward()
        assert watch.products == 2 * products
        assert [x.grad is not None for x in inputs] == list(needs)
    with Watch() as watch, torch.no_grad():
        loss = linear_ntp_loss_sum(states, weight, shift, targets, 10)
    assert watch.products == 2
    assert not loss.requires_grad


def learnt_rows(width: int, dtype: torch.dtype = torch.float32) -> LearntRows:
    random = torch.Generator().manual_seed(4)
    return LearntRows(torch.tensor([3, 0, 41]), torch.randn(3, width, generator=random).to(dtype).requires_grad_())


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("chunk", [1, 7, None])
def test_learnt_rows_stand_in_place_of_a_frozen_heads(chunk: int | None, bias: bool) -> None:
    """Loss and gradients are those of the head with the rows put into a copy of it, in float64."""
    exact, own = head(bias=bias, dtype=torch.float64), learnt_rows(8, torch.float64)
    exact[3][:5] = torch.tensor([3, 0, 41, 3, 7])
    whole = exact[1].detach().index_copy(0, own.ids, own.rows)
    wanted = torch.nn.functional.cross_entropy(
        torch.nn.functional.linear(exact[0], whole, exact[2]), exact[3], reduction="sum"
    )
    states, weight, shift, _ = head(bias=bias)
    rows = learnt_rows(8)
    loss = linear_ntp_loss_sum(states, weight.detach(), shift, exact[3], chunk, rows)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    with torch.no_grad():
        assert linear_ntp_loss_sum(states, weight, shift, exact[3], chunk, rows).item() == pytest.approx(loss.item())
    found = gradients(loss, states, shift, rows.rows, scale=0.3)
    for a, b in zip(found, gradients(wanted, exact[0], exact[2], own.rows, scale=0.3), strict=True):
        assert torch.allclose(a.double(), b, rtol=1e-5, atol=1e-6)


def test_learnt_rows_cost_no_copy_of_the_head() -> None:
    """5 positions at a time of 300 words, a head of 300 x 64: nothing as large as the head is made."""
    states, weight, _, targets = head(20, 64, 300, bias=False)
    rows = learnt_rows(64)
    with Watch() as watch:
        linear_ntp_loss_sum(states, weight.detach(), None, targets, 5, rows).backward()
    assert watch.largest == 5 * 300


def test_no_position_gives_zero_with_gradients_of_zero() -> None:
    states, weight, shift, targets = head(0)
    loss = linear_ntp_loss_sum(states, weight, shift, targets)
    assert loss.item() == 0.0
    found = gradients(loss, states, weight, shift)
    assert found[0].shape == (0, 8)
    assert not found[1].any()
    assert not found[2].any()


def test_a_second_backward_is_refused() -> None:
    """The gradients have been handed over, and may have been added to since."""
    states, weight, shift, targets = head()
    loss = linear_ntp_loss_sum(states, weight, shift, targets)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backpropagated already"):
        loss.backward()


@pytest.mark.parametrize("chunk", [0, -1])
def test_a_chunk_below_one_is_refused(chunk: int) -> None:
    with pytest.raises(ValueError, match=f"chunk is {chunk}"):
        linear_ntp_loss_sum(*head(), chunk)


# Liger-Kernel: its own kernels need a GPU; what it is given is looked at through a stand-in with its interface.


class Stand:
    """Has the constructor and the call of `LigerFusedLinearCrossEntropyLoss`."""

    def __init__(self, reduction: str = "mean", accum_dtype: torch.dtype | None = None) -> None:
        assert accum_dtype is torch.float32
        self.reduction = reduction

    def __call__(
        self, lin_weight: torch.Tensor, _input: torch.Tensor, target: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        logits = torch.nn.functional.linear(_input, lin_weight, bias)
        return torch.nn.functional.cross_entropy(logits, target, reduction=self.reduction)


class OldStand:
    """Cannot be told to add up in float32."""

    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = reduction


def install(monkeypatch: pytest.MonkeyPatch, loss: type) -> None:
    package, module = ModuleType("liger_kernel"), ModuleType("liger_kernel.transformers")
    module.LigerFusedLinearCrossEntropyLoss = loss  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "liger_kernel", package)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", module)


def test_liger_kernel_is_found_and_given_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = head()
    wanted = linear_ntp_loss_sum(*mine)
    install(monkeypatch, Stand)
    fused = ntp._liger.__wrapped__()
    assert fused is not None
    found = ntp._liger_loss_sum(fused, *mine, torch.float32)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)
    for a, b in zip(gradients(found, *mine[:3]), gradients(wanted, *mine[:3]), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    install(monkeypatch, OldStand)
    assert ntp._liger.__wrapped__() is None
