"""The trainer: its step is the formula's, whatever the micro-batching; resuming changes nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from cosup.modeling import CoSupervisedModel
from cosup.records import Example
from cosup.training.config import PRESETS, CoSupervisionConfig
from cosup.training.saving import last_complete_checkpoint
from cosup.training.trainer import CoSupervisionTrainer
from tests import pairs
from tests.training.examples import MIXED, StopAt


def _config(folder: Path, **more: Any) -> CoSupervisionConfig:
    quiet = {"save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "logging_steps": 1, "max_steps": 1}
    return CoSupervisionConfig(output_dir=str(folder), **(quiet | more))


def _trainer(
    model: CoSupervisedModel, config: CoSupervisionConfig, examples: Sequence[Example] = MIXED, **more: Any
) -> CoSupervisionTrainer:
    return CoSupervisionTrainer(model, config, examples, pairs.PASSAGES, **more)


def _after_one_sgd_step(folder: Path, size: int, steps: int, **more: Any) -> tuple[dict[str, torch.Tensor], float]:
    """Return the parameters' change in one plain gradient step of rate 1 (the gradient), and the logged loss."""
    model = pairs.pair(embedder_width=16)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    config = _config(
        folder, per_device_train_batch_size=size, gradient_accumulation_steps=steps, max_grad_norm=0.0, **more
    )
    trainer = _trainer(model, config, optimizers=(optimizer, schedule))
    trainer.train()
    logged = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    return {name: before[name] - p.detach() for name, p in model.named_parameters()}, logged


@pytest.fixture(scope="module", params=["ntp+nsp", "ntp", "nsp"])
def supervision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=["default", "paper"])
def objective(request: pytest.FixtureRequest, supervision: str) -> dict[str, Any]:
    return {**PRESETS[request.param], "supervision": supervision}


@pytest.fixture(scope="module")
def whole(objective: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], float]:
    """Return the gradient and the loss of all examples in one padded batch."""
    return _after_one_sgd_step(tmp_path_factory.mktemp("whole"), len(MIXED), 1, packing=False, **objective)


@pytest.mark.parametrize(
    ("size", "steps", "budget", "packing"),
    [
        (2, 4, None, True),
        (1, 8, None, False),
        (3, 3, 70, True),
        (8, 1, 70, True),
        (8, 1, 120, False),
        (8, 1, None, True),
    ],
)
def test_accumulated_and_packed_equal_the_whole_padded_batch(
    whole: tuple[dict[str, torch.Tensor], float],
    objective: dict[str, Any],
    size: int,
    steps: int,
    budget: int | None,
    packing: bool,
    tmp_path: Path,
) -> None:
    """Proof 3: loss and every gradient, in-batch negatives over the whole step, an example without `[Ret]` included."""
    cut = {"micro_batch_tokens": budget, "packing": packing}
    parts, parts_loss = _after_one_sgd_step(tmp_path, size, steps, **cut, **objective)
    assert parts_loss == pytest.approx(whole[1], rel=1e-5)
    largest = max(g.abs().max() for g in whole[0].values())
    assert largest > 1e-3
    for name, gradient in whole[0].items():
        assert torch.allclose(parts[name], gradient, atol=2e-5 * float(largest), rtol=1e-3), name


