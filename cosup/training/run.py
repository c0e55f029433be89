"""A training run from a recipe: data in, a model folder out, resumable by calling it again."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from cosup.data.reading import check_references, read_all, read_examples, read_passages, read_questions
from cosup.data.templates import question_to_example
from cosup.errors import UsageError
from cosup.modeling import CoSupervisedModel, PairSettings
from cosup.records import Example, Passage
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
    checkpoint = last_complete_checkpoint(folder)
    if checkpoint is not None:
        logger.warning("going on from %s", checkpoint)
    result = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    metrics: dict[str, Any] = dict(result.metrics)
    if eval_examples:
        metrics |= trainer.evaluate()
    (folder / "metrics.json").write_text(
        json.dumps({"metrics": metrics, "log": trainer.state.log_history}, indent=2) + "\n", encoding="utf-8"
    )
    return save_whole(model, folder / "model")


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
    """Write a model folder so that it is there whole or not at all."""
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    model.save_pretrained(draft)
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    return folder


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
        found += [question_to_example(q, passages, template) for q in asked]
    return found


def _check_folder(folder: Path, recipe: Recipe) -> None:
    """Refuse a run folder that holds what another recipe has trained."""
    began = any(folder.glob("checkpoint-*")) or (folder / "model").exists()
    if began and (folder / "recipe.yaml").is_file() and not _same_recipe(folder, recipe):
        raise UsageError(
            f"{folder} holds a run of another recipe (see {folder / 'recipe.yaml'}); choose another --output_dir"
        )


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
