"""Whatever a stranger writes is read or refused in words; what once was not is tried again.

A few thousand cases in all; `python benchmarks/fuzz.py` tries 10,000 and more of each target.
"""

from __future__ import annotations

import pytest

from tests.fuzz.running import FOUND, Target, drawn, is_valid
from tests.fuzz.targets import TARGETS

CASES, SLOW_CASES = 50, 3
TAKE_ALL = ("citations", "model-tokenizer")  # there is nothing that they refuse
SLOW = ("http-api", "http-wire")


@pytest.mark.parametrize(
    "target",
    [pytest.param(t, marks=pytest.mark.slow if t.slow or t.name in SLOW else ()) for t in TARGETS.values()],
    ids=lambda target: target.name,
)
def test_damaged_input_is_read_or_refused_in_words(target: Target) -> None:
    """Whole inputs are read, those that once were at fault are tried, and damaged ones."""
    outcomes = []
    with target.opened() as run:
        for data in target.whole():
            assert is_valid(run, data), "a whole input was refused"
        for data in target.kept().values():
            is_valid(run, data)
        drawn(target, SLOW_CASES if target.slow else CASES, 7, lambda data: outcomes.append(is_valid(run, data)))
    few = target.slow or target.name in TAKE_ALL
    assert few or False in outcomes, "nothing was refused: the damage may be none"


def test_every_kept_input_is_tried() -> None:
    assert {folder.name for folder in FOUND.iterdir()} <= TARGETS.keys()
