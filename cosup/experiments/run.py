"""Running an experiment: every training and every measurement once, each under the address of what it is made from.

    OUTPUT/models/NAME-ADDRESS/ a model that the experiment makes from another
    OUTPUT/trained/ADDRESS/     a run folder of `cosup train`
    OUTPUT/indexes/TASK-EMBEDDER/  indexes, shared by what has the same embedder
    OUTPUT/measured/ADDRESS/    results of a suite, and `record.json`, written last, which says all that tables show
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

from cosup.data.jsonl import iter_jsonl
from cosup.data.reading import check_references, read_passages, read_questions
from cosup.data.templates import question_to_example
from cosup.data.writing import atomic_open
from cosup.errors import InputError, UsageError
from cosup.evaluation.scoring import IF_RETRIEVED
from cosup.evaluation.suite_run import Means, run_suite
from cosup.evaluation.suites import SIDES, Suite, Task
from cosup.experiments.geometry import measure, projection, spaces_of
from cosup.experiments.models import make_model
from cosup.experiments.plan import Experiment, GeometrySettings, System
from cosup.experiments.provenance import address_of, provenance
from cosup.generation.retrievers.opening import SEPARATE, RetrieverChoice
from cosup.modeling import CoSupervisedModel
from cosup.training.recipe import Recipe, load_recipe

Bars = Callable[[str, str], AbstractContextManager[Callable[[int, int, str], None]]]
RECALL = "recall@1"
IF_RETRIEVED_COLUMN = "correctness_if_retrieved"
COLUMNS = ("retrieval", RECALL, "correctness", "citation", IF_RETRIEVED_COLUMN, "answer_passage_precision")
"""What a record keeps of every question: the suite's own measures, and those that every task has."""
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
    def address(self) -> str:
        """What names the measurement."""
        return self.record.parent.name


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
        address = _measurement(experiment, system, writer, searcher)
        found.append(Step(system, seed, writer, searcher, experiment.output / "measured" / address / "record.json"))
    return found


def run_experiment(
    experiment: Experiment,
    load: Callable[[Path], CoSupervisedModel],
    bars: Bars,
    after: Callable[[Sequence[Mapping[str, Any]]], None],
    kept: Path | None = None,
) -> list[dict[str, Any]]:
    """Train, answer and measure what is not done yet.

    Args:
        experiment: what to run.
        load: returns a model folder's pair on its device.
        bars: draws progress: called with a description and a unit.
        after: called with all records so far, at the start (if there are any) and after each measurement.
        kept: folder of records, `ADDRESS.json`, from which measurements made elsewhere are taken and to which new ones
            are copied.

    Returns:
        The records, in the experiment's order.

    Raises:
        InputError, UsageError: something cannot be used; see `steps_of` and `run_suite`.
    """
    steps = steps_of(experiment)
    if records := read_records(steps, kept):
        after(records)
    for step in steps:
        if record_of(step, kept) is None:
            _run(experiment, step, load, bars)
            if kept is not None:
                with atomic_open(kept / f"{step.address}.json") as stream:
                    stream.write(step.record.read_text(encoding="utf-8"))
            records = read_records(steps, kept)
            after(records)
    return records


def geometry_of(
    recipe: Recipe,
    settings: GeometrySettings,
    load: Callable[[Path], CoSupervisedModel],
    report: Callable[[int, int, str], None],
) -> list[dict[str, Any]]:
    """Measure both spaces of a training at each checkpoint that it kept: `step` with what `geometry.measure` returns.

    The first and the last one have a `projection` too.

    Raises:
        InputError: a file cannot be used.
    """
    passages = {passage.id: passage for passage in read_passages(settings.passages)}
    questions = read_questions(settings.questions)[: settings.limit]
    check_references(questions, passages, settings.questions)
    examples = [question_to_example(question, passages, recipe.data.template) for question in questions]
    places = {int(path.name[11:]): path for path in folder_of(recipe).glob("checkpoint-*") if path.name[11:].isdigit()}
    found = []
    for count, step in enumerate(sorted(places), 1):
        spaces = spaces_of(load(places[step]), examples, passages)
        own: dict[str, Any] = {"step": step, **measure(spaces)}
        found.append(own | ({"projection": projection(spaces)} if count in (1, len(places)) else {}))
        report(count, len(places), "")
    return found


def record_of(step: Step, kept: Path | None) -> Path | None:
    """Return the record of a finished step: its own, else one that was made elsewhere; None where it is to do."""
    places = [step.record, *([] if kept is None else [kept / f"{step.address}.json"])]
    return next((place for place in places if place.is_file()), None)


