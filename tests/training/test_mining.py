"""Hard negatives: near, not right, and the same after a stop."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from cosup.data.keys import normalised
from cosup.records import Passage
from cosup.training.mining import Wanted, pick_negatives
from tests import pairs
from tests.training.examples import MIXED, StopAt
from tests.training.trained import logged, trained, weights_of


def test_hard_negatives_are_near_and_not_right(tmp_path: Path) -> None:
    """They come from the top of the ranking; gold passages, their copies and passages with the answer do not."""
    passages = [Passage(str(i), "", f"text {i}") for i in range(6)]
    passages[1] = Passage("1", "", "text 0")
    passages[2] = Passage("2", "", "here is The Answer.")
    vectors = torch.tensor([[6.0 - i] for i in range(6)])
    wanted = [Wanted("a", ("0",), "answer"), Wanted("b", ("5",), None)]
    found = pick_negatives(torch.ones(2, 1), wanted, vectors, passages, 2, 4, seed=1)
    assert found["a"] == ("3",)
    assert len(found["b"]) == 2
    assert set(found["b"]) <= {"0", "1", "2", "3"}
    assert found == pick_negatives(torch.ones(2, 1), wanted, vectors, passages, 2, 4, seed=1)


def test_mined_negatives_join_the_contrast_and_survive_a_stop(tmp_path: Path) -> None:
    """From the second epoch on; a run that is stopped in the middle of it ends bit for bit like the whole one."""
    more = {"hard_negatives": 3, "save_strategy": "steps", "save_steps": 1, "max_steps": 6}
    whole = trained(tmp_path / "whole", **more)
    counts = logged(whole, "nsp_negatives")
    plain = logged(trained(tmp_path / "plain", max_steps=6), "nsp_negatives")
    assert counts[:2] == plain[:2]
    assert sum(counts[2:]) > sum(plain[2:])
    trained(tmp_path / "parts", **more, callbacks=[StopAt(3)])
    record = json.loads((tmp_path / "parts" / "checkpoint-3" / "hard_negatives.json").read_text())
    assert record["epoch"] == 1
    by_id = {e.id: e for e in MIXED}
    for name, negatives in record["negatives"].items():
        assert not set(negatives) & set(by_id[name].passage_ids)
        answer = normalised(by_id[name].output[-1].text)  # type: ignore[union-attr]
        assert all(answer not in normalised(pairs.BY_ID[i].rendered) for i in negatives)
    resumed = trained(tmp_path / "parts", **more, resume=True)
    assert all(torch.equal(value, weights_of(resumed)[name]) for name, value in weights_of(whole).items())
