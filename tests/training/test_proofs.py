"""Proofs 3 and 6 of the design at the trainer's level, over every kind of pair (proof 2: `test_distributed.py`)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from cosup.modeling import CoSupervisedModel
from cosup.training.config import CoSupervisionConfig
from cosup.training.trainer import CoSupervisionTrainer
from tests import pairs
from tests.bases import write_all
from tests.training.examples import MIXED
from tests.training.pairings import PAIRINGS, options_of, set_dropout, start

Weights = dict[str, torch.Tensor]
QUICK = ("llama+llama", "gpt2+qwen2", "shared", "one-base", "frozen")
#: Every pairing; those that are not quick run in the slow tests.
EVERY = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in PAIRINGS]
# In half precision layers are lean, rows are rounded up, and the last layer runs for what is read alone.
HALVED = ("llama+qwen2", "two-bases")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    write_all(folder)
    return folder


def _config(folder: Path, **more: Any) -> CoSupervisionConfig:
    quiet = {"save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "logging_steps": 1, "max_steps": 1}
    quiet |= {"per_device_train_batch_size": 4}
    return CoSupervisionConfig(output_dir=str(folder), **(quiet | more))


# -- proof 6 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "half"),
    [
        *(pytest.param(*own.values, False, marks=own.marks) for own in EVERY),
        *((name, True) for name in HALVED),
    ],
)
def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(
    name: str, half: bool, bases: Path, tmp_path: Path
) -> None:
    """Proof 6: from the checkpoint in the middle to the same weights and losses; dropout on, several packs a step."""
    more: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "max_steps": 3, "learning_rate": 3e-3}
    more |= {"micro_batch_tokens": 200, "bf16": half}

    def run(checkpoint: Path | None = None) -> CoSupervisionTrainer:
        model, config = start(bases, name, dropout=0.1), _config(tmp_path, **more, **options_of(name))
        trainer = CoSupervisionTrainer(model, config, MIXED, pairs.PASSAGES)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        return trainer

    whole = run()
    shutil.rmtree(tmp_path / "checkpoint-3")
    resumed = run(tmp_path / "checkpoint-2")
    wanted, found = whole.model.state_dict(), resumed.model.state_dict()
    assert wanted.keys() == found.keys()
    assert not [tensor for tensor in wanted if not torch.equal(wanted[tensor], found[tensor])]
    losses = [[e["loss"] for e in t.state.log_history if "loss" in e] for t in (whole, resumed)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 3


# -- proof 3 -------------------------------------------------------------------------------------------------------


class Twice(CoSupervisionTrainer):
    """Adds an empty pack to a step of one pack, which is then run as a step of several: by GradCache."""

    def _level(self, batches: Any) -> None:
        super()._level(batches)
        batches[-1]["packs"].append(self._collate.collator.empty_pack())


def _step(
    model: CoSupervisedModel, folder: Path, kind: type[CoSupervisionTrainer] = CoSupervisionTrainer, **more: Any
) -> tuple[Weights, float]:
    """Return the gradients of one step, by a plain one of rate 1, and its loss; the model is then as before."""
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    before = {n: p.detach().clone() for n, p in trained.items()}
    optimizer = torch.optim.SGD(trained.values(), lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    config = _config(folder, max_grad_norm=0.0, **more)
    trainer = kind(model, config, MIXED, pairs.PASSAGES, optimizers=(optimizer, schedule))
    trainer.train()
    moved = {n: before[n] - p.detach() for n, p in trained.items()}
    with torch.no_grad():
        for n, p in trained.items():
            p.copy_(before[n])
    model.activation_checkpointing_disable()
    return moved, next(float(e["loss"]) for e in trainer.state.log_history if "loss" in e)


def _close(one: tuple[Weights, float], other: tuple[Weights, float], what: str, off: float = 2e-3) -> None:
    assert other[1] == pytest.approx(one[1], rel=off / 20), what
    for name, gradient in one[0].items():
        scale = gradient.abs().max().clamp_min(1e-3)
        assert torch.allclose(gradient / scale, other[0][name] / scale, atol=off), (what, name)


WAYS: dict[str, dict[str, Any]] = {
    "accumulated": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    "cut into packs": {"micro_batch_tokens": 150},
    "padded": {"packing": False, "micro_batch_tokens": 150},
    "checkpointed": {"activation_checkpointing": True},
}


@pytest.fixture(params=EVERY)
def pairing(request: pytest.FixtureRequest, bases: Path) -> tuple[CoSupervisedModel, dict[str, Any]]:
    name: str = request.param
    options = options_of(name) | {"train_sampling_strategy": "group_by_length"}  # the order of padded rows
    return start(bases, name), options


def test_a_step_is_the_same_however_it_is_run(
    pairing: tuple[CoSupervisedModel, dict[str, Any]], tmp_path: Path
) -> None:
    """Proof 3: accumulated = whole, cut into packs (GradCache) = one, packed = padded, checkpointed = not."""
    model, options = pairing
    whole = _step(model, tmp_path, **options)
    assert sum(float(g.abs().sum()) > 0 for g in whole[0].values()) > 0.8 * len(whole[0])
    for what, way in WAYS.items():
        _close(whole, _step(model, tmp_path, **options, **way), what)


def test_grad_cache_is_plain_with_dropout(pairing: tuple[CoSupervisedModel, dict[str, Any]], tmp_path: Path) -> None:
    """Proof 3: the second run of a pack drops what the first has dropped; another seed drops something else."""
    model, options = pairing
    set_dropout(model, 0.2)
    plain = _step(model, tmp_path, **options)
    _close(plain, _step(model, tmp_path, Twice, **options), "GradCache")
    assert _step(model, tmp_path, **options, seed=7, data_seed=42)[1] != plain[1]


@pytest.mark.parametrize(
    "name", [*HALVED, *(pytest.param(name, marks=pytest.mark.slow) for name in ("shared", "one-base"))]
)
def test_in_half_precision_a_step_is_the_same_however_it_is_run(name: str, bases: Path, tmp_path: Path) -> None:
    """Proof 3 as far as half precision goes; where the same numbers are rounded, as in float32, dropout included."""
    model, options = start(bases, name), options_of(name) | {"train_sampling_strategy": "group_by_length", "bf16": True}
    exact = _step(model, tmp_path, **(options | {"bf16": False}))
    whole = _step(model, tmp_path, **options)
    assert whole[1] != exact[1], "the second trainer of a pair trains in its own precision"
    _close(exact, whole, "float32", off=0.1)
    for what, way in WAYS.items():
        _close(whole, _step(model, tmp_path, **options, **way), what, off=0.1)
    set_dropout(model, 0.2)
    plain = _step(model, tmp_path, **options)
    _close(plain, _step(model, tmp_path, Twice, **options), "GradCache")
