"""A training run from a recipe: data in, a model folder out, resumable by calling it again."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerState, set_seed

from cosup.data.encoding import prompt_of
from cosup.data.reading import check_references, line_of, read_all, read_examples, read_passages, read_questions
from cosup.data.store import PassageStore
from cosup.data.stream import StreamedExamples, StreamOrder, told_plainly
from cosup.data.templates import question_to_example
from cosup.data.writing import write_json
from cosup.devices import has_fast_bfloat16
from cosup.errors import NOTICE, CosupError, InputError, UsageError
from cosup.model_folder import PairSettings
from cosup.modeling import CoSupervisedModel
from cosup.pooling import POOLINGS
from cosup.processes import barrier, gather_objects, rank, world_size
from cosup.records import Example, Passage, Question
from cosup.sentence_folder import is_sentence_folder, read_sentence_folder
from cosup.training.config import CoSupervisionConfig
from cosup.training.curves import draw_curves
from cosup.training.progress import PairWatcher, Report, Watch, report_to
from cosup.training.recipe import DataSettings, Recipe
from cosup.training.run_folder import (
    alone_in,
    check_folder,
    check_shared,
    claim,
    is_finished,
    same_recipe,
    save_whole,
)
from cosup.training.saving import last_complete_checkpoint, remove_drafts
from cosup.training.sharding import unsharded_state
from cosup.training.stops import explained
from cosup.training.trainer import CoSupervisionTrainer

logger = logging.getLogger(__name__)


def train(recipe: Recipe, progress: Report | None = None, watch: Watch | None = None) -> Path:
    """Run a recipe to its end, from its last complete checkpoint where there is one.

    The run folder (`training.output_dir`) gets `recipe.yaml`, `checkpoint-N/`, `metrics.json` and at last `model/`.

    Args:
        recipe: what to train.
        progress: told about every step, in place of the bars and prints of `Trainer`.
        watch: shown the pair before the first step and after every one.

    Returns:
        The model folder.

    Raises:
        UsageError: the run folder is another's, a setting cannot be used, memory ran out, or the disk is full.
        InputError: the data cannot be used.
        CosupError: the loss diverged, or a device or another process is gone.
    """
    config = recipe.config()
    try:
        return _run(recipe, config, progress, watch)
    except CosupError as error:
        raise told_plainly(error) from None
    except (RuntimeError, MemoryError, OSError) as error:
        if (told := explained(error, config, recipe.data)) is None:
            raise
        raise told from error


def _run(recipe: Recipe, config: CoSupervisionConfig, progress: Report | None, watch: Watch | None) -> Path:
    folder = Path(str(config.output_dir))
    finished = is_finished(folder) and same_recipe(folder, recipe)
    if gather_objects(finished)[0]:  # the first process decides: the others may see the folder otherwise
        if config.should_save:
            logger.warning("%s is finished already; delete the folder to train again", folder)
        return folder / "model"
    check_folder(folder, recipe)
    with alone_in(folder):
        return _trained(recipe, config, folder, progress, watch)


def _trained(
    recipe: Recipe, config: CoSupervisionConfig, folder: Path, progress: Report | None, watch: Watch | None
) -> Path:
    """Train in a folder that is held."""
    _leave_slow_bfloat16(config)
    attention = config.chosen_attention
    data = load_data(recipe.data, config)
    set_seed(config.seed)  # new rows and adapters are drawn at random
    model = CoSupervisedModel.from_base(
        recipe.generator,
        recipe.embedder,
        pair_settings(recipe),
        adapters=recipe.adapters,
        dtype=torch.bfloat16 if recipe.adapters and config.bf16 else torch.float32,
        attention=attention,
    )
    barrier()
    if config.should_save:
        remove_drafts(folder)
        claim(folder, recipe)
    check_shared(folder)
    trainer = CoSupervisionTrainer(model, config, data.examples, data.passages, data.held_out or None)
    if progress is not None:
        report_to(trainer, progress if config.should_save else _silent)
    if watch is not None:
        trainer.add_callback(PairWatcher(watch, model))
    metrics = _train(trainer, gather_objects(last_complete_checkpoint(folder))[0])
    if data.held_out:
        metrics |= trainer.evaluate()
    return _finish(trainer, metrics, folder)


def _leave_slow_bfloat16(config: CoSupervisionConfig) -> None:
    """Train in float32 where bfloat16 would be computed without instructions for it, far slower, and say so."""
    if config.bf16 and not has_fast_bfloat16(config.device):
        config.bf16, config.mixed_precision = False, "no"
        if config.should_save:
            logger.warning("bf16 is on, but this machine has no instructions for it: training in float32")


def _finish(trainer: CoSupervisionTrainer, metrics: dict[str, Any], folder: Path) -> Path:
    """Write figures, curve and model; every process takes part where the model is sharded."""
    state = unsharded_state(trainer.model)
    if trainer.args.should_save:
        log = trainer.state.log_history
        write_json(folder / "metrics.json", {"metrics": _finite(metrics), "log": [*map(_finite, log)]})
        draw_curves(log, folder / "curves.png")
        save_whole(trainer.model, folder / "model", state, "adapters" if trainer.args.save_adapters else "merge")
    barrier()
    return folder / "model"


def _finite(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return figures with null for those that JSON cannot hold: norms of steps that float16 has skipped."""
    return {k: None if isinstance(v, float) and not isfinite(v) else v for k, v in figures.items()}


