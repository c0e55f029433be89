"""The trainer's options: each changes what it says and nothing else, and a resumed run has them as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cosup.adapters import LoraSettings
from cosup.modeling import CoSupervisedModel
from cosup.records import Example
from cosup.training.saving import last_complete_checkpoint
from cosup.training.trainer import CoSupervisionTrainer
from tests import pairs
from tests.training.examples import MIXED, StopAt, pair
from tests.training.trained import logged, quiet_config, trained, weights_of, written_stream

# -- NSP at scale --------------------------------------------------------------------------------------------------


def test_the_contrast_may_be_larger_than_the_step(tmp_path: Path) -> None:
    """Examples beyond the step add negatives (and retrievals) and no supervised token."""
    step, wide = (trained(tmp_path, per_device_train_batch_size=2, seed=1, nsp_batch_size=size) for size in (None, 7))
    assert logged(wide, "nsp_negatives")[0] > 2 * logged(step, "nsp_negatives")[0]
    assert logged(wide, "ntp_loss") == pytest.approx(logged(step, "ntp_loss"), rel=1e-5)
    again = trained(tmp_path, per_device_train_batch_size=2, seed=1, nsp_batch_size=7, micro_batch_tokens=60)
    assert logged(again, "nsp_loss") == pytest.approx(logged(wide, "nsp_loss"), rel=1e-4)


def test_without_grad_cache_each_pack_is_contrasted_by_itself(tmp_path: Path) -> None:
    """Fewer negatives, and one forward pass in place of two."""
    whole = trained(tmp_path, micro_batch_tokens=60)
    apart = trained(tmp_path, micro_batch_tokens=60, grad_cache=False)
    assert logged(apart, "nsp_negatives")[0] < logged(whole, "nsp_negatives")[0]
    assert logged(apart, "ntp_loss") == pytest.approx(logged(whole, "ntp_loss"), rel=1e-5)


def test_a_learnt_temperature_moves_and_is_kept(tmp_path: Path) -> None:
    """It is logged, saved with the pair, and restored to the bit."""
    more = {"learn_temperature": True, "save_strategy": "steps", "save_steps": 3, "max_steps": 6}
    whole = trained(tmp_path / "whole", pair({"learn_temperature": True}), **more)
    assert logged(whole, "temperature")[-1] != pytest.approx(0.05)
    parts = tmp_path / "parts"
    trained(parts, pair({"learn_temperature": True}), **more, callbacks=[StopAt(3)])
    resumed = trained(parts, pair({"learn_temperature": True}), **more, resume=True)
    assert resumed.model.temperature == whole.model.temperature
    loaded = CoSupervisedModel.from_pretrained(parts / "checkpoint-6")
    assert loaded.temperature == whole.model.temperature


# -- schedules of what is learnt when ----------------------------------------------------------------------------------


def test_lambda_rises_and_goes_to_its_end(tmp_path: Path) -> None:
    """Step by step: the logged weight is the line's, and each loss is that of this weight; a stop changes nothing."""
    more = {"nsp_weight": 0.6, "nsp_warmup_steps": 2, "nsp_weight_end": 0.2, "max_steps": 5}
    more |= {"save_strategy": "steps", "save_steps": 1, "micro_batch_tokens": 60}
    trainer = trained(tmp_path / "whole", **more)
    weights = logged(trainer, "nsp_weight")
    assert weights == pytest.approx([0.2, 0.4, 0.6, 0.4, 0.2])
    logs = zip(*(logged(trainer, name) for name in ("loss", "ntp_loss", "nsp_loss")), weights, strict=True)
    assert all(loss == pytest.approx(ntp + weight * nsp, rel=1e-4) for loss, ntp, nsp, weight in logs)
    trained(tmp_path / "parts", **more, callbacks=[StopAt(3)])
    resumed = trained(tmp_path / "parts", **more, resume=True)
    assert logged(resumed, "nsp_weight")[-2:] == pytest.approx([0.4, 0.2])
    assert all(torch.equal(value, weights_of(resumed)[name]) for name, value in weights_of(trainer).items())
    assert not logged(trained(tmp_path / "plain"), "nsp_weight")


def test_lambda_stays_without_a_schedule_and_bears_any_length() -> None:
    config = quiet_config(Path("unused"), nsp_weight=0.3)
    assert {config.nsp_weight_at(step, 4) for step in range(4)} == {0.3}
    short = quiet_config(Path("unused"), nsp_weight=0.3, nsp_weight_end=0.1, nsp_warmup_steps=5)
    assert [short.nsp_weight_at(step, 1) for step in range(1)] == pytest.approx([0.05])
    assert short.nsp_weight_at(5, 6) == pytest.approx(0.3)


def test_passages_are_dropped_in_training_and_not_in_evaluation(tmp_path: Path) -> None:
    """The sequences that are run are shorter, anew every epoch; held-out examples are whole; a stop changes nothing."""
    more = {"passage_dropout": 0.5, "max_steps": 6, "save_strategy": "steps", "save_steps": 1}
    whole = trained(tmp_path / "whole", **more)
    train: Any = whole.train_dataset
    dropped = [len(train[i].input_ids) for i in range(len(train))]
    assert sum(dropped) < sum(len(train.whole(i).input_ids) for i in range(len(train)))
    trained(tmp_path / "parts", **more, callbacks=[StopAt(3)])
    resumed = trained(tmp_path / "parts", **more, resume=True)
    assert logged(resumed, "loss") == logged(whole, "loss")
    plain = CoSupervisionTrainer(pair({}), quiet_config(tmp_path), MIXED, pairs.PASSAGES, MIXED)
    dropping = CoSupervisionTrainer(pair({}), quiet_config(tmp_path, passage_dropout=1.0), MIXED, pairs.PASSAGES, MIXED)
    assert dropping.evaluate() == pytest.approx(plain.evaluate())


