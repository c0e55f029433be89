"""A run from a recipe: what it refuses, what it leaves alone, and how it goes on."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from cosup.data.encoding import PROMPT
from cosup.data.templates import question_to_example
from cosup.data.writing import write_jsonl
from cosup.errors import InputError, UsageError
from cosup.modeling import CoSupervisedModel
from cosup.training import run
from cosup.training.recipe import Recipe, parse_recipe
from cosup.training.run import train
from cosup.training.run_folder import save_whole
from cosup.training.trainer import CoSupervisionTrainer
from tests import pairs
from tests.training.runs import HOUSE, RECIPES, SHARDED, tiny, write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a base model, passages and questions."""
    return write_world(tmp_path_factory.mktemp("world"))


def _recipe(world: Path, run: Path, data: dict[str, Any] | None = None, **training: Any) -> Recipe:
    """Return a recipe of two steps in the middle of an epoch, at a rate that does not fall."""
    asked = str(world / "questions.jsonl")
    lengths = {"max_length": 200, "max_passage_length": 40}
    shape = {"output_dir": str(run), "max_steps": 2, "per_device_train_batch_size": 2, "use_cpu": True}
    rates = {"learning_rate": 1e-2, "lr_scheduler_type": "constant"}
    return parse_recipe(
        {
            "generator": str(world / "base"),
            "embedder": str(world / "base"),
            "data": {"passages": str(world / "passages.jsonl"), "questions": asked, **lengths, **(data or {})},
            "training": {**shape, **rates, **training},
        }
    )


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return CoSupervisedModel.from_pretrained(folder).state_dict()


def _tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("more", [{}, {"load_best_model_at_end": True, "save_steps": 1, "save_strategy": "steps"}])
def test_interrupted_after_its_last_step_it_takes_no_further_one(
    more: dict[str, Any], world: Path, tmp_path: Path
) -> None:
    """Proof 6 at the end of a run: the final evaluation or the saving of `model/` was what got interrupted."""
    evaluation = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "ntp_loss"} if more else {}
    recipe = _recipe(world, tmp_path, {"eval_questions": str(world / "questions.jsonl")}, **more, **evaluation)
    model = train(recipe)
    whole, figures = _weights(model), json.loads((tmp_path / "metrics.json").read_text())["metrics"]
    shutil.rmtree(model)
    train(recipe)
    again = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
    assert all(torch.equal(whole[name], value) for name, value in _weights(model).items())
    assert not (tmp_path / "checkpoint-3").exists()
    assert again["eval_loss"] == pytest.approx(figures["eval_loss"], rel=1e-6)


def test_a_model_folder_of_something_else_is_left_alone(world: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"cannot write a model to .*model: something else is there"):
        train(_recipe(world, tmp_path))
    with pytest.raises(UsageError, match="something else is there"):
        save_whole(pairs.pair(), tmp_path / "model")
    assert _tree(tmp_path) == {"model", "model/mine.txt"}


def test_a_model_that_no_recipe_made_is_not_replaced(world: Path, tmp_path: Path) -> None:
    """Such as the demo's."""
    save_whole(pairs.pair(), tmp_path / "model")
    before = _tree(tmp_path)
    with pytest.raises(UsageError, match="holds a model that no recipe here has made; choose another --output_dir"):
        train(_recipe(world, tmp_path))
    assert _tree(tmp_path) == before


def test_an_older_model_is_replaced_whole(tmp_path: Path) -> None:
    for seed in (0, 1):
        model = pairs.pair(seed=seed)
        save_whole(model, tmp_path / "model")
    saved = _weights(tmp_path / "model")
    assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_a_question_that_teaches_nothing_is_named_by_its_line(world: Path, tmp_path: Path) -> None:
    asked = tmp_path / "asked.jsonl"
    first = json.dumps(pairs.QUESTIONS[0].to_dict())
    asked.write_text(f'{first}\n\n{{"id": "x", "question": "Who?"}}\n')
    with pytest.raises(InputError, match=r"asked\.jsonl:3: question 'x' has neither evidence nor an answer"):
        train(_recipe(world, tmp_path / "run", {"questions": str(asked)}))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["questions", "examples"])
def test_ids_differ_over_all_files_of_a_run(kind: str, world: Path, tmp_path: Path) -> None:
    """Negatives that are mined for one would else be the other's too."""
    question = pairs.QUESTIONS[0]
    made = question_to_example(question, {p.id: p for p in pairs.PASSAGES})
    for name in ("a", "b"):
        write_jsonl(tmp_path / f"{name}.jsonl", [question if kind == "questions" else made])
    files = [str(tmp_path / f"{name}.jsonl") for name in ("a", "b")]
    with pytest.raises(InputError, match=rf"b\.jsonl: id '{question.id}' stands in .*a\.jsonl too; expected distinct"):
        train(_recipe(world, tmp_path / "run", {"questions": [], kind: files}))


