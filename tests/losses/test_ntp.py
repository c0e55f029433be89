"""NTP equals a float64 computation by hand (proof 1)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cosup.losses.ntp import ntp_loss_sum


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
