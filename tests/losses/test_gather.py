"""The gather of two real processes: values, order, and both gradients, with ranks that have no row."""

from __future__ import annotations

import pytest
import torch

from cosup.losses.gather import agree, gather
from tests.losses import ranks
from tests.losses.conftest import Found

CASES = [(case, gradient) for case in ranks.GATHERED for gradient in ("full", "own")]


@pytest.mark.parametrize(("case", "gradient"), CASES)
def test_rows_come_in_the_order_of_the_ranks(two_ranks: list[Found], case: str, gradient: str) -> None:
    """Row i of rank r is (10 r + i, 10 r + i + 0.5), doubled before it is gathered."""
    counts = ranks.GATHERED[case]
    wanted = [[2.0 * (10 * r + i), 2.0 * (10 * r + i) + 1] for r in range(ranks.WORLD) for i in range(counts[r])]
    for rank, found in enumerate(two_ranks):
        every, offset, _ = found[f"gather {case} {gradient}"]
        assert every.tolist() == wanted
        assert offset.item() == (counts[0] if rank and any(counts) else 0)


@pytest.mark.parametrize(("case", "gradient"), CASES)
def test_the_gradient_is_of_all_losses_or_of_the_own(two_ranks: list[Found], case: str, gradient: str) -> None:
    """Rank r's loss is `sum(w_r * gathered)`, so that row j gets sum_r w_r[j] or the own w_r[j], here doubled."""
    counts = ranks.GATHERED[case]
    weights = [ranks.weights_of(rank, sum(counts)) for rank in range(ranks.WORLD)]
    for rank, found in enumerate(two_ranks):
        own = slice(counts[0] * rank, counts[0] * rank + counts[rank])
        wanted = 2 * (weights[0] + weights[1] if gradient == "full" else weights[rank])[own]
        assert torch.allclose(found[f"gather {case} {gradient}"][2], wanted, atol=1e-12)


@pytest.mark.parametrize("case", ranks.GATHERED)
def test_keys_keep_every_bit(two_ranks: list[Found], case: str) -> None:
    wanted = [2**60 * rank + i for rank in range(ranks.WORLD) for i in range(ranks.GATHERED[case][rank])]
    for found in two_ranks:
        keys, _ = found[f"keys {case}"]
        assert keys.dtype == torch.long
        assert keys.tolist() == wanted


def test_half_precision_stays(two_ranks: list[Found]) -> None:
    for found in two_ranks:
        (every,) = found["bfloat16"]
        assert every.dtype == torch.bfloat16
        assert every[:, 0].tolist() == [0.0, 1.0, 2.0, 10.0]


def test_a_rank_without_a_graph_takes_part_in_backward(two_ranks: list[Found]) -> None:
    """Else the other one would wait for it forever; its gradient is still that of both losses."""
    assert two_ranks[0]["one has a graph"][0].tolist() == [[2.0, 2.0]] * 3
    assert all(found["one has a graph"][1] for found in two_ranks)
    assert not any(found["no graph"][0] for found in two_ranks)


def test_sizes_of_several_tensors_are_agreed_at_once(two_ranks: list[Found]) -> None:
    """Columns: own rows, where they start, all rows, whether any rank has a graph."""
    for rank, found in enumerate(two_ranks):
        wanted = [[[3, 0, 4, 1], [0, 0, 7, 0]], [[1, 3, 4, 1], [7, 0, 7, 0]]][rank]
        assert found["agreed"][0].tolist() == wanted


@pytest.mark.parametrize("gradient", ["full", "own"])
def test_without_processes_it_is_the_tensor_itself(gradient: str) -> None:
    x = torch.ones(3, 2, requires_grad=True)
    every, offset = gather(x, gradient)  # type: ignore[arg-type]
    assert every is x
    assert offset == 0
    (slots,) = agree(x)
    assert (slots.sizes, slots.rank, slots.tracked, slots.offset, slots.size) == ((3,), 0, True, 0, 3)
