"""Running an experiment: every training and every measurement once, each under the address of what it is made from.

    OUTPUT/trained/ADDRESS/     a run folder of `cosup train`
    OUTPUT/indexes/TASK-EMBEDDER/  indexes, shared by what has the same embedder
    OUTPUT/measured/ADDRESS/    results of a suite, and `record.json`, written last
    OUTPUT/main.json, main.md   the tables, written after every measurement

A finished piece is never made again and an interrupted one goes on, whichever systems and seeds the file names next.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cosup.data.writing import atomic_open
from cosup.errors import InputError, UsageError
from cosup.evaluation.suite_run import Means, run_suite
from cosup.evaluation.suites import Suite
from cosup.experiments.plan import Experiment, System
from cosup.experiments.provenance import address_of, provenance
from cosup.generation.retrievers.opening import SEPARATE, RetrieverChoice
from cosup.modeling import CoSupervisedModel
from cosup.training.recipe import Recipe, load_recipe

Bars = Callable[[str, str], AbstractContextManager[Callable[[int, int, str], None]]]
_DATA_FILES = ("passages", "questions", "examples", "eval_questions", "eval_examples")


@dataclass(frozen=True)
class Step:
    """One system with one seed: what is trained for it and where its results go.

    Attributes:
        writer: recipe of the pair that writes.
        searcher: recipe of the pair that retrieves in its place, or None.
        record: the file that stands when all is done.
    """

    system: System
    seed: int
    writer: Recipe
    searcher: Recipe | None
    record: Path

    @property
    def trainings(self) -> tuple[Recipe, ...]:
        """The recipes, the writer's first."""
        return (self.writer,) if self.searcher is None else (self.writer, self.searcher)

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        return self.record.is_file()


def folder_of(recipe: Recipe) -> Path:
    """Return a training's run folder."""
    return Path(str(recipe.training["output_dir"]))


def is_trained(recipe: Recipe) -> bool:
    """Whether a training is finished."""
    return (folder_of(recipe) / "model" / "cosup.json").is_file()


def steps_of(experiment: Experiment) -> list[Step]:
    """Return what an experiment comes to, in its order; nothing is loaded or written.

    Raises:
        InputError: the recipe or a file cannot be used.
        UsageError: a key that a system sets is none of the recipe's, or its value cannot be used.
    """
    found = []
    for system, seed in experiment.runs():
        try:
            writer, searcher = _trainings(experiment, system, seed)
        except InputError:
            raise
        except UsageError as error:
            raise UsageError(f"{experiment.path}: system {system.key!r}: {error}") from None
        address = _measurement(experiment.suite, system, writer, searcher)
        found.append(Step(system, seed, writer, searcher, experiment.output / "measured" / address / "record.json"))
    return found


def run_experiment(
    experiment: Experiment,
    load: Callable[[Path], CoSupervisedModel],
    bars: Bars,
    after: Callable[[Sequence[Mapping[str, Any]]], None],
) -> list[dict[str, Any]]:
    """Train, answer and measure what is not done yet.

    Args:
        experiment: what to run.
        load: returns a model folder's pair on its device.
        bars: draws progress: called with a description and a unit.
        after: called with all records so far, at the start (if there are any) and after each measurement.

    Returns:
        The records, in the experiment's order.

    Raises:
        InputError, UsageError: something cannot be used; see `steps_of` and `run_suite`.
    """
    steps = steps_of(experiment)
    records = [read_record(step.record) for step in steps if step.done]
    if records:
        after(records)
    for step in steps:
        if not step.done:
            _run(experiment, step, load, bars)
            records = [read_record(known.record) for known in steps if known.done]
            after(records)
    return records