@pytest.mark.parametrize(("fast", "precision"), [(False, "no"), (True, "bf16")])
def test_a_run_in_bf16_is_in_float32_where_the_machine_has_no_instructions_for_it(
    fast: bool,
    precision: str,
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    real, precisions = run._train, []

    def watched(trainer: CoSupervisionTrainer, checkpoint: Path | None) -> dict[str, Any]:
        precisions.append(trainer.accelerator.mixed_precision)
        return real(trainer, checkpoint)

    monkeypatch.setattr(run, "_train", watched)
    monkeypatch.setattr(run, "has_fast_bfloat16", lambda device: fast)
    train(_recipe(world, tmp_path, bf16=True))
    assert precisions == [precision]
    assert ("this machine has no instructions for it: training in float32" in caplog.text) == (not fast)


def test_figures_that_json_has_not_are_null(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The norm of a step that float16 skips is infinite; `metrics.json` stays JSON that any program reads."""
    real = run._train

    def with_a_skipped_step(trainer: CoSupervisionTrainer, checkpoint: Path | None) -> dict[str, Any]:
        found = real(trainer, checkpoint)
        trainer.state.log_history.append({"step": 9, "grad_norm": math.inf})
        return found

    monkeypatch.setattr(run, "_train", with_a_skipped_step)
    train(_recipe(world, tmp_path))
    log = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)["log"]
    assert log[-1] == {"step": 9, "grad_norm": None}


@pytest.mark.parametrize("path", [path for path in RECIPES if path not in SHARDED], ids=lambda p: p.stem)
def test_every_recipe_runs(path: Path, world: Path, tmp_path: Path) -> None:
    """Each shipped recipe trains two steps as it is, but tiny, and leaves a usable model; see also test_distributed."""
    record = tiny(path, world, tmp_path / "run")
    recipe = parse_recipe(record)
    model, config = CoSupervisedModel.from_pretrained(train(recipe)), recipe.config()
    assert model.settings.similarity == config.similarity
    assert config.learn_temperature or model.settings.temperature == config.temperature
    log = json.loads((tmp_path / "run" / "metrics.json").read_text())["log"]
    assert sum("loss" in entry for entry in log) == 2
    assert model.embed_ids([model.encode_passage("Red Tide :: Red Tide is a book.")]).isfinite().all()
    assert (model.base is not None) == bool(record["training"].get("save_adapters"))
    assert model.settings.prompt == record["data"].get("prompt", PROMPT)
    mined = list((tmp_path / "run").glob("checkpoint-*/hard_negatives.json"))
    if "hard_negatives" in (record.get("objective") or {}):
        assert json.loads(mined[-1].read_text())["epoch"] == 1
    if "eval_strategy" in record["training"]:
        assert any("eval_recall@1" in entry for entry in log) == (record.get("supervision") != "ntp")


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("name", ["squad-ntp", "squad-contrast"])
def test_a_run_leaves_its_curves(name: str, world: Path, tmp_path: Path) -> None:
    """Of a recipe that logs few figures, and of one that logs many."""
    train(parse_recipe(tiny(HOUSE / "recipes" / f"{name}.yaml", world, tmp_path / "run")))
    assert (tmp_path / "run" / "curves.png").stat().st_size > 10_000


FIGURES = ("loss", "ntp_loss", "nsp_loss", "nsp_accuracy", "generator_grad_norm", "embedder_grad_norm")
FIGURES += ("tokens_per_second", "padding_share", "memory_gb")


def test_a_tracker_gets_every_figure(world: Path, tmp_path: Path) -> None:
    """`report_to: tensorboard`: a tag for each, with a value at each logged step; the held-out ones as well."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    path = next(path for path in RECIPES if "report_to: tensorboard" in path.read_text())
    record = tiny(path, world, tmp_path / "run")
    record["training"] |= {"eval_strategy": "steps", "eval_steps": 1}
    train(parse_recipe(record))
    (written,) = {file.parent for file in (tmp_path / "run").rglob("events.out.tfevents.*")}
    found = events.EventAccumulator(str(written))
    found.Reload()
    log = json.loads((tmp_path / "run" / "metrics.json").read_text())["log"]
    for name in FIGURES:
        values = {event.step: event.value for event in found.Scalars(f"train/{name}")}
        logged = {entry["step"]: entry[name] for entry in log if name in entry}
        assert set(values) == {1, 2}
        assert values == pytest.approx(logged, rel=1e-5)
    assert {"eval/ntp_loss", "eval/nsp_loss", "eval/recall@1"} <= set(found.Tags()["scalars"])