def test_the_curriculum_opens_with_few_retrievals(tmp_path: Path) -> None:
    """The trainer's own order: by number of retrievals as long as it lasts, and every example once."""
    trainer = CoSupervisionTrainer(
        pair({}), quiet_config(tmp_path, curriculum_steps=1, per_device_train_batch_size=3), MIXED, pairs.PASSAGES
    )
    order = list(trainer._get_train_sampler())
    hops = [len(e.passage_ids) for e in MIXED]
    assert sorted(order) == list(range(len(MIXED)))
    assert sorted(hops[i] for i in order[:3]) == sorted(hops)[:3]
    assert max(hops[i] for i in order) == max(hops[i] for i in order[3:])


def test_a_pooling_of_the_recipe_is_the_pairs(tmp_path: Path) -> None:
    """It is trained and saved with the pair; another pooling gives other vectors."""
    more = {"save_strategy": "steps", "save_steps": 1}
    made = {name: trained(tmp_path / str(name), pooling=name, **more) for name in (None, "mean")}
    losses = [logged(trainer, "nsp_loss") for trainer in made.values()]
    assert losses[0] != losses[1]
    kept = {CoSupervisedModel.from_pretrained(tmp_path / f"{n}" / "checkpoint-1").settings.pooling for n in made}
    assert kept == {"last_token", "mean"}


# -- pairings --------------------------------------------------------------------------------------------------------


def test_lora_stops_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """Proof 6 for adapters: one base in memory, checkpoints that hold the adapters alone, a merged model at the end."""
    base = tmp_path / "base"
    pairs.save_base(base, [*(p.rendered for p in pairs.PASSAGES), *(q.question for q in pairs.QUESTIONS)])
    settings = pair({}).settings

    def model() -> CoSupervisedModel:
        torch.manual_seed(5)
        lora = LoraSettings(r=4, alpha=8, dropout=0.1)
        return CoSupervisedModel.from_base(str(base), str(base), settings, adapters=lora)

    more = {"save_strategy": "steps", "save_steps": 3, "max_steps": 6, "learning_rate": 1e-2}
    whole = trained(tmp_path / "whole", model(), **more)
    trained(tmp_path / "parts", model(), **more, callbacks=[StopAt(3)])
    assert (tmp_path / "parts" / "checkpoint-3" / "generator" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "parts" / "checkpoint-3" / "generator" / "model.safetensors").exists()
    resumed = trained(tmp_path / "parts", model(), **more, resume=True)
    assert all(torch.equal(value, weights_of(resumed)[name]) for name, value in weights_of(whole).items())
    assert logged(whole, "loss")[-1] < logged(whole, "loss")[0]


def test_shared_weights_train_both_ways(tmp_path: Path) -> None:
    """One set of weights: a step moves it, and the two models stay one."""
    trainer = trained(tmp_path, pair({"shared": True}), max_steps=2)
    assert trainer.model.shared
    assert "embedder_grad_norm" in trainer.state.log_history[0]
    assert trainer.state.log_history[0]["generator_grad_norm"] > 0


# -- data on disk ------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on machines with one core
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_stops_and_goes_on_bit_for_bit(workers: int, tmp_path: Path) -> None:
    """Proof 6 for streamed examples, in the middle of the second epoch."""

    def run(name: str, **more: Any) -> CoSupervisionTrainer:
        folder, callbacks, resume = tmp_path / name, more.pop("callbacks", []), more.pop("resume", False)
        shape = {"save_strategy": "steps", "save_steps": 5, "max_steps": 9, "per_device_train_batch_size": 2}
        shape |= {"dataloader_num_workers": workers, "accelerator_config": {"dispatch_batches": False}}
        trainer = CoSupervisionTrainer(
            pair({}), quiet_config(folder, **shape), written_stream(tmp_path, 9), pairs.PASSAGES, callbacks=callbacks
        )
        trainer.train(resume_from_checkpoint=str(last_complete_checkpoint(folder)) if resume else None)
        return trainer

    whole = run("whole")
    run("parts", callbacks=[StopAt(5)])
    resumed = run("parts", resume=True)
    assert logged(resumed, "loss") == logged(whole, "loss")
    assert len(logged(whole, "loss")) == 9
    assert all(torch.equal(value, weights_of(resumed)[name]) for name, value in weights_of(whole).items())


def test_an_example_without_a_retrieval_alone_in_its_step(tmp_path: Path) -> None:
    """Both losses are defined, and nothing is divided by zero."""
    only = [Example("plain", "Who?", MIXED[6].output)]
    trainer = CoSupervisionTrainer(pair({}), quiet_config(tmp_path), only, pairs.PASSAGES)
    trainer.train()
    assert "nsp_loss" not in trainer.state.log_history[0]
    assert trainer.state.log_history[0]["ntp_loss"] > 0
