"""One vector a text: by hand, whatever the padding, in packed rows too; and the layers after it."""

from __future__ import annotations

import pytest
import torch

from cosup.pooling import POOLINGS, Dense, Head, padded_on_the_right, pool

STATES = [torch.arange(n * 4, dtype=torch.float32).reshape(n, 4) ** 2 for n in (3, 1, 5)]
BY_HAND = {
    "last_token": [s[-1] for s in STATES],
    "cls": [s[0] for s in STATES],
    "mean": [s.sum(dim=0) / len(s) for s in STATES],
}


def padded(right: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Lay the states out with garbage at the padding."""
    states, mask = torch.full((3, 6, 4), 1e6), torch.zeros(3, 6, dtype=torch.long)
    for row, own in enumerate(STATES):
        place = slice(0, len(own)) if right else slice(6 - len(own), 6)
        states[row, place], mask[row, place] = own, 1
    return states, mask


@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_on_either_side_and_packing_change_nothing(pooling: str) -> None:
    wanted = torch.stack(BY_HAND[pooling])
    for right in (True, False):
        states, mask = padded(right)
        torch.testing.assert_close(pool(states, pooling, mask), wanted)
    packed = pool(torch.cat(STATES)[None], pooling, lengths=torch.tensor([3, 1, 5]))
    torch.testing.assert_close(packed, wanted)
    torch.testing.assert_close(pool(STATES[2][None], pooling), wanted[2:])


def test_a_mean_in_half_precision_is_taken_in_float32() -> None:
    states = torch.full((1, 4096, 1), 1.0, dtype=torch.bfloat16)
    states[0, 0] = 4096.0
    assert float(pool(states, "mean")) == pytest.approx((4096 + 4095) / 4096)
    assert float(pool(states, "mean", lengths=torch.tensor([4096]))) == pytest.approx((4096 + 4095) / 4096)


def test_gradients_reach_what_was_pooled() -> None:
    states, mask = padded(right=False)
    for pooling in POOLINGS:
        free = states.clone().requires_grad_(True)
        pool(free, pooling, mask).sum().backward()
        assert free.grad is not None
        assert float(free.grad[mask == 0].abs().sum()) == 0
        assert float(free.grad.sum()) == pytest.approx(12)  # one for each number of each vector


def test_rows_are_moved_to_the_left_in_order() -> None:
    ids = torch.tensor([[9, 9, 4, 5], [9, 1, 2, 3], [7, 8, 9, 9]])
    mask = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1], [1, 1, 0, 0]])
    moved, where = padded_on_the_right(ids, mask)
    assert [row[on.bool()].tolist() for row, on in zip(moved, where, strict=True)] == [[4, 5], [1, 2, 3], [7, 8]]
    assert where.tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 0]]


def test_layers_follow_one_another_with_bias_and_activation() -> None:
    one, two = torch.randn(3, 4), torch.randn(2, 3)
    bias = torch.randn(3)
    head = Head([Dense(one, bias, "torch.nn.modules.activation.Tanh"), Dense(two)])
    x = torch.randn(5, 4)
    torch.testing.assert_close(head(x), torch.tanh(x @ one.T + bias) @ two.T)
    assert head.width == 2
    assert sorted(head.state_dict()) == ["linears.0.bias", "linears.0.weight", "linears.1.weight"]


@pytest.mark.parametrize(
    ("layer", "projects"),
    [
        (Dense(torch.zeros(3, 4)), True),
        (Dense(torch.zeros(4, 4)), False),
        (Dense(torch.zeros(3, 4), torch.zeros(3)), False),
        (Dense(torch.zeros(3, 4), None, "torch.nn.modules.activation.Tanh"), False),
    ],
)
def test_only_a_bias_free_change_of_width_is_a_projection_of_cosup(layer: Dense, projects: bool) -> None:
    assert layer.projects is projects
