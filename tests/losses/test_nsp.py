"""InfoNCE equals a float64 computation by hand, and counts what is right (proof 1)."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cosup.losses.nsp import Contrast, ContrastOptions, contrast, info_nce, join
from tests.losses import ranks
from tests.losses.conftest import Found
from tests.losses.reference import expected

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


# Contrast: what is a negative of what

OPTIONS = st.builds(ContrastOptions, st.just(None), st.booleans(), st.booleans(), st.booleans())


def part(
    queries: Rows, candidates: Rows, positives: list[int], keys: list[int] | None = None, **others: list[int]
) -> Contrast:
    """Return a part whose candidates, answers and examples all differ, but for the keys given."""
    count, rivals = len(queries), len(candidates)
    return Contrast(
        torch.tensor(queries, dtype=torch.float64).reshape(count, -1),
        torch.tensor(candidates, dtype=torch.float64).reshape(rivals, -1),
        torch.tensor(positives),
        torch.tensor(list(range(rivals)) if keys is None else keys),
        torch.tensor(others.get("answers", [0] * count)),
        torch.tensor(others.get("examples", list(range(count)))),
    )


ALONE = ContrastOptions(gather=None)
# One query and one candidate: the score is the product of the two numbers.
TWO = ([[1.0], [2.0]], [[3.0], [1.0], [-1.0]], [0, 1])


def test_without_masks_it_is_plain_info_nce() -> None:
    """Scores (3, 1, -1) and (6, 2, -2), positives 0 and 1, by hand."""
    result = contrast(part(*TWO), ALONE)
    first = math.log(1 + math.exp(-2) + math.exp(-4))
    second = math.log(1 + math.exp(4) + math.exp(-4))
    assert result.loss_sum.item() == pytest.approx(first + second, rel=1e-12)
    assert result.correct.item() == 1
    assert result.negatives.item() == 4


def test_symmetric_is_the_mean_of_two_directions() -> None:
    """Passage 3 scores 3 and 6 with the queries and wants the first; passage 1 scores 1 and 2, wants the second."""
    result = contrast(part(*TWO), ContrastOptions(gather=None, symmetric=True))
    forward = math.log(1 + math.exp(-2) + math.exp(-4)) + math.log(1 + math.exp(4) + math.exp(-4))
    backward = math.log(1 + math.exp(3)) + math.log(1 + math.exp(-1))
    assert result.loss_sum.item() == pytest.approx((forward + backward) / 2, rel=1e-12)
    assert result.negatives.item() == 4


def test_a_passage_that_stands_twice_is_one_candidate_the_first() -> None:
    """Candidates 0 and 2 are one passage: the second query, whose positive is 2, scores the vector of 0."""
    doubled = part([[1.0], [2.0]], [[3.0], [1.0], [-1.0]], [1, 2], keys=[7, 8, 7])
    result = contrast(doubled, ALONE)
    wanted = math.log(1 + math.exp(2)) + math.log(1 + math.exp(-4))
    assert result.loss_sum.item() == pytest.approx(wanted, rel=1e-12)
    assert result.negatives.item() == 2
    kept = contrast(doubled, ContrastOptions(gather=None, mask_same_passage=False))
    scores = [(3.0, 1.0, -1.0), (6.0, 2.0, -2.0)]
    wanted = sum(math.log(sum(math.exp(s - row[p]) for s in row)) for row, p in zip(scores, [1, 2], strict=True))
    assert kept.loss_sum.item() == pytest.approx(wanted, rel=1e-12)
    assert kept.negatives.item() == 4


@pytest.mark.parametrize(
    ("answers", "examples", "masked"),
    [
        ([5, 5], [0, 1], True),
        ([5, 6], [0, 1], False),
        ([0, 0], [0, 1], False),  # 0 is no answer
        ([5, 5], [4, 4], False),  # two retrievals of one example want different passages
    ],
)
def test_the_positive_of_the_same_answer_is_no_negative(answers: list[int], examples: list[int], masked: bool) -> None:
    """Candidate 2 is nobody's positive (a hard negative) and always counts."""
    options = ContrastOptions(gather=None, mask_same_answer=True)
    result = contrast(part(*TWO, answers=answers, examples=examples), options)
    first = 1 + math.exp(-4) + (0 if masked else math.exp(-2))
    second = 1 + math.exp(-4) + (0 if masked else math.exp(4))
    assert result.loss_sum.item() == pytest.approx(math.log(first) + math.log(second), rel=1e-12)
    assert result.correct.item() == (2 if masked else 1)
    assert result.negatives.item() == (2 if masked else 4)


