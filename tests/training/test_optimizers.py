"""Which optimizer gets which parameters, and rates that fall by the epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cosup.training import optimizers
from cosup.training.optimizers import JointOptimizer, muon_for
from cosup.training.trainer import CoSupervisionTrainer
from tests import pairs
from tests.training.examples import MIXED
from tests.training.trained import logged, quiet_config, trained


def test_the_rate_falls_after_each_epoch(tmp_path: Path) -> None:
    """The paper's schedule: constant within an epoch, times 0.85 after it."""
    more = {"lr_scheduler_type": "constant", "lr_epoch_decay": 0.85, "max_steps": -1, "num_train_epochs": 3}
    rates = logged(trained(tmp_path, **more), "learning_rate")
    assert rates == pytest.approx([3e-3, 3e-3, 3e-3 * 0.85, 3e-3 * 0.85, 3e-3 * 0.85**2, 3e-3 * 0.85**2])


def test_muon_takes_the_generators_hidden_matrices_and_no_others(tmp_path: Path) -> None:
    """Every trainable parameter is in exactly one group; embeddings, head, norms and the embedder stay with AdamW."""
    model = pairs.pair(embedder_width=16)
    config = quiet_config(tmp_path, muon_learning_rate=1e-3, learning_rate=2e-3)
    trainer = CoSupervisionTrainer(model, config, MIXED, pairs.PASSAGES)
    optimizer = trainer.create_optimizer()
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted({id(p) for p in model.parameters()})
    muon = {id(p) for group in optimizer.param_groups if group["lr"] == 1e-3 for p in group["params"]}
    named = {name for name, p in model.named_parameters() if id(p) in muon}
    assert named == {n for n, p in model.named_parameters() if n.startswith("generator.model.layers") and p.ndim == 2}
    assert len(named) == 14


class _Products(TorchDispatchMode):
    """Remembers the types that matrices were multiplied in."""

    def __init__(self) -> None:
        super().__init__()
        self.types: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            self.types.add(args[0].dtype)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_multiplies_in_float32_where_bfloat16_is_slow(nesterov: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The types of its products follow the machine; the step is the same up to bfloat16, the momentum is untouched."""
    after = []
    for fast in (True, False):
        monkeypatch.setattr(optimizers, "has_fast_bfloat16", lambda device, fast=fast: fast)
        weight = torch.nn.Parameter(torch.randn(24, 16, generator=torch.Generator().manual_seed(0)))
        joint = JointOptimizer([muon_for(weight.device)([weight], lr=0.1, nesterov=nesterov)])
        for seed in (1, 2):
            weight.grad = torch.randn(24, 16, generator=torch.Generator().manual_seed(seed))
            with _Products() as products:
                joint.step()
        assert products.types == {torch.bfloat16 if fast else torch.float32}
        after.append((weight.detach(), joint.parts[0].state[weight]["momentum_buffer"]))
    assert torch.allclose(after[0][0], after[1][0], atol=5e-3)
    assert not torch.equal(after[0][0], after[1][0])
    assert torch.equal(after[0][1], after[1][1])
