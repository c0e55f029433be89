"""The trainer's options: each changes what it says and nothing else, and a resumed run has them as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cosup.data.dropout import PassageDropout
from cosup.data.encoding import Kind
from cosup.data.keys import normalised
from cosup.data.stream import StreamedExamples, StreamOrder
from cosup.data.writing import write_jsonl
from cosup.errors import UsageError
from cosup.modeling import CoSupervisedModel, LoraSettings
from cosup.records import Example, Passage
from cosup.training.config import CoSupervisionConfig
from cosup.training.mining import Wanted, pick_negatives
from cosup.training.saving import last_complete_checkpoint
from cosup.training.trainer import CoSupervisionTrainer
from tests import pairs
from tests.training.examples import MIXED, StopAt, pair


def _config(folder: Path, **more: Any) -> CoSupervisionConfig:
    quiet = {"save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "logging_steps": 1, "max_steps": 1}
    rates = {"learning_rate": 3e-3, "per_device_train_batch_size": 4}
    return CoSupervisionConfig(output_dir=str(folder), **(quiet | rates | more))


def _trained(folder: Path, model: CoSupervisedModel | None = None, **more: Any) -> CoSupervisionTrainer:
    callbacks, resume = more.pop("callbacks", []), more.pop("resume", False)
    trainer = CoSupervisionTrainer(
        pair({}) if model is None else model, _config(folder, **more), MIXED, pairs.PASSAGES, callbacks=callbacks
    )
    trainer.train(resume_from_checkpoint=str(last_complete_checkpoint(folder)) if resume else None)
    return trainer


def _logged(trainer: CoSupervisionTrainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry and "loss" in entry]


def _weights(trainer: CoSupervisionTrainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


# -- NSP at scale --------------------------------------------------------------------------------------------------


def test_the_contrast_may_be_larger_than_the_step(tmp_path: Path) -> None:
    """Examples beyond the step add negatives (and retrievals) and no supervised token."""
    step, wide = (_trained(tmp_path, per_device_train_batch_size=2, seed=1, nsp_batch_size=size) for size in (None, 7))
    assert _logged(wide, "nsp_negatives")[0] > 2 * _logged(step, "nsp_negatives")[0]
    assert _logged(wide, "ntp_loss") == pytest.approx(_logged(step, "ntp_loss"), rel=1e-5)
    again = _trained(tmp_path, per_device_train_batch_size=2, seed=1, nsp_batch_size=7, micro_batch_tokens=60)
    assert _logged(again, "nsp_loss") == pytest.approx(_logged(wide, "nsp_loss"), rel=1e-4)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"nsp_batch_size": 3}, "nsp_batch_size is 3; expected at least the 4 examples of a step"),
        ({"hard_negatives": 1, "max_steps": 2}, "are mined after an epoch, and this run has 1 in all; train longer"),
        ({"hard_negatives": 1, "max_steps": -1, "num_train_epochs": 0.5}, "and this run has 0.5 in all; train"),
        ({"hard_negatives": 1, "hard_negatives_every": 2, "max_steps": 4}, "are mined after 2 epochs, and this run"),
        ({"save_adapters": True}, "save_adapters is true, and the recipe has no adapters to save"),
    ],
)
def test_settings_that_exclude_one_another(more: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        _trained(tmp_path, **more)


def test_a_checkpoint_of_the_model_alone_is_not_gone_on_from(tmp_path: Path) -> None:
    """A fresh optimizer would be another run without a word."""
    more = {"save_strategy": "steps", "save_steps": 1, "save_only_model": True}
    _trained(tmp_path, **more)
    with pytest.raises(UsageError, match=r"checkpoint-1 holds the model alone \(save_only_model\), and training"):
        _trained(tmp_path, **more, max_steps=2, resume=True)


def test_without_grad_cache_each_pack_is_contrasted_by_itself(tmp_path: Path) -> None:
    """Fewer negatives, and one forward pass in place of two."""
    whole = _trained(tmp_path, micro_batch_tokens=60)
    apart = _trained(tmp_path, micro_batch_tokens=60, grad_cache=False)
    assert _logged(apart, "nsp_negatives")[0] < _logged(whole, "nsp_negatives")[0]
    assert _logged(apart, "ntp_loss") == pytest.approx(_logged(whole, "ntp_loss"), rel=1e-5)


def test_a_learnt_temperature_moves_and_is_kept(tmp_path: Path) -> None:
    """It is logged, saved with the pair, and restored to the bit."""
    more = {"learn_temperature": True, "save_strategy": "steps", "save_steps": 3, "max_steps": 6}
    whole = _trained(tmp_path / "whole", pair({"learn_temperature": True}), **more)
    assert _logged(whole, "temperature")[-1] != pytest.approx(0.05)
    parts = tmp_path / "parts"
    _trained(parts, pair({"learn_temperature": True}), **more, callbacks=[StopAt(3)])
    resumed = _trained(parts, pair({"learn_temperature": True}), **more, resume=True)
    assert resumed.model.temperature == whole.model.temperature
    loaded = CoSupervisedModel.from_pretrained(parts / "checkpoint-6")
    assert loaded.temperature == whole.model.temperature


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
    whole = _trained(tmp_path / "whole", **more)
    counts = _logged(whole, "nsp_negatives")
    plain = _logged(_trained(tmp_path / "plain", max_steps=6), "nsp_negatives")
    assert counts[:2] == plain[:2]
    assert sum(counts[2:]) > sum(plain[2:])
    _trained(tmp_path / "parts", **more, callbacks=[StopAt(3)])
    record = json.loads((tmp_path / "parts" / "checkpoint-3" / "hard_negatives.json").read_text())
    assert record["epoch"] == 1
    by_id = {e.id: e for e in MIXED}
    for name, negatives in record["negatives"].items():
        assert not set(negatives) & set(by_id[name].passage_ids)
        answer = normalised(by_id[name].output[-1].text)  # type: ignore[union-attr]
        assert all(answer not in normalised(pairs.BY_ID[i].rendered) for i in negatives)
    resumed = _trained(tmp_path / "parts", **more, resume=True)
    assert all(torch.equal(value, _weights(resumed)[name]) for name, value in _weights(whole).items())


# -- schedules of what is learnt when ----------------------------------------------------------------------------------


def test_lambda_rises_and_goes_to_its_end(tmp_path: Path) -> None:
    """Step by step: the logged weight is the line's, and each loss is that of this weight; a stop changes nothing."""
    more = {"nsp_weight": 0.6, "nsp_warmup_steps": 2, "nsp_weight_end": 0.2, "max_steps": 5}
    more |= {"save_strategy": "steps", "save_steps": 1, "micro_batch_tokens": 60}
    trainer = _trained(tmp_path / "whole", **more)
    weights = _logged(trainer, "nsp_weight")
    assert weights == pytest.approx([0.2, 0.4, 0.6, 0.4, 0.2])
    logs = zip(*(_logged(trainer, name) for name in ("loss", "ntp_loss", "nsp_loss")), weights, strict=True)
    assert all(loss == pytest.approx(ntp + weight * nsp, rel=1e-4) for loss, ntp, nsp, weight in logs)
    _trained(tmp_path / "parts", **more, callbacks=[StopAt(3)])
    resumed = _trained(tmp_path / "parts", **more, resume=True)
    assert _logged(resumed, "nsp_weight")[-2:] == pytest.approx([0.4, 0.2])
    assert all(torch.equal(value, _weights(resumed)[name]) for name, value in _weights(trainer).items())
    assert not _logged(_trained(tmp_path / "plain"), "nsp_weight")


