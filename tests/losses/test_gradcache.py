"""GradCache equals plain: loss and gradients of the joined batch, dropout on, on one process and on two (proof 3)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cosup.losses.gradcache import PackVectors, RandomState, cache_gradients, surrogate_loss
from cosup.losses.nsp import ContrastOptions, contrast, join
from tests.losses.conftest import Found
from tests.losses.ranks import PACKS, PACKS_OF_ONE, Pack, Towers, cached_step, packs_of

ALONE = ContrastOptions(gather=None)
ALL_OPTIONS = {
    f"{'same passage' * passage} {'same answer' * answer} {'symmetric' * both}": ContrastOptions(
        None, passage, answer, both
    )
    for passage, answer, both in itertools.product((True, False), repeat=3)
}
CPU = torch.device("cpu")


def plain_step(model: Towers, of_ranks: Sequence[tuple[int, Sequence[Pack]]], options: ContrastOptions) -> list:
    """Do the same in one graph: pack after pack, so that dropout draws alike from each seed; then one loss."""
    parts = []
    for seed, packs in of_ranks:
        torch.manual_seed(seed)
        parts += [pack.vectors(model).contrast() for pack in packs]
    result = contrast(join(parts), options, model.log_temperature.exp())
    model.zero_grad()
    result.loss_sum.backward()
    return [result.loss_sum.detach(), result.correct, result.negatives, *model.gradients()]


def check(packs: Sequence[Pack], options: ContrastOptions, dropout: float) -> None:
    model = Towers(dropout)
    wanted = plain_step(model, [(7, packs)], options)
    torch.manual_seed(7)
    same(cached_step(model, packs, options), wanted)


def same(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-10), (ours - theirs).abs().max()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("name", ALL_OPTIONS)
def test_cached_equals_plain(name: str, dropout: float) -> None:
    """Passage `b` stands in all three packs: one candidate where passages are masked, three where not."""
    check([Pack("ab", [0, 1, 1], 1), Pack("bc", [0, 1], 2), Pack("bde", [2, 0], 3)], ALL_OPTIONS[name], dropout)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_pack_may_be_empty(dropout: float) -> None:
    """The first, one in the middle, and one that has candidates but no query."""
    packs = [Pack("", []), Pack("ab", [0, 1], 1), Pack("", []), Pack("cd", []), Pack("a", [0], 2)]
    check(packs, ALL_OPTIONS["same passage same answer symmetric"], dropout)


@given(
    st.lists(st.tuples(st.text("abcdef", min_size=1, max_size=4), st.integers(0, 3)), min_size=1, max_size=4),
    st.sampled_from(sorted(ALL_OPTIONS)),
)
@settings(max_examples=40, deadline=None)
def test_cached_equals_plain_however_it_is_cut(shape: list[tuple[str, int]], name: str) -> None:
    packs = [
        Pack(sorted(set(names)), [i % len(set(names)) for i in range(count)], seed)
        for seed, (names, count) in enumerate(shape)
    ]
    check(packs, ALL_OPTIONS[name], 0.3)


def test_every_parameter_learns() -> None:
    """So that equal gradients are not all equal to nothing; the temperature's is there once, however many packs."""
    gradients = cached_step(Towers(0.0), packs_of(PACKS[0], 0), ALONE)[3:]
    assert all(g.abs().max() > 1e-3 for g in gradients)


def test_a_passage_that_stands_twice_is_no_negative_of_itself() -> None:
    """Masked, the loss over two copies of one pack is twice the loss over one."""
    model, pack = Towers(0.0), Pack("ab", [0, 1], 1)
    once = cached_step(model, [pack], ALONE)[0]
    twice = cached_step(model, [pack, pack], ALONE)[0]
    apart = cached_step(model, [pack, pack], ContrastOptions(None, mask_same_passage=False))[0]
    assert twice.item() == pytest.approx(2 * once.item(), rel=1e-9)
    assert apart.item() > twice.item() + 0.1


def test_nothing_but_empty_packs_has_no_gradient() -> None:
    loss, correct, negatives, *gradients = cached_step(Towers(0.0), [Pack("", []), Pack("", [])], ALONE)
    assert (loss.item(), correct.item(), negatives.item()) == (0.0, 0, 0)
    assert not any(g.any() for g in gradients)


def test_candidates_are_rows_in_any_order() -> None:
    """One row may be several candidates (the paper's way: each `[Ret]` brings its own), another none."""
    random = torch.Generator().manual_seed(0)
    vectors = [torch.randn(n, 5, generator=random, requires_grad=True) for n in (2, 3)]
    keys, none = torch.arange(3), torch.zeros(2, dtype=torch.long)
    pack = PackVectors(*vectors, torch.tensor([1, 1, 0]), torch.tensor([0, 2]), keys, none, none)
    (found,) = cache_gradients([pack], ALONE, 0.5).packs
    wanted = torch.autograd.grad(contrast(pack.contrast(), ALONE, 0.5).loss_sum, vectors)
    assert torch.allclose(found.queries, wanted[0], atol=1e-6)
    assert torch.allclose(found.passages, wanted[1], atol=1e-6)
    assert wanted[1][1].any()
    assert not found.passages[2].any()
    assert all(v.grad is None for v in vectors)


