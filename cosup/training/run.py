"""A training run from a recipe: data in, a model folder out, resumable by calling it again."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainerState

from cosup.data.reading import check_references, line_of, read_all, read_examples, read_passages, read_questions
from cosup.data.templates import question_to_example
from cosup.errors import InputError, UsageError
from cosup.modeling import CoSupervisedModel, PairSettings
from cosup.records import Example, Passage, Question
from cosup.training.progress import Report, report_to
from cosup.training.recipe import DataSettings, Recipe
from cosup.training.trainer import CoSupervisionTrainer, last_complete_checkpoint

logger = logging.getLogger(__name__)


def train(recipe: Recipe, progress: Report | None = None) -> Path:
    """Run a recipe to its end, from its last complete checkpoint where there is one.

    The run folder (`training.output_dir`) gets `recipe.yaml`, `checkpoint-N/`, `metrics.json` and at last `model/`.

    Args:
        recipe: what to train.
        progress: told about every step, in place of the bars and prints of `Trainer`.

    Returns:
        The model folder.

    Raises:
        UsageError: the run folder belongs to another recipe, or a setting cannot be used.
        InputError: the data cannot be used.
    """
    config = recipe.config()
    folder = Path(config.output_dir)
    if (folder / "model" / "cosup.json").is_file() and _same_recipe(folder, recipe):
        logger.warning("%s is finished already; delete the folder to train again", folder)
        return folder / "model"
    passages = read_all(read_passages, recipe.data.passages)
    train_examples, eval_examples = load_examples(recipe.data, passages)
    _check_folder(folder, recipe)
    model = CoSupervisedModel.from_base(recipe.generator, recipe.embedder, pair_settings(recipe, config))
    _claim(folder, recipe)
    wanted = {i for e in eval_examples for i in e.passage_ids}
    trainer = CoSupervisionTrainer(
        model,
        config,
        train_examples,
        passages,
        eval_examples or None,
        [p for p in passages if p.id in wanted],
    )
    if progress is not None:
        report_to(trainer, progress)
    metrics = _train(trainer, last_complete_checkpoint(folder))
    if eval_examples:
        metrics |= trainer.evaluate()
    (folder / "metrics.json").write_text(
        json.dumps({"metrics": metrics, "log": trainer.state.log_history}, indent=2) + "\n", encoding="utf-8"
    )
    return save_whole(model, folder / "model")


def _train(trainer: CoSupervisionTrainer, checkpoint: Path | None) -> dict[str, Any]:
    """Train to the end and return the run's figures; from a checkpoint at the end, take its weights.

    There `Trainer` itself would go on for one more step.
    """
    if checkpoint is None:
        return dict(trainer.train().metrics)
    logger.warning("going on from %s", checkpoint)
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    if state.global_step < state.max_steps:
        return dict(trainer.train(resume_from_checkpoint=str(checkpoint)).metrics)
    trainer.state = state
    best = state.best_model_checkpoint if trainer.args.load_best_model_at_end else None
    trainer.model.load_weights(best or checkpoint)
    return {}


def pair_settings(recipe: Recipe, config: Any) -> PairSettings:
    """Return the pair's settings that a recipe and its training configuration ask for."""
    data = recipe.data
    return PairSettings(
        similarity=config.similarity,
        temperature=float(config.temperature),
        prompt=data.prompt,
        template=data.template,
        max_length=data.max_length,
        max_passage_length=data.max_passage_length,
    )


def save_whole(model: CoSupervisedModel, folder: Path) -> Path:
    """Write a model folder so that it is there whole or not at all; an older model folder is replaced.

    Raises:
        UsageError: the folder holds something else.
    """
    check_model_target(folder)
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    model.save_pretrained(draft)
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    return folder


def check_model_target(folder: Path) -> None:
    """Make sure that a model folder can stand at `folder` without the loss of anything else.

    Raises:
        UsageError: a file, or a folder that is neither a model's nor empty, is there.
    """
    if (
        folder.exists()
        and not (folder / "cosup.json").is_file()
        and not (folder.is_dir() and not any(folder.iterdir()))
    ):
        raise UsageError(f"cannot write a model to {folder}: something else is there; move it or choose another folder")


def load_examples(data: DataSettings, passages: Sequence[Passage]) -> tuple[list[Example], list[Example]]:
    """Read or make the training and the held-out examples of a recipe; every passage id is checked."""
    by_id = {p.id: p for p in passages}
    held_out = _examples(data.eval_questions, data.eval_examples, data.template, by_id)
    return _examples(data.questions, data.examples, data.template, by_id), held_out[: data.max_eval_examples]


def _examples(
    questions: Sequence[str], examples: Sequence[str], template: str, passages: dict[str, Passage]
) -> list[Example]:
    found: list[Example] = []
    for path in examples:
        batch = read_examples(path)
        check_references(batch, passages.values(), path)
        found += batch
    for path in questions:
        asked = read_questions(path)
        check_references(asked, passages.values(), path)
        found += [_example(q, passages, template, path) for q in asked]
    return found


def _example(question: Question, passages: dict[str, Passage], template: str, path: str) -> Example:
    try:
        return question_to_example(question, passages, template)
    except InputError as error:
        raise InputError(str(error), path, line_of(path, question.id)) from None


def _check_folder(folder: Path, recipe: Recipe) -> None:
    """Refuse a run folder that holds what another recipe, or no recipe, has made."""
    check_model_target(folder / "model")
    began = any(folder.glob("checkpoint-*")) or (folder / "model" / "cosup.json").is_file()
    if began and not _same_recipe(folder, recipe):
        found = f"a run of another recipe (see {folder / 'recipe.yaml'})"
        found = found if (folder / "recipe.yaml").is_file() else "a model that no recipe here has made"
        raise UsageError(f"{folder} holds {found}; choose another --output_dir")


def _claim(folder: Path, recipe: Recipe) -> None:
    """Put the recipe into the run folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.yaml").write_text(_dump(recipe), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write a run to {folder}: {error.strerror or error}") from error


def _same_recipe(folder: Path, recipe: Recipe) -> bool:
    path = folder / "recipe.yaml"
    return path.is_file() and path.read_text(encoding="utf-8") == _dump(recipe)


def _dump(recipe: Recipe) -> str:
    return str(yaml.safe_dump(dict(recipe.source), sort_keys=True, allow_unicode=True))