def test_lambda_stays_without_a_schedule_and_bears_any_length() -> None:
    config = _config(Path("unused"), nsp_weight=0.3)
    assert {config.nsp_weight_at(step, 4) for step in range(4)} == {0.3}
    short = _config(Path("unused"), nsp_weight=0.3, nsp_weight_end=0.1, nsp_warmup_steps=5)
    assert [short.nsp_weight_at(step, 1) for step in range(1)] == pytest.approx([0.05])
    assert short.nsp_weight_at(5, 6) == pytest.approx(0.3)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_dropped_passages_are_not_read_and_still_to_be_picked(share: float) -> None:
    """What stays is the example without those tokens; the draw is that of seed, epoch and example."""
    encoder = pair({}).example_encoder()
    drop, gone, epochs = PassageDropout(share, seed=3), 0, set()
    for example in pairs.EXAMPLES:
        whole = encoder.example(example, pairs.BY_ID)
        before = (list(whole.input_ids), list(whole.ret_positions))
        for epoch in range(8):
            drop.epoch = epoch
            left = drop(whole)
            assert left == drop(whole)
            assert [left.input_ids[i] for i in left.ret_positions] == [encoder.control.ret] * len(whole.ret_positions)
            assert left.passage_ids == whole.passage_ids
            pieces = [encoder.passage(pairs.BY_ID[i]) for i in whole.passage_ids]
            read = [i for i, kind in zip(left.input_ids, left.kinds, strict=True) if kind == Kind.PASSAGE]
            kept = [n for n in range(len(pieces)) if left.kinds[left.ret_positions[n] + 1] == Kind.PASSAGE]
            assert read == [token for n in kept for token in pieces[n]]
            others = [i for i, kind in zip(whole.input_ids, whole.kinds, strict=True) if kind != Kind.PASSAGE]
            assert others == [i for i, kind in zip(left.input_ids, left.kinds, strict=True) if kind != Kind.PASSAGE]
            gone += len(pieces) - len(kept)
            epochs.add((epoch, len(left.input_ids)))
        assert (list(whole.input_ids), list(whole.ret_positions)) == before
    count = 8 * sum(len(e.passage_ids) for e in pairs.EXAMPLES)
    assert gone == count if share == 1 else 0.3 * count < gone < 0.7 * count