def test_masks_hold_from_passage_to_query() -> None:
    """Queries 0 and 1 share a passage, 2 has the answer of 1: passage a has no rival, passage b only query 0."""
    options = ContrastOptions(gather=None, mask_same_answer=True, symmetric=True)
    shared = part([[1.0], [2.0], [3.0]], [[0.5], [0.25]], [0, 0, 1], answers=[1, 2, 2], examples=[0, 1, 2])
    result = contrast(shared, options)
    forward = math.log(1 + math.exp(0.25 - 0.5)) + 0 + 0
    backward = 0 + 0 + math.log(1 + math.exp(0.25 - 0.75))
    assert result.loss_sum.item() == pytest.approx((forward + backward) / 2, rel=1e-12)
    assert result.negatives.item() == 1


def test_an_own_positive_is_never_masked() -> None:
    """Both want passage 0 and have one answer: it is the positive of the other, and stays one's own."""
    options = ContrastOptions(gather=None, mask_same_answer=True)
    same = part([[1.0], [2.0]], [[3.0], [1.0]], [0, 0], answers=[5, 5])
    assert contrast(same, options).loss_sum.item() == pytest.approx(
        math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-4)), rel=1e-12
    )


def test_more_than_a_byte_of_queries_may_share_an_answer() -> None:
    options = ContrastOptions(gather=None, mask_same_answer=True)
    count = 257
    crowd = part([[1.0]] * count, [[1.0], [0.5]], [0] * (count - 1) + [1], answers=[3] * count)
    assert contrast(crowd, options).negatives.item() == 0


@st.composite
def parts(draw: st.DrawFn, most: int = 6) -> Contrast:
    count, rivals = draw(st.integers(0, most)), draw(st.integers(0, most))
    count = count if rivals else 0
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    return Contrast(
        torch.randn(count, 3, generator=random, dtype=torch.float64),
        torch.randn(rivals, 3, generator=random, dtype=torch.float64),
        torch.randint(max(1, rivals), (count,), generator=random),
        torch.randint(2**60, 2**60 + 5, (rivals,), generator=random),
        torch.randint(-1, 2, (count,), generator=random),
        torch.randint(4, (count,), generator=random),
    )


def leaves_of(part: Contrast) -> list[torch.Tensor]:
    temperature = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    return [part.queries.requires_grad_(), part.candidates.requires_grad_(), temperature]


@given(parts(), OPTIONS)
@settings(max_examples=150, deadline=None)
def test_every_option_equals_the_loops(part: Contrast, options: ContrastOptions) -> None:
    """Loss, figures and gradients, the learned temperature's included."""
    leaves = leaves_of(part)
    (wanted,) = expected([part], options, leaves[-1])
    found = contrast(part, options, leaves[-1])
    assert found.loss_sum.item() == pytest.approx(wanted.loss.item(), rel=1e-9, abs=1e-9)
    assert found.correct.item() == wanted.correct
    assert found.negatives.item() == wanted.negatives
    ours = torch.autograd.grad(found.loss_sum, leaves)
    exact = torch.autograd.grad(wanted.loss + sum(0 * v.sum() for v in leaves), leaves)
    for one, other in zip(ours, exact, strict=True):
        assert torch.allclose(one, other, atol=1e-9)


@given(st.lists(parts(4), min_size=1, max_size=4), OPTIONS)
@settings(max_examples=60, deadline=None)
def test_joined_parts_are_one_batch(several: list[Contrast], options: ContrastOptions) -> None:
    wanted = sum(e.loss.item() for e in expected(several, options, 0.5))
    assert contrast(join(several), options, 0.5).loss_sum.item() == pytest.approx(wanted, rel=1e-9, abs=1e-9)


def test_a_learned_temperature_moves_to_where_the_loss_is_least() -> None:
    """The gradient of the log temperature is a derivative: it equals the difference quotient."""
    log_temperature = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)

    def loss(at: torch.Tensor) -> torch.Tensor:
        return contrast(part(*TWO), ALONE, at.exp()).loss_sum

    loss(log_temperature).backward()
    assert log_temperature.grad is not None
    quotient = (loss(log_temperature + 1e-6) - loss(log_temperature - 1e-6)) / 2e-6
    assert log_temperature.grad.item() == pytest.approx(quotient.item(), rel=1e-6)


def test_autocast_does_not_round_the_scores() -> None:
    random = torch.Generator().manual_seed(0)
    queries, candidates = (torch.randn(4, 64, generator=random) for _ in range(2))
    plain = info_nce(queries, candidates, torch.arange(4)).loss_sum
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (queries @ candidates.T).dtype == torch.bfloat16
        assert torch.equal(info_nce(queries, candidates, torch.arange(4)).loss_sum, plain)


