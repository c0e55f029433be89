"""InfoNCE equals a float64 computation by hand, and counts what is right (proof 1)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cosup.losses.nsp import info_nce

Rows = list[list[float]]


def by_hand(queries: Rows, candidates: Rows, positives: list[int], temperature: float) -> tuple[float, int]:
    """-sum log( exp(s+/t) / (exp(s+/t) + sum_j exp(s-_j/t)) ), and how often s+ is above every s-, in float64."""
    total, correct = 0.0, 0
    for query, positive in zip(queries, positives, strict=True):
        scores = [sum(a * b for a, b in zip(query, c, strict=True)) / temperature for c in candidates]
        negatives = scores[:positive] + scores[positive + 1 :]
        top = max(scores)
        whole = math.exp(scores[positive] - top) + sum(math.exp(s - top) for s in negatives)
        total += math.log(whole) + top - scores[positive]
        correct += all(scores[positive] > s for s in negatives)
    return total, correct


def test_a_known_batch_has_its_known_value() -> None:
    """Scores (2, 0, 1) and (0, 2, 1), positives 0 and 2: log(1 + e^-2 + e^-1) + log(1 + e^-1 + e)."""
    queries = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    candidates = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    result = info_nce(queries, candidates, torch.tensor([0, 2]))
    assert result.loss_sum.item() == pytest.approx(0.4076059644443803 + 1.4076059644443804, rel=1e-6)
    assert result.correct.item() == 1


def test_temperature_divides_the_scores() -> None:
    """Scores 1 and 0 at temperature 0.5: log(1 + e^-2) = 0.1269280110429726."""
    queries, candidates = torch.tensor([[1.0]]), torch.tensor([[1.0], [0.0]])
    result = info_nce(queries, candidates, torch.tensor([0]), temperature=0.5)
    assert result.loss_sum.item() == pytest.approx(0.1269280110429726, rel=1e-6)


@given(
    st.integers(1, 8),
    st.integers(1, 9),
    st.integers(1, 6),
    st.sampled_from([0.05, 0.5, 1.0, 3.0]),
    st.booleans(),
    st.integers(0, 2**31),
)
@settings(max_examples=80, deadline=None)
def test_random_batches_equal_the_computation_by_hand(
    count: int, rivals: int, width: int, temperature: float, cosine: bool, seed: int
) -> None:
    """Inner product and cosine (unit vectors), the paper's temperature and others; several queries may share one."""
    random = torch.Generator().manual_seed(seed)
    queries, candidates = (torch.randn(n, width, generator=random) * 3 for n in (count, rivals))
    if cosine:
        queries, candidates = (torch.nn.functional.normalize(v, dim=-1) for v in (queries, candidates))
    positives = torch.randint(rivals, (count,), generator=random)
    loss, _ = by_hand(queries.double().tolist(), candidates.double().tolist(), positives.tolist(), temperature)
    result = info_nce(queries, candidates, positives, temperature)
    assert result.loss_sum.dtype == torch.float32
    assert result.loss_sum.item() == pytest.approx(loss, rel=1e-4, abs=1e-4)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=6), st.data())
@settings(max_examples=80, deadline=None)
def test_right_is_what_no_other_candidate_equals(scores: list[int], data: st.DataObject) -> None:
    """Whole numbers, so that ties are ties: a tie is not right."""
    positive = data.draw(st.integers(0, len(scores) - 1))
    candidates = torch.tensor(scores, dtype=torch.float32)[:, None]
    result = info_nce(torch.ones(1, 1), candidates, torch.tensor([positive]))
    assert result.correct.item() == by_hand([[1.0]], candidates.tolist(), [positive], 1.0)[1]


def test_equal_scores_everywhere_are_never_right() -> None:
    """A collapsed embedder has accuracy 0, not 1."""
    result = info_nce(torch.ones(4, 3), torch.ones(4, 3), torch.arange(4))
    assert result.correct.item() == 0
    assert result.loss_sum.item() == pytest.approx(4 * math.log(4), rel=1e-6)


def test_the_gradients_are_those_of_float64() -> None:
    """By autograd in float64, through the formula as the paper writes it."""
    random = torch.Generator().manual_seed(1)
    queries, candidates = (torch.randn(n, 4, generator=random, requires_grad=True) for n in (5, 7))
    positives = torch.tensor([0, 3, 3, 6, 1])
    found = torch.autograd.grad(info_nce(queries, candidates, positives, 0.7).loss_sum, [queries, candidates])
    q, c = (v.detach().double().requires_grad_() for v in (queries, candidates))
    exponentials = torch.exp(q @ c.T / 0.7)
    loss = -torch.log(exponentials[torch.arange(5), positives] / exponentials.sum(dim=1)).sum()
    for ours, exact in zip(found, torch.autograd.grad(loss, [q, c]), strict=True):
        assert torch.allclose(ours.double(), exact, atol=1e-5)


def test_half_precision_vectors_are_scored_in_full_precision() -> None:
    queries = torch.full((1, 256), 0.3, dtype=torch.bfloat16)
    candidates = torch.stack([queries[0], queries[0] * 0.99])
    exact = by_hand(queries.double().tolist(), candidates.double().tolist(), [0], 0.05)
    result = info_nce(queries, candidates, torch.tensor([0]), 0.05)
    assert result.loss_sum.item() == pytest.approx(exact[0], rel=1e-4)
    assert result.correct.item() == exact[1]


@pytest.mark.parametrize("rivals", [0, 3])
def test_no_retrieval_is_zero_and_can_be_backpropagated(rivals: int) -> None:
    """Also where the batch brings negatives; every vector gets a gradient, of zero."""
    queries, candidates = torch.zeros(0, 4, requires_grad=True), torch.ones(rivals, 4, requires_grad=True)
    result = info_nce(queries, candidates, torch.zeros(0, dtype=torch.long))
    assert result.loss_sum.item() == 0.0
    assert result.loss_sum.dtype == torch.float32
    assert result.correct.item() == 0
    result.loss_sum.backward()
    assert candidates.grad is not None
    assert not candidates.grad.any()