def test_the_loss_is_the_formula_of_the_paper(tmp_path: Path) -> None:
    """L = L_NTP + lambda * L_NSP, computed here in float64 from the models' own outputs."""
    model = pairs.pair()
    shape = {"packing": False, "per_device_train_batch_size": 8}
    trainer = _trainer(model, _config(tmp_path, nsp_weight=0.3, temperature=0.2, **shape))
    loaded: Any = trainer.data_collator([trainer.train_dataset[i] for i in range(len(MIXED))])  # type: ignore[index]
    (first,), count = trainer.get_batch_samples(iter([loaded]), 1, torch.device("cpu"))
    loss = float(trainer.training_step(model, first, count))
    (batch,) = loaded["packs"]
    with torch.no_grad():
        states = model.hidden_states(batch["input_ids"], batch["attention_mask"])
        logits = model.generator.get_output_embeddings()(states).double()  # type: ignore[operator]
        passages = model.embed(batch["passage_input_ids"], batch["passage_attention_mask"]).double()
    ntp, nsp, tokens = 0.0, 0.0, 0
    for row in range(len(MIXED)):
        for column, target in enumerate(batch["labels"][row].tolist()):
            if target != -100:
                ntp -= float(torch.log_softmax(logits[row, column - 1], dim=0)[target])
                tokens += 1
    for row, column, positive in zip(batch["ret_rows"], batch["ret_columns"], batch["positives"], strict=True):
        query = states[row, column].double()
        scores = [float(query @ p / query.norm()) / 0.2 for p in passages]
        nsp += math.log(sum(math.exp(s) for s in scores)) - scores[int(positive)]
    expected = ntp / tokens + 0.3 * nsp / len(batch["ret_rows"])
    assert loss == pytest.approx(expected, rel=1e-5)


def test_clipping_covers_both_models(tmp_path: Path) -> None:
    """With rate 1 and a norm of 0.01, both models together move by 0.01, and each of them moves."""
    model = pairs.pair()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    _trainer(model, _config(tmp_path, max_grad_norm=0.01), optimizers=(optimizer, schedule)).train()
    moved = {name: (before[name] - p.detach()).norm() for name, p in model.named_parameters()}
    assert torch.stack(list(moved.values())).norm() == pytest.approx(0.01, rel=1e-3)
    assert all(any(m > 0 for name, m in moved.items() if name.startswith(part)) for part in ("generator", "embedder"))


@pytest.mark.parametrize(
    ("more", "generator_moves", "embedder_moves"),
    [
        ({"supervision": "ntp"}, True, False),
        ({"supervision": "nsp"}, True, True),
        ({"embedder_learning_rate": 0.0}, True, False),
        ({"learning_rate": 0.0, "embedder_learning_rate": 1e-3}, False, True),
    ],
)
def test_what_learns(more: dict[str, Any], generator_moves: bool, embedder_moves: bool, tmp_path: Path) -> None:
    """Supervisions and learning rates reach the model that they are meant for, and no other."""
    model = pairs.pair()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    _trainer(model, _config(tmp_path, **more)).train()
    moved = {name.split(".")[0] for name, p in model.named_parameters() if not torch.equal(before[name], p)}
    assert ("generator" in moved, "embedder" in moved) == (generator_moves, embedder_moves)


