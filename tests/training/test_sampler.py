"""The order of the examples: a permutation every epoch, a function of seed and epoch alone."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosup.training.sampler import Curriculum, EpochSampler, Topics

TOGETHER = 4


def lengths_of(count: int, seed: int = 0) -> list[int]:
    return [random.Random(seed * 7919 + i).randint(10, 200) for i in range(count)]


def topics_of(count: int, topics: int = 6, passages: int = 30, together: int = TOGETHER) -> Topics:
    """Return random topics; a passage belongs to one topic and has several questions."""
    own = [random.Random(i).randrange(passages) for i in range(count)]
    return Topics([f"t{p % topics}" for p in own], [f"p{p}" for p in own], together)


def sampler(count: int = 200, **more: Any) -> EpochSampler:
    return EpochSampler(count, **{"batch_size": 8, "seed": 3, **more})


WAYS = {
    "plain": {},
    "lengths": {"lengths": lengths_of(200)},
    "topics": {"topics": topics_of(200)},
    "lengths and topics": {"lengths": lengths_of(200), "topics": topics_of(200)},
}


@given(st.integers(0, 120), st.integers(1, 20), st.integers(1, 6), st.booleans(), st.booleans(), st.integers(0, 9))
@settings(max_examples=120, deadline=None)
def test_every_epoch_is_a_permutation(
    count: int, batch_size: int, together: int, by_length: bool, by_topic: bool, epoch: int
) -> None:
    """Nothing is lost and nothing comes twice, whatever is grouped, even runs that no batch can hold."""
    lengths = lengths_of(count) if by_length else None
    topics = topics_of(count, together=together) if by_topic else None
    made = EpochSampler(count, batch_size, 5, lengths, topics)
    made.set_epoch(epoch)
    assert sorted(made) == list(range(count))
    assert len(made) == count


@pytest.mark.parametrize("way", WAYS)
def test_the_order_is_a_function_of_seed_and_epoch(way: str) -> None:
    """Two samplers agree, also when one has gone through other epochs before (resume); torch's own seed is nothing."""
    first, second = sampler(**WAYS[way]), sampler(**WAYS[way])
    list(first)
    first.set_epoch(2)
    second.set_epoch(2)
    assert list(first) == list(second) == list(first)


@pytest.mark.parametrize("way", WAYS)
def test_epochs_and_seeds_differ(way: str) -> None:
    orders = []
    for seed, epoch in ((3, 0), (3, 1), (3, 2), (4, 0), (4, 1)):
        made = sampler(**WAYS[way], seed=seed)
        made.set_epoch(epoch)
        orders.append(tuple(made))
    assert len(set(orders)) == len(orders)


def test_the_first_epoch_is_epoch_zero() -> None:
    first, again = sampler(), sampler()
    again.set_epoch(0)
    assert list(first) == list(again)
    assert list(first) != sorted(first)


# Curriculum


@pytest.mark.parametrize("way", WAYS)
def test_the_first_epoch_opens_with_the_fewest_retrievals(way: str) -> None:
    """As many as asked for, in random order, with grouping within each part; later epochs are as without it."""
    hops = [random.Random(i).randint(1, 4) for i in range(200)]
    plain, made = sampler(**WAYS[way]), sampler(**WAYS[way], curriculum=Curriculum(hops, 40))
    order = list(made)
    assert sorted(order) == list(range(200))
    opening, others = [hops[i] for i in order[:40]], [hops[i] for i in list(plain)[:40]]
    assert sum(opening) < 0.9 * sum(others)
    if "topics" not in way:
        assert sorted(opening) == sorted(hops)[:40]
        assert order[:40] != sorted(order[:40])
    for each in (plain, made):
        each.set_epoch(1)
    assert list(made) == list(plain)


def test_a_curriculum_longer_than_the_data_takes_all() -> None:
    hops = [i % 3 for i in range(50)]
    assert sorted(sampler(50, curriculum=Curriculum(hops, 500))) == list(range(50))


# Lengths