def read_record(path: Path) -> dict[str, Any]:
    """Read a record.

    Raises:
        InputError: it is damaged.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read ({error}); delete it to measure again", path) from None
    return found


def read_records(steps: Sequence[Step], kept: Path | None) -> list[dict[str, Any]]:
    """Read what is finished; names are those of the experiment, whatever they were when it was measured."""
    found = [(step, place) for step in steps if (place := record_of(step, kept)) is not None]
    return [
        read_record(place) | {"system": step.system.key, "name": step.system.name, "axes": dict(step.system.axes)}
        for step, place in found
    ]


def _run(experiment: Experiment, step: Step, load: Callable[[Path], CoSupervisedModel], bars: Bars) -> None:
    from cosup.training.run import train

    label, seconds = f"{step.system.key}, seed {step.seed}", dict[str, float]()
    for name, folder in experiment.model_folders.items():
        if str(folder) in {model for recipe in step.trainings for model in (recipe.generator, recipe.embedder)}:
            make_model(experiment.models[name], folder)
    for part, recipe in zip(("writer", "searcher"), step.trainings, strict=False):
        if not is_trained(recipe):
            with _timed(seconds, f"train_{part}"), bars(f"{label}: training {part}", "steps") as report:
                train(recipe, report)
            gc.collect()  # optimizer states are large
    geometry = None
    if experiment.geometry is not None:
        with _timed(seconds, "geometry"), bars(f"{label}: geometry", "checkpoints") as report:
            geometry = geometry_of(step.writer, experiment.geometry, load, report)
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
        "tasks": {task.name: _about(task) for task in suite.tasks},
        "scores": {task.name: _scores(task, step.record.parent) for task in suite.tasks},
        **({} if geometry is None else {"geometry": geometry}),
        "seconds": seconds,  # of this call: what was done before it is not in them
        "experiment": str(experiment.path),
        **provenance(),
    }
    with atomic_open(step.record) as stream:
        stream.write(json.dumps(whole, ensure_ascii=False, indent=2) + "\n")


def _about(task: Task) -> dict[str, Any]:
    return {"group": task.group, "limit": task.limit, "pool": task.pool, **task.measures}


def _scores(task: Task, folder: Path) -> dict[str, dict[str, float]]:
    """Return the scores of each question, by column of `COLUMNS`, as far as its measure judges the question."""
    measures = {column: column for column in COLUMNS} | {side: task.measures.get(side, "") for side in SIDES}
    measures[IF_RETRIEVED_COLUMN] = measures["correctness"] + IF_RETRIEVED
    lines = iter_jsonl(folder / task.name / "report" / "per_question.jsonl")
    return {
        str(line["id"]): {c: round(line["scores"][name], 6) for c, name in measures.items() if name in line["scores"]}
        for _, line in lines
    }


def _trainings(experiment: Experiment, system: System, seed: int) -> tuple[Recipe, Recipe | None]:
    """Return the recipes of who writes and of who retrieves in its place; none that could not be trained."""
    changes = [system.changes, *([] if system.retriever_changes is None else [system.retriever_changes])]
    writer, *searchers = [_training(experiment, own, seed) for own in changes]
    for recipe in (writer, *searchers):
        recipe.config()
    return writer, searchers[0] if searchers else None


def _training(experiment: Experiment, changes: Mapping[str, Any], seed: int) -> Recipe:
    """Return the recipe of a training, whose run folder is named by its content."""
    made = {name: str(folder) for name, folder in experiment.model_folders.items()}
    overrides = [(key, json.dumps(value)) for key, value in changes.items()]
    recipe = load_recipe(experiment.recipe, [*overrides, ("training.seed", str(seed))])
    source = dict(recipe.source)
    source["training"] = {key: value for key, value in recipe.training.items() if key != "output_dir"}
    pair = [recipe.generator, recipe.embedder]
    source |= {"made": [experiment.models[name].address for name in pair if name in made]}
    if not source["made"]:
        del source["made"]
    data = [path for name in _DATA_FILES for path in getattr(recipe.data, name)]
    files = [*(model for model in pair if model not in made), *data]
    generator, embedder = (made.get(model, model) for model in pair)
    recipe = replace(
        recipe,
        generator=generator,
        embedder=embedder,
        source={**recipe.source, "generator": generator, "embedder": embedder},
    )
    folder = experiment.output / "trained" / address_of(source, files)
    return replace(recipe, training={**recipe.training, "output_dir": str(folder)})


def _measurement(experiment: Experiment, system: System, writer: Recipe, searcher: Recipe | None) -> str:
    suite, geometry = system.within(experiment.suite), experiment.geometry
    record: dict[str, Any] = {
        "trained": [folder_of(recipe).name for recipe in (writer, searcher) if recipe is not None],
        "retriever": None if system.retriever is None else asdict(system.retriever),
        "tasks": [asdict(task) | {"passages": [], "questions": ""} for task in suite.tasks],
        "settings": {name: asdict(settings) for name, settings in suite.settings.items()},
    }
    files = [file for task in suite.tasks for file in (*task.passages, task.questions)]
    if system.retriever is not None:
        files.append(system.retriever.name)
    if geometry is not None:
        record["geometry"] = geometry.limit
        files += [geometry.passages, geometry.questions]
    return address_of(record, files)


def _suite(suite: Suite, step: Step) -> Suite:
    """Return the suite with a step's pair in it."""
    own = replace(step.system.within(suite), model=str(folder_of(step.writer) / "model"))
    if step.searcher is None:
        return own
    return replace(own, retriever=RetrieverChoice(f"{SEPARATE}{folder_of(step.searcher) / 'model'}"))


def _metrics(recipe: Recipe) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder_of(recipe) / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    return found


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Note how long a block takes, in seconds."""
    began = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - began, 1)
