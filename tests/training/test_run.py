"""A run from a recipe: what it refuses, what it leaves alone, and how it goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import GPT2LMHeadModel

from cosup.data.writing import write_jsonl
from cosup.errors import InputError, UsageError
from cosup.modeling import CoSupervisedModel
from cosup.training.recipe import Recipe, parse_recipe
from cosup.training.run import save_whole, train
from tests import pairs


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a base model, passages and questions."""
    folder = tmp_path_factory.mktemp("world")
    pairs.save_base(folder / "base", [*(p.rendered for p in pairs.PASSAGES), *(q.question for q in pairs.QUESTIONS)])
    _, words = pairs.generator("gpt2")
    torch.manual_seed(3)
    GPT2LMHeadModel(pairs.config("gpt2", len(words), 16)).save_pretrained(folder / "narrow")
    words.save_pretrained(folder / "narrow")
    write_jsonl(folder / "passages.jsonl", pairs.PASSAGES)
    write_jsonl(folder / "questions.jsonl", pairs.QUESTIONS)
    return folder


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


RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_runs(path: Path, world: Path, tmp_path: Path) -> None:
    """Each shipped recipe trains two steps, with tiny models and data on one device, and leaves a usable model."""
    record = yaml.safe_load(path.read_text())
    record["generator"] = str(world / "base")
    if record["embedder"] != "shared":
        record["embedder"] = str(world / "narrow") if "gpt2" in record["embedder"] else str(world / "base")
    asked = str(world / "questions.jsonl")
    kept = {name: value for name, value in record["data"].items() if name in ("streaming", "template")}
    lengths = {"max_length": 200, "max_passage_length": 40, "shuffle_buffer": 4}
    record["data"] = {"passages": str(world / "passages.jsonl"), "questions": asked, "eval_questions": asked}
    record["data"] |= {**kept, **lengths}
    steps = {"max_steps": 2, "per_device_train_batch_size": 4, "warmup_steps": 0, "logging_steps": 1}
    alone = {"fsdp": None, "micro_batch_tokens": 120, "use_cpu": True, "disable_tqdm": True}
    if "nsp_batch_size" in record["objective"]:
        record["objective"]["nsp_batch_size"] = 12
    record["training"] |= {**steps, **alone, "output_dir": str(tmp_path / "run")}
    model = CoSupervisedModel.from_pretrained(train(parse_recipe(record)))
    log = json.loads((tmp_path / "run" / "metrics.json").read_text())["log"]
    assert sum("loss" in entry for entry in log) == 2
    assert (tmp_path / "run" / "curves.png").stat().st_size > 10_000
    assert model.embed_ids([model.encode_passage("Red Tide :: Red Tide is a book.")]).isfinite().all()
