"""What a run's log tells besides its losses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cosup.training.trainer import CoSupervisionTrainer
from tests import pairs
from tests.training.examples import MIXED, pair
from tests.training.trained import logged, quiet_config, trained


def test_the_log_tells_speed_padding_memory_and_norms(tmp_path: Path) -> None:
    """Both models' norms make up the whole; packed rows have no padding and padded ones have some."""
    packed, padded = (trained(tmp_path, packing=packing).state.log_history[0] for packing in (True, False))
    whole = (packed["generator_grad_norm"] ** 2 + packed["embedder_grad_norm"] ** 2) ** 0.5
    assert packed["grad_norm"] == pytest.approx(whole, rel=1e-4)
    assert packed["padding_share"] == 0
    assert 0 < padded["padding_share"] < 0.6
    assert packed["tokens_per_second"] > 0
    assert 0.1 < packed["memory_gb"] < 64


def test_norms_of_float16_are_those_of_the_unscaled_gradients(tmp_path: Path) -> None:
    """A scaler multiplies the loss; what is logged is what the optimizer will see."""
    plain = trained(tmp_path)
    scaled = CoSupervisionTrainer(pair({}), quiet_config(tmp_path, max_grad_norm=0.0), MIXED, pairs.PASSAGES)
    scaled.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaled.train()
    for name in ("generator_grad_norm", "embedder_grad_norm"):
        assert logged(scaled, name) == pytest.approx(logged(plain, name), rel=1e-4)
