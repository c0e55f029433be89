"""Cutting a batch into packs: nothing lost, budgets kept, few packs, little padding, the same every time."""

from __future__ import annotations

import math
import random
from collections.abc import Hashable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosup.data.collate import token_counts
from cosup.data.packing import Load, plan_packs
from tests.data.packs import toy, toy_collator
from tests.kinds import KINDS

LOADS = st.lists(
    st.builds(
        Load, st.integers(1, 60), st.dictionaries(st.sampled_from("abcdefgh"), st.just(0), max_size=4).map(
            lambda named: {name: 3 * (ord(name) - 96) for name in named}
        ),
    ),
    max_size=30,
)  # fmt: skip


def costs(loads: list[Load], members: list[int], padded: bool) -> tuple[int, int]:
    """Return what a pack makes the generator and the embedder read; a shared passage is read once."""
    tokens = [loads[i].tokens for i in members]
    passages: dict[Hashable, int] = {}
    for i in members:
        passages.update(loads[i].passages)
    lengths = list(passages.values())
    if padded:
        return len(tokens) * max(tokens), len(lengths) * max(lengths, default=0)
    return sum(tokens), sum(lengths)


@given(LOADS, st.integers(1, 150), st.booleans())
@settings(max_examples=300, deadline=None)
def test_every_example_is_in_one_pack_and_budgets_hold(loads: list[Load], budget: int, padded: bool) -> None:
    """A pack breaks its budget only where it is a single example that does."""
    packs = plan_packs(loads, budget, padded)
    assert sorted(i for members in packs for i in members) == list(range(len(loads)))
    assert packs == sorted(sorted(members) for members in packs)
    for members in packs:
        assert max(costs(loads, members, padded)) <= budget or len(members) == 1
    assert packs == plan_packs(list(loads), budget, padded), "the same again"


@given(LOADS, st.booleans())
@settings(max_examples=50, deadline=None)
def test_without_a_budget_there_is_one_pack(loads: list[Load], padded: bool) -> None:
    assert plan_packs(loads, None, padded) == ([list(range(len(loads)))] if loads else [])


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(60, 150))
@settings(max_examples=100, deadline=None)
def test_packs_are_fewer_than_twice_the_least(lengths: list[int], budget: int) -> None:
    """No two packs could be one, so that they are more than half full on average."""
    count = len(plan_packs([Load(n) for n in lengths], budget))
    assert count == 1 or count < 2 * sum(lengths) / budget


def test_a_known_batch_is_packed_without_waste() -> None:
    """7+3, 6+4 and 5+5 fill three packs of 10; in the order given, first-fit would take four."""
    loads = [Load(n) for n in (3, 4, 5, 7, 6, 5)]
    assert plan_packs(loads, 10) == [[0, 3], [1, 4], [2, 5]]


def test_packs_are_of_like_size() -> None:
    """Two packs are needed; best-fit alone would make them 100 and 20."""
    loads = [Load(n) for n in (40, 30, 30, 10, 10)]
    packs = plan_packs(loads, 100)
    assert sorted(costs(loads, members, padded=False)[0] for members in packs) == [60, 60]


def test_the_embedder_is_counted_too() -> None:
    """Short questions about long passages: its budget decides, and a passage of both is read once."""
    loads = [Load(10, {"a": 60}), Load(10, {"b": 60}), Load(10, {"a": 60, "c": 30})]
    assert plan_packs(loads, 100) == [[0, 2], [1]]


def test_an_example_above_the_budget_is_alone() -> None:
    loads = [Load(10), Load(500), Load(20), Load(5, {"a": 400})]
    for padded in (False, True):
        assert plan_packs(loads, 100, padded) == [[0, 2], [1], [3]]


def test_padded_packs_hold_similar_lengths() -> None:
    loads = [Load(n) for n in (10, 100, 11, 98, 9, 102)]
    assert plan_packs(loads, 310, padded=True) == [[0, 2, 4], [1, 3, 5]]


def varied(count: int) -> list[Load]:
    """Return loads like those of a question set: 60 to 700 tokens, one to three passages of 30 to 256."""
    drawn = random.Random(0)
    return [
        Load(
            int(math.exp(drawn.uniform(math.log(60), math.log(700)))),
            {f"{i} {j}": drawn.randint(30, 256) for j in range(drawn.randint(1, 3))},
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("budget", [2048, 8192])
def test_packs_are_full(budget: int) -> None:
    """In packed form, nearly as few as the tokens of the fuller model need; in padded form, most places are real."""
    loads = varied(400)
    packs = plan_packs(loads, budget)
    least = max(math.ceil(total / budget) for total in costs(loads, list(range(400)), padded=False))
    assert len(packs) <= 1.1 * least
    places = sum(costs(loads, members, padded=True)[0] for members in plan_packs(loads, budget, padded=True))
    assert 1 - sum(load.tokens for load in loads) / places < 0.1


@pytest.mark.parametrize("name", KINDS)
def test_packed_packs_of_real_examples_have_no_padding(name: str) -> None:
    """Padded ones do, and read the same tokens."""
    examples = toy(name)[:-1]
    budget = 3 * max(len(e.input_ids) for e in examples)
    packed, padded = (
        token_counts(toy_collator(name, packing=packing, micro_batch_tokens=budget)(examples)["packs"])
        for packing in (True, False)
    )
    assert packed[1] == 0
    assert packed[0] == padded[0]
    assert padded[1] > 0
