"""Intervals cover what they say; tests find what is there and nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cosup.evaluation import statistics
from cosup.evaluation.statistics import compare, intervals, randomisation_test


def scores(values: list[float], name: str = "em") -> list[dict[str, float]]:
    return [{name: value} for value in values]


def test_an_interval_is_that_of_a_share() -> None:
    """50 of 100 right: the bootstrap of a share has the spread of a binomial, 1.96 * sqrt(.25 / 100) = 9.8 points."""
    low, high = intervals(scores([0.0, 1.0] * 50), ["em"])["em"]
    assert low == pytest.approx(50 - 9.8, abs=1.5)
    assert high == pytest.approx(50 + 9.8, abs=1.5)


def test_what_never_varies_has_an_interval_of_no_width() -> None:
    assert intervals(scores([1.0] * 7), ["em"]) == {"em": (100.0, 100.0)}


def test_an_interval_is_over_the_questions_that_are_judged() -> None:
    """Ninety questions that a measure cannot judge make it neither surer nor different."""
    judged = [{"em": 1.0, "f1": float(i % 2)} for i in range(10)]
    found = intervals([*judged, *({"em": 0.0} for _ in range(90))], ["em", "f1", "absent"])
    assert found.keys() == {"em", "f1"}
    assert found["em"][1] < 20
    assert found["f1"][0] < 30
    assert found["f1"][1] > 70


def test_resamples_that_hold_none_of_a_measures_questions_do_not_count() -> None:
    """One question of ten is judged by f1: about a third of the resamples have none of it, the others one value."""
    judged = [{"em": float(i % 2)} for i in range(9)] + [{"em": 1.0, "f1": 0.25}]
    found = intervals(judged, ["f1", "em"])
    assert found["f1"] == (25.0, 25.0)
    assert 0 < found["em"][0] < 50 < found["em"][1]
    (own,) = compare(judged, [{"f1": 0.5}] * 10, ["f1"])
    assert (own.count, own.low, own.high) == (1, -25.0, -25.0)


def test_the_same_scores_give_the_same_interval() -> None:
    values = scores(list(np.random.default_rng(1).random(50)))
    assert intervals(values, ["em"]) == intervals(values, ["em"])
    assert intervals([], ["em"]) == {}


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        low, high = intervals(scores(list((random.random(60) < 0.3).astype(float))), ["em"], resamples=300)["em"]
        covered += low <= 30 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_a_paired_test_by_hand() -> None:
    """Four wins, no loss: of 16 assignments of signs two are as extreme, p = 2/16."""
    assert randomisation_test(np.array([1.0, 1.0, 1.0, 1.0])) == pytest.approx(2 / 16, abs=0.01)
    assert randomisation_test(np.array([1.0, 1.0, 1.0, 1.0, 0.0, 0.0])) == pytest.approx(2 / 16, abs=0.01)
    assert randomisation_test(np.zeros(5)) == 1.0


def test_two_systems_are_compared_where_both_are_judged() -> None:
    ours = [{"em": 1.0}] * 30 + [{"em": 0.0}] * 10 + [{}] * 5
    theirs = [{"em": 0.0}] * 40 + [{"em": 1.0}] * 5
    (found,) = compare(ours, theirs, ["em", "f1"])
    assert (found.name, found.count) == ("em", 40)
    assert (found.ours, found.theirs, found.difference) == (75.0, 0.0, 75.0)
    assert 55 < found.low < 75 < found.high < 90
    assert found.p_value == pytest.approx(1 / 10_001)


def test_measures_are_compared_each_over_its_own_questions() -> None:
    """Three measures, two of them over the same questions: each has the averages and p that it has alone."""
    random = np.random.default_rng(5)
    ours, theirs = (
        [
            {"em": float(random.random() < share), "f1": float(random.random()), "hit": float(i % 3 > 0)}
            for i in range(60)
        ]
        for share in (0.8, 0.4)
    )
    for own in ours[:20]:
        del own["hit"]
    found = compare(ours, theirs, ["hit", "em", "none", "f1"])
    assert [own.name for own in found] == ["hit", "em", "f1"]
    assert [own.count for own in found] == [40, 60, 60]
    for own in found:
        (alone,) = compare(ours, theirs, [own.name])
        expected = [alone.ours, alone.theirs, alone.difference, alone.low, alone.high]
        assert [own.ours, own.theirs, own.difference, own.low, own.high] == pytest.approx(expected)
        assert own.p_value == pytest.approx(alone.p_value, abs=0.02)
    assert found[0].p_value == 1
    assert found[1].p_value < 0.001
    assert found[2].p_value > 0.05


def test_measures_over_the_same_questions_share_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn is what takes long: forty measures draw as often as one."""
    drawn: list[int] = []
    coins = statistics._draw_coins
    monkeypatch.setattr(statistics, "_draw_coins", lambda *args: drawn.append(args[1]) or coins(*args))
    names = [f"m{n}" for n in range(40)]
    ours = [{name: float((i + n) % 2) for n, name in enumerate(names)} for i in range(10)]
    assert len(compare(ours, [dict.fromkeys(names, 0.0)] * 10, names)) == 40
    assert sum(drawn) == statistics.FLIPS


def test_pairs_tell_more_than_averages() -> None:
    """The same gain on every question is sure, whatever the spread between questions."""
    base = np.linspace(0, 0.9, 40)
    (found,) = compare(scores(list(base + 0.02)), scores(list(base)), ["em"])
    assert found.p_value < 0.001
    assert found.low == pytest.approx(2.0)
    assert math.isclose(found.high, 2.0)


def test_no_difference_is_found_where_there_is_none() -> None:
    """Under the null hypothesis small p-values are as rare as they should be."""
    random = np.random.default_rng(3)
    small = sum(randomisation_test(random.standard_normal(20), flips=400) < 0.1 for _ in range(200))
    assert 8 <= small <= 34
