"""Vectors of an embedder that is not trained: computed once, and no other than it gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cosup.training.trainer import CoSupervisionTrainer
from tests import pairs
from tests.training.examples import MIXED, pair
from tests.training.trained import quiet_config, trained, weights_of


@pytest.mark.parametrize("width", [32, 16])
def test_a_frozen_embedder_with_vectors_equals_one_that_runs(width: int, tmp_path: Path) -> None:
    """Vectors are computed once and kept; the generator (and the projection) learn the same, the embedder nothing."""
    shape = {"freeze_embedder": True, "max_steps": 3}
    kept = trained(tmp_path / "kept", pair({"embedder_width": width}), **shape)
    assert len(list((tmp_path / "kept").glob("passage_vectors-*.safetensors"))) == 1
    before = pair({"embedder_width": width}).state_dict()
    runs = pair({"embedder_width": width})
    trainer = CoSupervisionTrainer(runs, quiet_config(tmp_path / "runs", **shape), MIXED, pairs.PASSAGES)
    trainer._frozen = None
    trainer._collate.collator = replace(trainer._collate.collator, passage_rows=None)
    trainer.train()
    for name, value in weights_of(kept).items():
        assert torch.allclose(value, runs.state_dict()[name], atol=1e-5), name
        if name.startswith("embedder."):
            assert torch.equal(value, before[name])
    assert not torch.equal(weights_of(kept)["generator.lm_head.weight"], before["generator.lm_head.weight"])