def test_passages_are_dropped_in_training_and_not_in_evaluation(tmp_path: Path) -> None:
    """The sequences that are run are shorter, anew every epoch; held-out examples are whole; a stop changes nothing."""
    more = {"passage_dropout": 0.5, "max_steps": 6, "save_strategy": "steps", "save_steps": 1}
    whole = _trained(tmp_path / "whole", **more)
    train: Any = whole.train_dataset
    dropped = [len(train[i].input_ids) for i in range(len(train))]
    assert sum(dropped) < sum(len(train.whole(i).input_ids) for i in range(len(train)))
    _trained(tmp_path / "parts", **more, callbacks=[StopAt(3)])
    resumed = _trained(tmp_path / "parts", **more, resume=True)
    assert _logged(resumed, "loss") == _logged(whole, "loss")
    plain = CoSupervisionTrainer(pair({}), _config(tmp_path), MIXED, pairs.PASSAGES, MIXED)
    dropping = CoSupervisionTrainer(pair({}), _config(tmp_path, passage_dropout=1.0), MIXED, pairs.PASSAGES, MIXED)
    assert dropping.evaluate() == pytest.approx(plain.evaluate())


def test_the_curriculum_opens_with_few_retrievals(tmp_path: Path) -> None:
    """The trainer's own order: by number of retrievals as long as it lasts, and every example once."""
    trainer = CoSupervisionTrainer(
        pair({}), _config(tmp_path, curriculum_steps=1, per_device_train_batch_size=3), MIXED, pairs.PASSAGES
    )
    order = list(trainer._get_train_sampler())
    hops = [len(e.passage_ids) for e in MIXED]
    assert sorted(order) == list(range(len(MIXED)))
    assert sorted(hops[i] for i in order[:3]) == sorted(hops)[:3]
    assert max(hops[i] for i in order) == max(hops[i] for i in order[3:])


def test_a_pooling_of_the_recipe_is_the_pairs(tmp_path: Path) -> None:
    """It is trained and saved with the pair; another pooling gives other vectors."""
    more = {"save_strategy": "steps", "save_steps": 1}
    made = {name: _trained(tmp_path / str(name), pooling=name, **more) for name in (None, "mean")}
    losses = [_logged(trainer, "nsp_loss") for trainer in made.values()]
    assert losses[0] != losses[1]
    kept = {CoSupervisedModel.from_pretrained(tmp_path / f"{n}" / "checkpoint-1").settings.pooling for n in made}
    assert kept == {"last_token", "mean"}


# -- pairings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [32, 16])
def test_a_frozen_embedder_with_vectors_equals_one_that_runs(width: int, tmp_path: Path) -> None:
    """Vectors are computed once and kept; the generator (and the projection) learn the same, the embedder nothing."""
    shape = {"freeze_embedder": True, "max_steps": 3}
    kept = _trained(tmp_path / "kept", pair({"embedder_width": width}), **shape)
    assert len(list((tmp_path / "kept").glob("passage_vectors-*.safetensors"))) == 1
    before = pair({"embedder_width": width}).state_dict()
    runs = pair({"embedder_width": width})
    trainer = CoSupervisionTrainer(runs, _config(tmp_path / "runs", **shape), MIXED, pairs.PASSAGES)
    trainer._frozen = None
    trainer.data_collator = trainer._collate = trainer._loader_collator(runs, trainer.args)
    trainer.train()
    for name, value in _weights(kept).items():
        assert torch.allclose(value, runs.state_dict()[name], atol=1e-5), name
        if name.startswith("embedder."):
            assert torch.equal(value, before[name])
    assert not torch.equal(_weights(kept)["generator.lm_head.weight"], before["generator.lm_head.weight"])


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
    whole = _trained(tmp_path / "whole", model(), **more)
    _trained(tmp_path / "parts", model(), **more, callbacks=[StopAt(3)])
    assert (tmp_path / "parts" / "checkpoint-3" / "generator" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "parts" / "checkpoint-3" / "generator" / "model.safetensors").exists()
    resumed = _trained(tmp_path / "parts", model(), **more, resume=True)
    assert all(torch.equal(value, _weights(resumed)[name]) for name, value in _weights(whole).items())
    assert _logged(whole, "loss")[-1] < _logged(whole, "loss")[0]