def _train(trainer: CoSupervisionTrainer, checkpoint: Path | None) -> dict[str, Any]:
    """Train to the end and return the run's figures; from a checkpoint at the end, take its weights.

    There `Trainer` itself would go on for one more step.
    """
    if checkpoint is None:
        return dict(trainer.train().metrics)
    if trainer.args.should_save:
        logger.log(NOTICE, "going on from %s", checkpoint)
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    if state.global_step < state.max_steps:
        return dict(trainer.train(resume_from_checkpoint=str(checkpoint)).metrics)
    trainer.state = state
    best = state.best_model_checkpoint if trainer.args.load_best_model_at_end else None
    trainer.model.load_weights(best or checkpoint)
    return {}


def _silent(done: int, total: int, note: str) -> None:
    """Tell nobody: only one process of a run reports."""


def pair_settings(recipe: Recipe) -> PairSettings:
    """Return what a recipe's data, and its embedder where that says so, ask of a pair; the trainer sets its objective.

    An embedder's folder of sentence-transformers says how it pools, and what it wants before a passage.
    """
    data, place = recipe.data, Path(recipe.embedder).expanduser()
    said = read_sentence_folder(place) if is_sentence_folder(place) else None
    return PairSettings(
        prompt=prompt_of(data.prompt),
        max_length=data.max_length,
        max_passage_length=data.max_passage_length,
        pooling=said.pooling if said else POOLINGS[0],
        passage_prompt=said.passage_prompt if said else "",
    )


@dataclass(frozen=True)
class RunData:
    """What a recipe trains on.

    Attributes:
        examples: in memory, or streamed.
        held_out: held-out examples, in memory.
        passages: by id, in memory or on disk.
    """

    examples: Sequence[Example] | StreamedExamples
    held_out: Sequence[Example]
    passages: Mapping[str, Passage]


def load_data(data: DataSettings, config: CoSupervisionConfig) -> RunData:
    """Read or make the training and the held-out examples of a recipe; every passage id is checked.

    With `data.streaming`, passages go to a store in the run folder and training examples are read as they are needed
    (and checked then).
    """
    passages = _stored(data, Path(str(config.output_dir))) if data.streaming else _in_memory(data)
    held_out = _examples(data.eval_questions, data.eval_examples, data.template, passages)[: data.max_eval_examples]
    if not data.streaming:
        return RunData(_examples(data.questions, data.examples, data.template, passages), held_out, passages)
    seed = config.seed if config.data_seed is None else config.data_seed
    order = StreamOrder(
        seed, data.shuffle_buffer, config.per_device_train_batch_size, rank(), world_size(), repeat=config.max_steps > 0
    )
    template = data.template if data.questions else None
    stream = StreamedExamples([*data.questions, *data.examples], passages, order, template)
    if stream.count() is None and config.max_steps <= 0:
        raise UsageError("how many examples stream from the hub is not known; set max_steps")
    return RunData(stream, held_out, passages)


def _in_memory(data: DataSettings) -> Mapping[str, Passage]:
    return {p.id: p for p in read_all(read_passages, data.passages)}


def _stored(data: DataSettings, folder: Path) -> PassageStore:
    """Open the run's passage store; the first process makes it where it is not there or the sources have changed."""
    place = folder / "passages"
    if rank() == 0:
        PassageStore.build(data.passages, place)
    barrier()
    return PassageStore(place)


def _examples(
    questions: Sequence[str], examples: Sequence[str], template: str, passages: Mapping[str, Passage]
) -> list[Example]:
    """Read all files; what is mined or drawn for an example is known by its id, so they differ over all of them."""

    def given(path: str) -> list[Example]:
        found = read_examples(path)
        check_references(found, passages, path)
        return found

    def asked(path: str) -> list[Example]:
        found = read_questions(path)
        check_references(found, passages, path)
        return [_example(question, passages, template, path) for question in found]

    return [*read_all(given, examples), *read_all(asked, questions)]


def _example(question: Question, passages: Mapping[str, Passage], template: str, path: str) -> Example:
    try:
        return question_to_example(question, passages, template)
    except InputError as error:
        raise InputError(str(error), path, line_of(path, question.id)) from None