def padding(order: list[int], lengths: list[int], batch_size: int) -> float:
    """Return the share of padding among all tokens."""
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches)
    return 1 - sum(lengths) / padded


def test_grouping_by_length_lowers_padding() -> None:
    lengths = lengths_of(500)
    plain, grouped = sampler(500), sampler(500, lengths=lengths)
    assert padding(list(plain), lengths, 8) > 0.3
    assert padding(list(grouped), lengths, 8) < 0.05


def test_grouping_by_length_keeps_the_batches_in_random_order() -> None:
    """Long and short ones come mixed, and the same examples don't always meet."""
    lengths = lengths_of(400)
    made = sampler(400, lengths=lengths)
    order = list(made)
    tops = [max(lengths[i] for i in order[at : at + 8]) for at in range(0, 400, 8)]
    assert tops not in (sorted(tops), sorted(tops, reverse=True))
    made.set_epoch(1)
    again = list(made)
    meetings = [{frozenset(o[at : at + 8]) for at in range(0, 400, 8)} for o in (order, again)]
    assert len(meetings[0] & meetings[1]) < 10


def test_a_short_last_batch_stays_last() -> None:
    """Else every batch behind it would be torn."""
    lengths = lengths_of(203)
    order = list(sampler(203, lengths=lengths))
    assert padding(order, lengths, 8) < 0.1


# Topics


def runs_of(order: list[int], size: int = TOGETHER) -> list[list[int]]:
    return [order[i : i + size] for i in range(0, len(order), size)]


@pytest.mark.parametrize("way", ["topics", "lengths and topics"])
def test_runs_have_one_topic_and_distinct_passages(way: str) -> None:
    """As many as there is room for: the k-th questions of a topic's passages are distinct in passage."""
    topics: Topics = WAYS[way]["topics"]
    questions = Counter(zip(topics.topics, topics.passages, strict=True))
    layers = Counter((topic, k) for (topic, _), count in questions.items() for k in range(count))
    whole = 0
    for run in runs_of(list(sampler(**WAYS[way]))):
        names = {topics.topics[i] for i in run}
        passages = {topics.passages[i] for i in run}
        whole += len(run) == TOGETHER and len(names) == 1 and len(passages) == TOGETHER
    assert whole >= sum(size // TOGETHER for size in layers.values()) > 25


@pytest.mark.parametrize("by_length", [False, True])
def test_topics_of_few_examples_come_throughout_an_epoch(by_length: bool) -> None:
    """Else a run that is shorter than an epoch would never see them: many questions of a page, beside single ones."""
    pages, single = 300, 100
    topics = Topics(
        [f"page {i % 30}" for i in range(pages)] + [f"single {i}" for i in range(single)],
        [f"p{i}" for i in range(pages + single)],
        TOGETHER,
    )
    order = list(sampler(400, topics=topics, lengths=lengths_of(400) if by_length else None))
    for quarter in (order[at : at + 100] for at in range(0, 400, 100)):
        assert 10 <= sum(i >= pages for i in quarter) <= 45


def test_runs_change_their_company_from_epoch_to_epoch() -> None:
    made = sampler(topics=topics_of(200))
    first = {frozenset(run) for run in runs_of(list(made))}
    made.set_epoch(1)
    assert len(first & {frozenset(run) for run in runs_of(list(made))}) < len(first) / 2


def test_topics_and_lengths_together_lower_padding_too() -> None:
    lengths, topics = lengths_of(600), topics_of(600, topics=3, passages=120)
    grouped = list(sampler(600, lengths=lengths, topics=topics))
    loose = list(sampler(600, topics=topics))
    assert padding(grouped, lengths, 8) < 0.5 * padding(loose, lengths, 8)


def test_examples_that_stand_alone_are_kept() -> None:
    """No topic has two: there are no runs at all, and nothing is lost."""
    alone = Topics([str(i) for i in range(20)], [str(i) for i in range(20)], TOGETHER)
    for lengths in (None, lengths_of(20)):
        order = list(sampler(20, topics=alone, lengths=lengths))
        assert sorted(order) == list(range(20))
        assert order != sorted(order)