def test_shared_weights_train_both_ways(tmp_path: Path) -> None:
    """One set of weights: a step moves it, and the two models stay one."""
    trainer = _trained(tmp_path, pair({"shared": True}), max_steps=2)
    assert trainer.model.shared
    assert "embedder_grad_norm" in trainer.state.log_history[0]
    assert trainer.state.log_history[0]["generator_grad_norm"] > 0


# -- data on disk ------------------------------------------------------------------------------------------------------


def _stream(folder: Path, steps: int) -> StreamedExamples:
    write_jsonl(folder / "examples.jsonl", MIXED)
    order = StreamOrder(seed=3, shuffle_buffer=3, batch_size=2, repeat=steps > 0)
    return StreamedExamples(folder / "examples.jsonl", pairs.BY_ID, order)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on machines with one core
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_stops_and_goes_on_bit_for_bit(workers: int, tmp_path: Path) -> None:
    """Proof 6 for streamed examples, in the middle of the second epoch."""

    def run(name: str, **more: Any) -> CoSupervisionTrainer:
        folder, callbacks, resume = tmp_path / name, more.pop("callbacks", []), more.pop("resume", False)
        shape = {"save_strategy": "steps", "save_steps": 5, "max_steps": 9, "per_device_train_batch_size": 2}
        shape |= {"dataloader_num_workers": workers, "accelerator_config": {"dispatch_batches": False}}
        trainer = CoSupervisionTrainer(
            pair({}), _config(folder, **shape), _stream(tmp_path, 9), pairs.PASSAGES, callbacks=callbacks
        )
        trainer.train(resume_from_checkpoint=str(last_complete_checkpoint(folder)) if resume else None)
        return trainer

    whole = run("whole")
    run("parts", callbacks=[StopAt(5)])
    resumed = run("parts", resume=True)
    assert _logged(resumed, "loss") == _logged(whole, "loss")
    assert len(_logged(whole, "loss")) == 9
    assert all(torch.equal(value, _weights(resumed)[name]) for name, value in _weights(whole).items())


@pytest.mark.parametrize(
    "more",
    [
        *({"nsp_batch_size": 9}, {"hard_negatives": 1}, {"same_title_examples": 2}, {"lr_epoch_decay": 0.5}),
        *({"curriculum_steps": 1}, {"passage_dropout": 0.5}),
    ],
)
def test_what_needs_a_second_look_is_refused_for_streams(more: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(more))} needs examples that are not streamed"):
        CoSupervisionTrainer(pair({}), _config(tmp_path, **more), _stream(tmp_path, 1), pairs.PASSAGES)


# -- schedule and log --------------------------------------------------------------------------------------------------


def test_the_rate_falls_after_each_epoch(tmp_path: Path) -> None:
    """The paper's schedule: constant within an epoch, times 0.85 after it."""
    more = {"lr_scheduler_type": "constant", "lr_epoch_decay": 0.85, "max_steps": -1, "num_train_epochs": 3}
    rates = _logged(_trained(tmp_path, **more), "learning_rate")
    assert rates == pytest.approx([3e-3, 3e-3, 3e-3 * 0.85, 3e-3 * 0.85, 3e-3 * 0.85**2, 3e-3 * 0.85**2])


def test_the_log_tells_speed_padding_memory_and_norms(tmp_path: Path) -> None:
    """Both models' norms make up the whole; packed rows have no padding and padded ones have some."""
    packed, padded = (_trained(tmp_path, packing=packing).state.log_history[0] for packing in (True, False))
    whole = (packed["generator_grad_norm"] ** 2 + packed["embedder_grad_norm"] ** 2) ** 0.5
    assert packed["grad_norm"] == pytest.approx(whole, rel=1e-4)
    assert packed["padding_share"] == 0
    assert 0 < padded["padding_share"] < 0.6
    assert packed["tokens_per_second"] > 0
    assert 0.1 < packed["memory_gb"] < 64


def test_norms_of_float16_are_those_of_the_unscaled_gradients(tmp_path: Path) -> None:
    """A scaler multiplies the loss; what is logged is what the optimizer will see."""
    plain = _trained(tmp_path)
    scaled = CoSupervisionTrainer(pair({}), _config(tmp_path, max_grad_norm=0.0), MIXED, pairs.PASSAGES)
    scaled.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaled.train()
    for name in ("generator_grad_norm", "embedder_grad_norm"):
        assert _logged(scaled, name) == pytest.approx(_logged(plain, name), rel=1e-4)


def test_an_example_without_a_retrieval_alone_in_its_step(tmp_path: Path) -> None:
    """Both losses are defined, and nothing is divided by zero."""
    only = [Example("plain", "Who?", MIXED[6].output)]
    trainer = CoSupervisionTrainer(pair({}), _config(tmp_path), only, pairs.PASSAGES)
    trainer.train()
    assert "nsp_loss" not in trainer.state.log_history[0]
    assert trainer.state.log_history[0]["ntp_loss"] > 0