def read_record(path: Path) -> dict[str, Any]:
    """Read a `record.json`, with its own folder as `folder`.

    Raises:
        InputError: it is damaged.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read ({error}); delete it to measure again", path) from None
    return found | {"folder": str(path.parent)}


def _run(experiment: Experiment, step: Step, load: Callable[[Path], CoSupervisedModel], bars: Bars) -> None:
    from cosup.training.run import train

    label, seconds = f"{step.system.key}, seed {step.seed}", dict[str, float]()
    for part, recipe in zip(("writer", "searcher"), step.trainings, strict=False):
        if not is_trained(recipe):
            with _timed(seconds, f"train_{part}"), bars(f"{label}: training {part}", "steps") as report:
                train(recipe, report)
            gc.collect()  # optimizer states are large
    suite = _suite(experiment.suite, step)
    with _timed(seconds, "measure"):
        means = Means(load, lambda what, unit: bars(f"{label}: {what}", unit), None, experiment.output / "indexes")
        run_suite(suite, step.record.parent, means)
    gc.collect()
    whole = {
        "system": step.system.key,
        "name": step.system.name,
        "seed": step.seed,
        "scale": experiment.scale,
        "trained": [str(folder_of(recipe)) for recipe in step.trainings],
        "recipes": [dict(recipe.source) for recipe in step.trainings],
        "training": [_metrics(recipe) for recipe in step.trainings],
        "suite": json.loads((step.record.parent / "suite.json").read_text(encoding="utf-8")),
        "tasks": {task.name: {"group": task.group, **task.measures} for task in suite.tasks},
        "seconds": seconds,  # of this call: what was done before it is not in them
        **provenance(),
    }
    with atomic_open(step.record) as stream:
        stream.write(json.dumps(whole, ensure_ascii=False, indent=2) + "\n")


def _trainings(experiment: Experiment, system: System, seed: int) -> tuple[Recipe, Recipe | None]:
    """Return the recipes of who writes and of who retrieves in its place; none that could not be trained."""
    changes = [system.changes, *([] if system.retriever_changes is None else [system.retriever_changes])]
    writer, *searchers = [_training(experiment, own, seed) for own in changes]
    for recipe in (writer, *searchers):
        recipe.config()
    return writer, searchers[0] if searchers else None


def _training(experiment: Experiment, changes: Mapping[str, Any], seed: int) -> Recipe:
    """Return the recipe of a training, whose run folder is named by its content."""
    overrides = [(key, json.dumps(value)) for key, value in changes.items()]
    recipe = load_recipe(experiment.recipe, [*overrides, ("training.seed", str(seed))])
    source = dict(recipe.source)
    source["training"] = {key: value for key, value in recipe.training.items() if key != "output_dir"}
    files = [recipe.generator, recipe.embedder, *(p for name in _DATA_FILES for p in getattr(recipe.data, name))]
    folder = experiment.output / "trained" / address_of(source, files)
    return replace(recipe, training={**recipe.training, "output_dir": str(folder)})


def _measurement(suite: Suite, system: System, writer: Recipe, searcher: Recipe | None) -> str:
    record = {
        "trained": [folder_of(recipe).name for recipe in (writer, searcher) if recipe is not None],
        "retriever": None if system.retriever is None else asdict(system.retriever),
        "tasks": [asdict(task) | {"passages": [], "questions": ""} for task in suite.tasks],
        "settings": {name: asdict(settings) for name, settings in suite.settings.items()},
    }
    files = [file for task in suite.tasks for file in (*task.passages, task.questions)]
    return address_of(record, files)


def _suite(suite: Suite, step: Step) -> Suite:
    """Return the suite with a step's pair in it."""
    retriever = step.system.retriever
    if step.searcher is not None:
        retriever = RetrieverChoice(f"{SEPARATE}{folder_of(step.searcher) / 'model'}")
    return replace(suite, model=str(folder_of(step.writer) / "model"), retriever=retriever)


def _metrics(recipe: Recipe) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder_of(recipe) / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    return found


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Note how long a block takes, in seconds."""
    began = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - began, 1)


def measured_tasks(record: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """Yield the tasks of a record with their files of per-question scores."""
    for task in record["tasks"]:
        yield task, Path(record["folder"]) / task / "report" / "per_question.jsonl"