def test_bf16_trains_both_models(tmp_path: Path) -> None:
    """bf16 on a machine without an accelerator: finite losses that fall."""
    model = pairs.pair()
    config = _config(tmp_path, bf16=True, max_steps=20, learning_rate=1e-2, per_device_train_batch_size=8)
    trainer = _trainer(model, config)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert all(math.isfinite(x) for x in losses)
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(("accumulation", "muon"), [(1, None), (2, None), (1, 5e-3)])
def test_resumed_equals_uninterrupted_bit_for_bit(accumulation: int, muon: float | None, tmp_path: Path) -> None:
    """Proof 6: dropout on, in the middle of the second epoch, with everything the optimizer remembers."""
    dropout = {"resid_pdrop": 0.2, "embd_pdrop": 0.2, "attn_pdrop": 0.0}
    shape = {
        "max_steps": 9,
        "save_strategy": "steps",
        "save_steps": 5,
        "learning_rate": 3e-3,
        "lr_scheduler_type": "cosine",
    }
    sizes = {"per_device_train_batch_size": 2 // accumulation, "gradient_accumulation_steps": accumulation}
    sizes |= {"muon_learning_rate": muon}

    def run(name: str, stop: int | None, resume: bool) -> CoSupervisionTrainer:
        model = pairs.pair("gpt2", **dropout)
        callbacks = [] if stop is None else [StopAt(stop)]
        trainer = _trainer(model, _config(tmp_path / name, **(shape | sizes)), callbacks=callbacks)
        trainer.train(resume_from_checkpoint=str(last_complete_checkpoint(tmp_path / name)) if resume else None)
        return trainer

    whole = run("whole", None, False)
    run("parts", 5, False)
    resumed = run("parts", None, True)
    assert resumed.state.global_step == 9
    for (name, a), b in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b), name
    losses = [
        [e["loss"] for e in t.state.log_history if e.get("step", 0) > 5 and "loss" in e] for t in (whole, resumed)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4


def test_evaluation_measures_losses_accuracy_and_recall(tmp_path: Path) -> None:
    """Held-out recall equals a brute-force count over the pool of passages."""
    model = pairs.pair()
    config = _config(tmp_path, per_device_eval_batch_size=3)
    trainer = _trainer(model, config, eval_dataset=MIXED, eval_passages=pairs.PASSAGES)
    metrics = trainer.evaluate()
    assert set(metrics) >= {
        "eval_loss", "eval_ntp_loss", "eval_nsp_loss", "eval_nsp_accuracy", "eval_recall@1", "eval_recall@10",
    }  # fmt: skip
    found = 0
    vectors = model.embed_ids([model.encode_passage(p.rendered) for p in pairs.PASSAGES])
    total = 0
    for example in MIXED:
        encoded = trainer.train_dataset.encoder.example(example, pairs.BY_ID)  # type: ignore[union-attr]
        with torch.no_grad():
            states = model.eval().hidden_states(
                torch.tensor([encoded.input_ids]), torch.ones(1, len(encoded.input_ids), dtype=torch.long)
            )
        for position, wanted in zip(encoded.ret_positions, encoded.passage_ids, strict=True):
            scores = vectors @ model.to_query(states[0, position : position + 1])[0]
            found += pairs.PASSAGES[int(scores.argmax())].id == wanted
            total += 1
    assert metrics["eval_recall@1"] == pytest.approx(found / total)
    assert metrics["eval_recall@10"] >= metrics["eval_recall@1"]


def test_the_best_checkpoint_is_loaded_at_the_end(tmp_path: Path) -> None:
    """A learning rate that destroys the model: the first checkpoint is the best, and it is what remains."""
    model = pairs.pair()
    config = _config(
        tmp_path,
        max_steps=4,
        learning_rate=5.0,
        warmup_steps=3,
        save_strategy="steps",
        eval_strategy="steps",
        save_steps=1,
        eval_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="ntp_loss",
        greater_is_better=False,
    )
    trainer = _trainer(model, config, eval_dataset=MIXED)
    trainer.train()
    best = CoSupervisedModel.from_pretrained(str(trainer.state.best_model_checkpoint))
    assert str(trainer.state.best_model_checkpoint).endswith("checkpoint-1")
    for (name, a), b in zip(model.named_parameters(), best.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_a_checkpoint_is_a_plain_model_folder(tmp_path: Path) -> None:
    """Readable by everything that reads a model folder; weights are never pickled."""
    trainer = _trainer(pairs.pair(), _config(tmp_path, save_strategy="steps", save_steps=1))
    trainer.train()
    again = CoSupervisedModel.from_pretrained(tmp_path / "checkpoint-1")
    for a, b in zip(trainer.model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert again.settings.temperature == trainer.args.temperature


def test_the_log_has_each_loss_by_itself(tmp_path: Path) -> None:
    """ntp_loss, nsp_loss and nsp_accuracy since the last log; their sum is the loss."""
    trainer = _trainer(pairs.pair(), _config(tmp_path, per_device_train_batch_size=8, nsp_weight=0.5))
    trainer.train()
    entry = next(e for e in trainer.state.log_history if "loss" in e)
    assert entry["loss"] == pytest.approx(entry["ntp_loss"] + 0.5 * entry["nsp_loss"], rel=1e-4)
    assert 0 <= entry["nsp_accuracy"] <= 1