def test_a_fixed_temperature_has_no_gradient() -> None:
    pack = Pack("ab", [0, 1], 1).vectors(Towers(0.0))
    (by_number,) = cache_gradients([pack], ALONE, 0.5).packs
    (by_tensor,) = cache_gradients([pack], ALONE, torch.tensor(0.5)).packs
    assert by_number.temperature is by_tensor.temperature is None
    assert torch.allclose(by_number.queries, by_tensor.queries)
    assert surrogate_loss(pack.queries, pack.passages, by_number).requires_grad


def test_the_temperature_goes_in_once() -> None:
    """The first pack has the whole gradient, the others 0, so that every run reaches the parameter."""
    packs = [Pack("ab", [0, 1], seed).vectors(Towers(0.0)) for seed in range(3)]
    temperature = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    shares = [cached.temperature for cached in cache_gradients(packs, ALONE, temperature).packs]
    whole = contrast(join([pack.contrast() for pack in packs]), ALONE, temperature).loss_sum
    (wanted,) = torch.autograd.grad(whole, temperature)
    assert shares[0] is not None
    assert shares[0].item() == pytest.approx(wanted.item(), rel=1e-9)
    assert [share.item() for share in shares[1:] if share is not None] == [0.0, 0.0]
    assert temperature.grad is None


def test_half_precision_vectors_have_gradients_of_full_precision() -> None:
    """A passage that 300 candidates name gets the sum of 300 gradients; bf16 would lose most of them."""
    random = torch.Generator().manual_seed(0)
    queries = torch.randn(300, 8, generator=random).bfloat16()
    passages = torch.randn(2, 8, generator=random).bfloat16()
    candidates = torch.zeros(301, dtype=torch.long)
    candidates[300] = 1
    keys, none, picks = torch.arange(301), torch.zeros(300, dtype=torch.long), torch.arange(300)
    exact = PackVectors(queries.double(), passages.double(), candidates, picks, keys, none, none)
    half = PackVectors(queries, passages, candidates, picks, keys, none, none)
    (found,), (wanted,) = (cache_gradients([p], ALONE).packs for p in (half, exact))
    assert found.passages.dtype == torch.float32
    assert torch.allclose(found.passages.double(), wanted.passages, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("name", "described"), [("packs", PACKS), ("packs of one", PACKS_OF_ONE)])
def test_two_ranks_equal_one_graph(two_ranks: list[Found], name: str, described: list, symmetric: bool) -> None:
    """Three packs on one rank and one on the other, which has no retrieval in the second case; dropout on."""
    of_ranks = [(50 + rank, packs_of(packs, rank)) for rank, packs in enumerate(described)]
    wanted = plain_step(Towers(0.5), of_ranks, ContrastOptions(None, True, True, symmetric))
    found = [of_rank[f"cached {name} {symmetric}"] for of_rank in two_ranks]
    same([sum(shares) for shares in zip(*found, strict=True)], wanted)
    assert all(w.abs().max() > 1e-3 for w in wanted[3:])


# The random state


def test_a_random_state_replays_dropout_and_leaves_the_outside_alone() -> None:
    dropout = nn.Dropout(0.5)
    torch.manual_seed(11)
    torch.rand(3)
    state = RandomState(CPU)
    first = dropout(torch.ones(64))
    outside = torch.get_rng_state()
    with state.replayed():
        again = dropout(torch.ones(64))
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), outside)
    assert not torch.equal(dropout(torch.ones(64)), first)
    with state.replayed():
        assert torch.equal(dropout(torch.ones(64)), first)


def test_the_outside_comes_back_after_an_error() -> None:
    state = RandomState(CPU)
    torch.rand(1)
    outside = torch.get_rng_state()
    with pytest.raises(KeyError), state.replayed():
        raise KeyError
    assert torch.equal(torch.get_rng_state(), outside)


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[int, torch.Tensor]]:
    """Three make-believe CUDA devices, of which 2 is the current one; yields the state of each."""
    states = {index: torch.tensor([index]) for index in range(3)}
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda index: states[index].clone())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, index: states.__setitem__(index, state.clone()))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    return states


@pytest.mark.parametrize(("name", "index"), [("cuda:1", 1), ("cuda:0", 0), ("cuda", 2)])
def test_the_state_is_of_the_device_that_computes(devices: dict[int, torch.Tensor], name: str, index: int) -> None:
    """`cuda` without a number is the current device, not the first."""
    state = RandomState(torch.device(name))
    devices[index] += 100
    with state.replayed():
        assert {i: s.item() for i, s in devices.items()} == {0: 0, 1: 1, 2: 2}
    assert devices[index].item() == index + 100


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_a_gpu_replays_its_dropout(name: str) -> None:
    dropout, ones = nn.Dropout(0.5), torch.ones(64, device=name)
    state = RandomState(torch.device(name))
    first, second = dropout(ones), dropout(ones)
    assert not torch.equal(first, second)
    with state.replayed():
        assert torch.equal(dropout(ones), first)
