"""The next token of a row: the likeliest that it may write, or one drawn from those that top_p leaves."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cosup.generation.choice import Choices
from cosup.generation.settings import GenerationSettings

LOGITS = torch.tensor([[0.6, 0.3, 0.08, 0.02], [0.1, 0.2, 0.3, 0.4]]).log()


class StandIn:
    """What `Choices` asks of a row."""

    def __init__(self, *bans: int, **settings: Any) -> None:
        self.bans = list(bans)
        self.settings = GenerationSettings(**settings)
        self.random = torch.Generator().manual_seed(0)
        self.likelihood = SimpleNamespace(text=0.0, tokens=0)

    def banned(self) -> list[int]:
        return list(self.bans)


def choices(*rows: Any, forbidden: tuple[int, ...] = ()) -> Choices:
    """Return the choices of rows that have both states each; the head gives states back as logits."""
    return Choices(torch.clone, torch.tensor(forbidden, dtype=torch.long), [(row, LOGITS) for row in rows])


def test_each_row_writes_the_likeliest_token_that_it_may() -> None:
    free, bound = StandIn(), StandIn(0, 3)
    chosen = choices(free, bound)
    assert [chosen(row, number) for row in (free, bound) for number in (0, 1)] == [0, 3, 1, 2]


def test_what_is_forbidden_is_written_by_none() -> None:
    free, bound = StandIn(), StandIn(1)
    chosen = choices(free, bound, forbidden=(0, 3))
    assert [chosen(row, number) for row in (free, bound) for number in (0, 1)] == [1, 2, 2, 2]


def test_bans_that_change_on_the_way_count() -> None:
    row = StandIn(0)
    chosen = choices(row)
    assert chosen(row, 0) == 1
    row.bans = [1, 3]
    assert (chosen(row, 0), chosen(row, 1)) == (0, 2)


@pytest.mark.parametrize(("top_p", "drawn"), [(0.5, {0}), (0.7, {0, 1}), (0.95, {0, 1, 2}), (1.0, {0, 1, 2, 3})])
def test_top_p_leaves_the_fewest_tokens_that_reach_it(top_p: float, drawn: set[int]) -> None:
    row = StandIn(do_sample=True, temperature=1.0, top_p=top_p)
    chosen = choices(row)
    assert {chosen(row, 0) for _ in range(400)} == drawn


def test_tokens_are_drawn_by_their_chances_and_the_coldest_draw_is_greedy() -> None:
    row = StandIn(do_sample=True, temperature=1.0, top_p=1.0)
    cold = StandIn(do_sample=True, temperature=1e-45, top_p=1.0)
    chosen = choices(row, cold)
    counts = Counter(chosen(row, 0) for _ in range(2000))
    assert [counts[token] / 2000 for token in range(4)] == pytest.approx([0.6, 0.3, 0.08, 0.02], abs=0.04)
    assert {chosen(cold, 1) for _ in range(50)} == {3}


def test_a_beam_adds_up_how_likely_its_text_is() -> None:
    row = StandIn(beam=2)
    chosen = choices(row)
    assert (chosen(row, 0), chosen(row, 1)) == (0, 3)
    assert row.likelihood.tokens == 2
    assert row.likelihood.text == pytest.approx(float(LOGITS[0, 0] + LOGITS[1, 3]))
