"""GradCache equals plain: loss and gradients of the joined batch, dropout on, shared passages included."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cosup.losses.gradcache import CachedGradients, MicroBatch, RandomState, cache_gradients, surrogate_loss
from cosup.losses.nsp import NSPResult, info_nce

WIDTH = 5
LOSS = functools.partial(info_nce, temperature=0.5)


class Towers(nn.Module):
    """A query and a passage side, with dropout."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query = nn.Sequential(nn.Linear(4, WIDTH), nn.Dropout(dropout))
        self.passage = nn.Sequential(nn.Linear(3, WIDTH), nn.Dropout(dropout))

    def forward(self, query: torch.Tensor, passage: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.query(query), self.passage(passage)

    def gradients(self) -> list[torch.Tensor]:
        return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in self.parameters()]


class Part:
    """A micro-batch's input: passages by name, and which of them each query must pick."""

    def __init__(self, names: Sequence[str], picks: Sequence[int]) -> None:
        self.names = list(names)
        self.positives = torch.tensor(list(picks), dtype=torch.long)
        self.queries = torch.randn(len(picks), 4)
        self.passages = torch.stack([_features(name) for name in names]) if names else torch.zeros(0, 3)


def _features(name: str) -> torch.Tensor:
    return torch.randn(3, generator=torch.Generator().manual_seed(sum(map(ord, name))))


def cached(model: Towers, parts: Sequence[Part], keys: bool) -> tuple[list[CachedGradients], list[torch.Tensor]]:
    """Step through the three steps and return what was cached and the parameters' gradients."""
    micro_batches = []
    for part in parts:
        state = RandomState(torch.device("cpu"))
        with torch.no_grad():
            queries, passages = model(part.queries, part.passages)
        every = torch.arange(len(part.names))
        own = part.names if keys else None
        micro_batches.append(MicroBatch(queries, passages, every, part.positives, own, state))
    found = cache_gradients(micro_batches, LOSS)
    model.zero_grad()
    for part, gradients in zip(parts, found, strict=True):
        with gradients.random_state.replayed():
            queries, passages = model(part.queries, part.passages)
        surrogate_loss(queries, passages, gradients).backward()
    return found, model.gradients()


def plain(model: Towers, parts: Sequence[Part], shared: bool) -> tuple[NSPResult, list[torch.Tensor]]:
    """Do the same in one graph: micro-batch after micro-batch, so that dropout draws alike; then one loss."""
    outputs = [model(part.queries, part.passages) for part in parts]
    rows: list[torch.Tensor] = []
    place: dict[object, int] = {}
    positives: list[int] = []
    for number, (part, (_, passages)) in enumerate(zip(parts, outputs, strict=True)):
        names = [name if shared else (number, name) for name in part.names]
        for name, vector in zip(names, passages, strict=True):
            if name not in place:
                place[name] = len(rows)
                rows.append(vector)
        positives += [place[names[i]] for i in part.positives.tolist()]
    result = LOSS(torch.cat([q for q, _ in outputs]), torch.stack(rows), torch.tensor(positives))
    model.zero_grad()
    result.loss_sum.backward()
    return result, model.gradients()


def check(parts: Sequence[Part], keys: bool, dropout: float) -> None:
    model = Towers(dropout)
    torch.manual_seed(7)
    expected, wanted = plain(model, parts, keys)
    torch.manual_seed(7)
    found, gradients = cached(model, parts, keys)
    assert len(found) == len(parts)
    for step in found:
        assert step.step.loss_sum.item() == pytest.approx(expected.loss_sum.item(), rel=1e-6)
        assert step.step.correct.item() == expected.correct.item()
        assert not step.step.loss_sum.requires_grad
    several = len({name for part in parts for name in part.names}) > 1
    assert any(g.any() for g in wanted) == several
    for ours, theirs in zip(gradients, wanted, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5), (ours - theirs).abs().max()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("keys", [True, False])
def test_cached_equals_plain(keys: bool, dropout: float) -> None:
    """Passage `b` stands in all three micro-batches: one candidate where keys tell, three where they don't."""
    torch.manual_seed(3)
    check([Part("abc", [0, 1]), Part("bd", [1, 0, 0]), Part("eb", [1])], keys, dropout)


def test_a_micro_batch_without_retrieval_gives_and_gets_nothing() -> None:
    """Its negatives still count for the others."""
    torch.manual_seed(3)
    check([Part("ab", [0]), Part("", []), Part("cd", []), Part("a", [0])], True, 0.5)


@given(st.lists(st.tuples(st.text("abcdef", min_size=1, max_size=4), st.integers(1, 3)), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_cached_equals_plain_however_it_is_cut(shape: list[tuple[str, int]]) -> None:
    torch.manual_seed(3)
    parts = [Part(sorted(set(names)), [i % len(set(names)) for i in range(count)]) for names, count in shape]
    check(parts, True, 0.3)


def test_a_passage_that_stands_twice_is_no_negative_of_itself() -> None:
    """With keys the loss over two copies of one micro-batch is twice the loss over one."""
    torch.manual_seed(3)
    part, model = Part("ab", [0, 1]), Towers(0.0)
    once, _ = plain(model, [part], True)
    twice, _ = cached(model, [part, part], keys=True)
    apart, _ = cached(model, [part, part], keys=False)
    assert twice[0].step.loss_sum.item() == pytest.approx(2 * once.loss_sum.item(), rel=1e-6)
    assert apart[0].step.loss_sum.item() > twice[0].step.loss_sum.item() + 0.1


def test_nothing_but_empty_micro_batches_has_no_gradient() -> None:
    part, model = Part("", []), Towers(0.0)
    found, gradients = cached(model, [part, part], keys=True)
    assert found[0].step.loss_sum.item() == 0.0
    assert not any(g.any() for g in gradients)


def test_candidates_are_rows_in_any_order() -> None:
    """One row may be several candidates (the paper's way: each `[Ret]` brings its own)."""
    torch.manual_seed(0)
    queries, passages = torch.randn(2, WIDTH), torch.randn(2, WIDTH)
    candidates, positives = torch.tensor([1, 1, 0]), torch.tensor([0, 2])
    micro = MicroBatch(queries, passages, candidates, positives, None, RandomState(torch.device("cpu")))
    (found,) = cache_gradients([micro], LOSS)
    leaves = [queries.clone().requires_grad_(), passages.clone().requires_grad_()]
    result = LOSS(leaves[0], leaves[1][candidates], positives)
    wanted = torch.autograd.grad(result.loss_sum, leaves)
    assert torch.allclose(found.queries, wanted[0], atol=1e-6)
    assert torch.allclose(found.passages, wanted[1], atol=1e-6)


# The random state


def test_a_random_state_replays_dropout_and_leaves_the_outside_alone() -> None:
    dropout = nn.Dropout(0.5)
    torch.manual_seed(11)
    torch.rand(3)
    state = RandomState(torch.device("cpu"))
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
    state = RandomState(torch.device("cpu"))
    torch.rand(1)
    outside = torch.get_rng_state()
    with pytest.raises(KeyError), state.replayed():
        raise KeyError
    assert torch.equal(torch.get_rng_state(), outside)
