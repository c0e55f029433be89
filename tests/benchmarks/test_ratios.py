"""The ratios that a change must not lower: what is compared, what is said where one fell, and that none has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection
from typing import Any

import performance_page
import pytest
import ratios

HERE, OTHER = "a processor", "another one"


def record(**values: float) -> dict[str, Any]:
    own = {name: {"value": value} for name, value in values.items()}
    return {HERE: {"ratios": own}, OTHER: {"ratios": {name: {"value": 2 * v["value"]} for name, v in own.items()}}}


def pairs(value: float) -> list[ratios.Pair]:
    """Return the seconds of three pairs whose ratio is `value`: one disturbed on each side, one not."""
    return [(value, 3.0), (3 * value, 1.0), (2 * value, 2.0)]


def compared(was: dict[str, Any], *measured: dict[str, float], processor: str = HERE) -> list[str]:
    """Compare a record with what is measured at first, and what again."""
    answers = iter(measured)

    def measure(names: Collection[str]) -> dict[str, list[ratios.Pair]]:
        return {name: pairs(value) for name, value in next(answers).items() if name in names}

    return ratios.compare(was, processor, measure, tuple(measured[0]))


def test_a_drop_by_a_fifth_fails_and_noise_does_not() -> None:
    assert compared(record(together=5.0), {"together": 4.6}) == []
    assert compared(record(together=5.0), {"together": 9.0}) == []
    (told,) = compared(record(together=5.0), {"together": 4.0}, {"together": 4.0})
    assert told.startswith(
        "together (eight answers one by one, against all at once) fell by 20%: recorded 5.00 on a pro"
    )
    assert "now 4.00, at least 4.47 expected" in told
    assert told.endswith("python benchmarks/ratios.py --record")


def test_what_seems_to_have_fallen_is_measured_again_and_nothing_else() -> None:
    first = {"together": 4.0, "embedding": 2.0}
    assert compared(record(together=5.0, embedding=2.0), first, {"together": 4.9}) == []
    (told,) = compared(record(together=5.0, embedding=2.0), first, {"together": 4.1, "embedding": 0.1})
    assert "now 4.10" in told


def test_each_ratio_that_fell_is_named() -> None:
    now = {"together": 1.0, "embedding": 1.0, "cache": 3.0}
    told = compared(record(together=5.0, embedding=2.0, cache=3.0), now, now)
    assert [line.partition(" ")[0] for line in told] == ["together", "embedding"]


def test_a_ratio_without_a_record_fails() -> None:
    (told,) = compared(record(together=5.0), {"together": 5.0, "cache": 3.0}, {"cache": 3.0})
    assert told == "cache: 3.00 now, never recorded; record it: python benchmarks/ratios.py --record"
    assert compared({}, {"cache": 3.0}, {"cache": 3.0}) == [told]


def test_an_unknown_processor_is_held_to_the_lowest_of_the_others() -> None:
    assert compared(record(together=5.0), {"together": 4.6}, processor="a third") == []
    (told,) = compared(record(together=5.0), {"together": 4.0}, {"together": 4.0}, processor="a third")
    assert "recorded 5.00 on another processor (a processor, another one)" in told
    assert compared(record(together=5.0), {"together": 4.6}, {"together": 4.6}, processor=OTHER) != []


def test_a_slower_side_is_a_lower_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    """A side that takes twice as long, be it by a trial of this benchmark, halves the ratio, and that fails."""
    monkeypatch.setattr(ratios, "LEAST", 0.01)

    def work() -> None:
        sum(i * i for i in range(100_000))

    equal = ratios.ratio(ratios.paired(work, work, 9))
    slower = ratios.ratio(ratios.paired(work, ratios.stretched(work, 2.0), 9))
    assert slower == pytest.approx(equal / 2, rel=0.2)
    assert compared(record(cache=equal), {"cache": slower}, {"cache": slower}) != []


def test_a_record_is_the_median_of_its_repetitions_with_their_spread() -> None:
    repeats = [{"cache": pairs(4.0)}, {"cache": pairs(5.0)}, {"cache": pairs(4.4)}]
    found = ratios.summary(repeats)["cache"]
    assert (found["value"], found["spread"], found["repeats"]) == (4.4, pytest.approx(0.25), [4.0, 5.0, 4.4])


def test_the_record_is_of_the_ratios_that_are_measured_and_each_is_steady() -> None:
    """A ratio whose repetitions lie farther apart than a loss of a fifth tells nothing: leave it out."""
    for one in json.loads(ratios.RECORD.read_text(encoding="utf-8")).values():
        assert set(one["ratios"]) == set(ratios.RATIOS)
        assert {"command", "commit", "hardware", "versions"} <= set(one)
        for name, own in one["ratios"].items():
            assert own["meaning"] == ratios.RATIOS[name].meaning
            assert own["value"] > 1, name
            assert min(own["repeats"]) > ratios.LIMIT * own["value"], name
            assert 0.8 * max(own["repeats"]) < ratios.LIMIT * own["value"], name


def test_the_page_has_the_record() -> None:
    own = json.loads(ratios.RECORD.read_text(encoding="utf-8"))
    text = performance_page.page({"ratios": own}, {})
    (first, *_) = own.values()
    for one in first["ratios"].values():
        assert f"| {one['meaning']} | {one['value']:.2f}x | {100 * one['spread']:.1f}% |" in text
    assert f"Commit {first['commit']}; {first['hardware']}" in text


@pytest.mark.bench
def test_no_ratio_has_fallen() -> None:
    """In a process of its own, as the record was made."""
    command = [sys.executable, ratios.__file__]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}"