# Contrast over two processes (proof 2)

ACROSS = [(case, name) for case in ranks.CASES for name in ranks.OPTIONS]


@pytest.mark.parametrize(("case", "name"), ACROSS)
def test_two_ranks_have_the_loss_of_one(two_ranks: list[Found], case: str, name: str) -> None:
    """Each rank's share equals the loops', and the sum the loss of one process on the joined batch."""
    several, options = ranks.parts_of(case), ranks.OPTIONS[name]
    for found, wanted in zip(two_ranks, expected(several, options, ranks.TEMPERATURE), strict=True):
        loss, correct, negatives, *_ = found[f"contrast {case} {name}"]
        assert loss.item() == pytest.approx(wanted.loss.item(), rel=1e-9, abs=1e-12)
        assert (correct.item(), negatives.item()) == (wanted.correct, wanted.negatives)
    whole = contrast(join(several), replace(options, gather=None), ranks.TEMPERATURE)
    total = sum(found[f"contrast {case} {name}"][0].item() for found in two_ranks)
    assert total == pytest.approx(whole.loss_sum.item(), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("case", "name"), [(c, n) for c, n in ACROSS if n.startswith("full")])
def test_the_full_gradient_is_that_of_one_process(two_ranks: list[Found], case: str, name: str) -> None:
    several, options = ranks.parts_of(case), ranks.OPTIONS[name]
    leaves = [ranks.tracked(p) for p in several]
    temperature = leaves[0][2]
    whole = contrast(join(several), replace(options, gather=None), temperature)
    whole.loss_sum.backward()
    for (queries, candidates, _), found in zip(leaves, two_ranks, strict=True):
        _, _, _, of_queries, of_candidates, _ = found[f"contrast {case} {name}"]
        assert torch.allclose(of_queries, queries.grad, atol=1e-12)
        assert torch.allclose(of_candidates, candidates.grad, atol=1e-12)
    assert torch.allclose(sum(found[f"contrast {case} {name}"][5] for found in two_ranks), temperature.grad)


@pytest.mark.parametrize(("case", "name"), [(c, n) for c, n in ACROSS if n.startswith("own")])
def test_the_own_gradient_is_of_the_own_loss_and_vectors(two_ranks: list[Found], case: str, name: str) -> None:
    for rank, found in enumerate(two_ranks):
        several = ranks.parts_of(case)  # the other rank's stay constants
        leaves = ranks.tracked(several[rank])
        wanted = expected(several, ranks.OPTIONS[name], leaves[-1])[rank].loss
        exact = torch.autograd.grad(wanted + sum(0 * v.sum() for v in leaves), leaves)
        for ours, other in zip(found[f"contrast {case} {name}"][3:], exact, strict=True):
            assert torch.allclose(ours, other, atol=1e-12)


def test_the_cases_exercise_what_they_are_for() -> None:
    """Masks change the loss, the variants differ in their gradients, and keys meet across ranks."""
    several = ranks.parts_of("both")
    losses = {n: sum(e.loss.item() for e in expected(several, o)) for n, o in ranks.OPTIONS.items()}
    assert len({round(loss, 6) for loss in losses.values()}) == 4
    assert set(several[0].candidate_keys.tolist()) & set(several[1].candidate_keys.tolist())
    pairs = zip(several[0].answer_keys.tolist(), several[1].answer_keys.tolist(), strict=False)
    assert any(a == b != 0 for a, b in pairs)


def test_full_and_own_gradients_differ(two_ranks: list[Found]) -> None:
    for found in two_ranks:
        full, own = (found[f"contrast both {g} plain masked"][4] for g in ("full", "own"))
        assert not torch.allclose(full, own, atol=1e-3)


def test_ranks_may_keep_to_themselves(two_ranks: list[Found]) -> None:
    for found, own in zip(two_ranks, ranks.parts_of("both"), strict=True):
        (wanted,) = expected([own], ALONE, ranks.TEMPERATURE)
        assert found["apart"][0].item() == pytest.approx(wanted.loss.item(), rel=1e-9)
        assert found["apart"][2].item() == wanted.negatives


def test_a_contrast_takes_one_exchange_and_one_gather_a_tensor(two_ranks: list[Found]) -> None:
    """Sizes, candidates, their keys, the queries' keys; backward one sum."""
    assert [found["collectives"][0].tolist() for found in two_ranks] == [[4, 1]] * 2
