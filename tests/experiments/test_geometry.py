"""The measures of both spaces, against values worked out by hand and on a pair's own states."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from cosup.data.reading import evenly, read_passages, read_questions
from cosup.data.templates import question_to_example
from cosup.experiments.geometry import Spaces, Watcher, effective_rank, measure, projection, spaces_of
from cosup.experiments.plan import GeometrySettings
from cosup.modeling import CoSupervisedModel
from tests.pairs import TinyWorld

AXES = torch.eye(4)


def test_measures_by_hand() -> None:
    """Two states: one on its passage, one at a right angle to its own and on the other's."""
    spaces = Spaces(AXES[[0, 0]], AXES[[0, 1]], torch.tensor([0, 1]))
    found = measure(spaces)
    assert found["alignment"] == pytest.approx((0 + 2) / 2)
    assert found["uniformity_states"] == pytest.approx(0)  # one point
    assert found["uniformity_passages"] == pytest.approx(-4)  # log exp(-2 * 2)
    assert found["rank_states"] == pytest.approx(1)
    assert found["gap"] == pytest.approx(math.hypot(0.5, 0.5))
    assert found["recall@1"] == 0.5


def test_effective_rank_is_the_number_of_even_directions() -> None:
    corners = torch.cat([AXES, -AXES])
    assert effective_rank(corners) == pytest.approx(4)
    assert effective_rank(corners[:, :2]) == pytest.approx(2)
    assert effective_rank(torch.ones(5, 3)) == 1
    assert 1 < effective_rank(corners * torch.tensor([10.0, 1, 1, 1])) < 3


def test_a_tie_is_no_hit() -> None:
    """A collapsed space finds nothing."""
    one = AXES[[0, 0, 0]]
    assert measure(Spaces(one, one, torch.tensor([0, 1, 2])))["recall@1"] == 0


def test_projection_keeps_distances_within_a_plane() -> None:
    spaces = Spaces(AXES[[0, 1]], AXES[[1, 0]], torch.tensor([1, 0]))
    view = projection(spaces)
    assert view["share"] == pytest.approx(1)
    assert view["wanted"] == [0, 1]
    assert view["states"][0] == pytest.approx(view["passages"][0])  # its own passage, whatever its row was
    (x, y), (u, v) = view["states"]
    assert math.hypot(x - u, y - v) == pytest.approx(math.sqrt(2), abs=1e-3)


def test_spaces_of_a_pair_are_its_states_and_embeddings(tiny_world: TinyWorld) -> None:
    model = CoSupervisedModel.from_pretrained(tiny_world.model)
    passages = {passage.id: passage for passage in read_passages(tiny_world.passages)}
    examples = [question_to_example(question, passages) for question in read_questions(tiny_world.questions)]
    spaces = spaces_of(model, examples, passages)
    wanted = [passage_id for example in examples for passage_id in example.passage_ids]
    assert len(spaces.states) == len(spaces.wanted) == len(wanted)
    assert len(spaces.passages) == len(set(wanted))
    assert torch.allclose(spaces.states.norm(dim=1), torch.ones(len(wanted)))
    embedded = model.embed_ids(model.encode_passages([passages[name].rendered for name in wanted]))
    own = torch.nn.functional.normalize(embedded, dim=1)
    assert torch.allclose(spaces.passages[spaces.wanted], own, atol=1e-5)


def test_the_questions_are_spread_over_their_file(tiny_world: TinyWorld, tmp_path: Path) -> None:
    """The first ones may all be about one passage."""
    settings = GeometrySettings(str(tiny_world.passages), str(tiny_world.questions), limit=4)
    ids = [question.id for question in read_questions(tiny_world.questions)]
    asked = [example.id for example in Watcher(settings, "claims", tmp_path).examples]
    assert asked == evenly(ids, 4)
    assert asked != ids[:4]
