"""Running an experiment: every training and every measurement once, each under the address of what it is made from.

    STORE/models/NAME-ADDRESS/  a model that the experiment makes from another
    STORE/trained/ADDRESS/      a run folder of `cosup train`, with `made.json`: commit, hardware, seconds
    OUTPUT/indexes/TASK-EMBEDDER/  indexes, shared by what has the same embedder
    OUTPUT/measured/ADDRESS/    results of a suite, and `record.json`, written last, which says all that tables show
    OUTPUT/main.json, main.md   the tables, written after every measurement

STORE is OUTPUT where the experiment names none. A finished piece is never made again and an interrupted one goes on,
whichever systems and seeds the file names next. Several processes may run one experiment, or several that share a
store: each takes what no other is at.
"""

from __future__ import annotations

import gc
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cosup.data.jsonl import iter_jsonl
from cosup.data.writing import write_json, write_text
from cosup.errors import InputError, UsageError
from cosup.evaluation.scoring import IF_RETRIEVED
from cosup.evaluation.suite_run import Means, check_suite, run_suite
from cosup.evaluation.suites import SIDES, Suite, Task
from cosup.experiments.addresses import folder_of, measurement_address, trainings_of
from cosup.experiments.geometry import GEOMETRY, Watcher
from cosup.experiments.models import make_model
from cosup.experiments.plan import Experiment, System
from cosup.experiments.provenance import provenance
from cosup.experiments.table import COLUMNS
from cosup.generation.retrievers.opening import SEPARATE, RetrieverChoice, check_retriever
from cosup.modeling import CoSupervisedModel
from cosup.processes import world_size
from cosup.training.recipe import Recipe
from cosup.training.run_folder import claim, is_finished

Bars = Callable[[str, str], AbstractContextManager[Callable[[int, int, str], None]]]
Load = Callable[[Path], CoSupervisedModel]
IF_RETRIEVED_COLUMN = "correctness_if_retrieved"
RECORDED = (*COLUMNS, IF_RETRIEVED_COLUMN, "answer_passage_precision")
"""What a record keeps of every question: the columns of the tables, and what the page of results has beside them."""
MADE, SECONDS = "made.json", "seconds.json"
PAUSE = 5.0  # seconds, before what other processes hold is tried again


@dataclass(frozen=True)
class Step:
    """One system with one seed: what is trained for it and where its results go.

    Attributes:
        trainings: recipe of the pair that writes, and of the one that retrieves in its place if there is one.
        record: the file that stands when all is done.
    """

    system: System
    seed: int
    trainings: tuple[Recipe, ...]
    record: Path

    @property
    def writer(self) -> Recipe:
        """The recipe of the pair that writes."""
        return self.trainings[0]

    @property
    def address(self) -> str:
        """What names the measurement."""
        return self.record.parent.name


def is_trained(recipe: Recipe) -> bool:
    """Whether a training is finished."""
    return is_finished(folder_of(recipe))


def steps_of(experiment: Experiment) -> list[Step]:
    """Return what an experiment comes to, in its order; nothing is loaded or written.

    Raises:
        InputError: the recipe or a file cannot be used.
        UsageError: a key that a system sets is none of the recipe's, or its value cannot be used.
    """
    found = []
    for system, seed in experiment.runs():
        try:
            trainings = trainings_of(experiment, system, seed)
        except InputError:
            raise
        except UsageError as error:
            raise UsageError(f"{experiment.path}: system {system.key!r}: {error}") from None
        address = measurement_address(experiment, system, trainings)
        found.append(Step(system, seed, trainings, experiment.output / "measured" / address / "record.json"))
    return found


def run_experiment(
    experiment: Experiment,
    load: Load,
    bars: Bars,
    after: Callable[[Sequence[Mapping[str, Any]]], None],
    kept: Path | None = None,
) -> list[dict[str, Any]]:
    """Train, answer and measure what is not done yet; of what another process is at, wait for the end.

    Args:
        experiment: what to run.
        load: returns a model folder's pair on its device.
        bars: draws progress: called with a description and a unit.
        after: called with all records so far, at the start (if there are any) and after each measurement.
        kept: folder of records, `ADDRESS.json`, from which measurements made elsewhere are taken and to which all
            others are copied.

    Returns:
        The records, in the experiment's order.

    Raises:
        InputError, UsageError: something cannot be used; see `steps_of` and `run_suite`.
    """
    if world_size() > 1:
        raise UsageError("an experiment runs in one process; its trainings can be started by torchrun one by one")
    steps, made = steps_of(experiment), provenance()
    for step in steps:
        _keep(step, kept)
    if records := read_records(steps, kept):
        after(records)
    waiting = [step for step in steps if record_of(step, kept) is None]
    _check_files(experiment, waiting)
    while waiting:
        for step in waiting:
            with _held(step) as ours:
                if ours and record_of(step, kept) is None:
                    _run(experiment, step, load, bars, made)
            if ours:
                break
        else:
            time.sleep(PAUSE)
            continue
        waiting.remove(step)
        _keep(step, kept)
        records = read_records(steps, kept)
        after(records)
    return records


def record_of(step: Step, kept: Path | None) -> Path | None:
    """Return the record of a finished step: its own, else one that was made elsewhere; None where it is to do."""
    places = [step.record, *([] if kept is None else [kept / f"{step.address}.json"])]
    return next((place for place in places if place.is_file()), None)


def read_records(steps: Sequence[Step], kept: Path | None) -> list[dict[str, Any]]:
    """Read what is finished; names are those of the experiment, whatever they were when it was measured.

    Raises:
        InputError: a record is damaged.
    """
    found = [(step, place) for step in steps if (place := record_of(step, kept)) is not None]
    return [
        _read(place) | {"system": step.system.key, "name": step.system.name, "axes": dict(step.system.axes)}
        for step, place in found
    ]


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read ({error}); delete it to measure again", path) from None
    return found


def _keep(step: Step, kept: Path | None) -> None:
    """Copy a step's own record to where records are kept, if it is not there as it is."""
    if kept is None or not step.record.is_file():
        return
    text, copy = step.record.read_text(encoding="utf-8"), kept / f"{step.address}.json"
    if not copy.is_file() or copy.read_text(encoding="utf-8") != text:
        write_text(copy, text)


def _check_files(experiment: Experiment, waiting: Sequence[Step]) -> None:
    """Find out before hours of training whether what comes after it can be read, measured and searched.

    Raises:
        InputError, UsageError: a file, a package or a model is missing; names it.
    """
    if not waiting:
        return
    check_suite(experiment.suite)
    if (geometry := experiment.geometry) is not None:
        Watcher(geometry, waiting[0].writer.data.template, experiment.output)
    for choice in {step.system.retriever for step in waiting}:
        if choice is not None:
            check_retriever(choice)


def _run(experiment: Experiment, step: Step, load: Load, bars: Bars, made: Mapping[str, Any]) -> None:
    label = f"{step.system.key}, seed {step.seed}"
    for name, folder in experiment.model_folders.items():
        if str(folder) in {model for recipe in step.trainings for model in (recipe.generator, recipe.embedder)}:
            make_model(experiment.models[name], folder)
    for part, recipe in zip(("writer", "searcher"), step.trainings, strict=False):
        if not is_trained(recipe):
            with bars(f"{label}: training {part}", "steps") as report:
                _train(experiment, recipe, report, made)
        for checkpoint in folder_of(recipe).glob("checkpoint-*"):  # several times as large as the model
            shutil.rmtree(checkpoint)
    suite, folder = _suite(experiment.suite, step), step.record.parent
    with _timed(folder):
        means = Means(load, lambda what, unit: bars(f"{label}: {what}", unit), None, experiment.output / "indexes")
        run_suite(suite, folder, means)
    gc.collect()
    whole = {
        "system": step.system.key,
        "name": step.system.name,
        "seed": step.seed,
        "experiment": str(experiment.path),
        "scale": experiment.scale,
        "trainings": [_trained(recipe) for recipe in step.trainings],
        "suite": _json(folder / "suite.json"),
        "tasks": {task.name: _about(task) for task in suite.tasks},
        "scores": {task.name: _scores(task, folder) for task in suite.tasks},
        **({} if experiment.geometry is None else {"geometry": _json(folder_of(step.writer) / GEOMETRY)}),
        "precision": _json(folder / suite.tasks[0].name / "predictions.json")["dtype"],
        "seconds": _json(folder / SECONDS),
        **made,
    }
    write_json(step.record, whole)


def _train(
    experiment: Experiment, recipe: Recipe, report: Callable[[int, int, str], None], made: Mapping[str, Any]
) -> None:
    from cosup.heap import give_back_freed_memory
    from cosup.training.run import train

    folder = folder_of(recipe)
    if (folder / "recipe.yaml").is_file():  # the same training, by its address, whose files may have moved
        claim(folder, recipe)
    watcher = None if experiment.geometry is None else Watcher(experiment.geometry, recipe.data.template, folder)
    with _timed(folder):
        train(recipe, report, watcher)
    write_json(folder / MADE, {"seconds": _json(folder / SECONDS), **made})
    gc.collect()  # optimizer states are large
    give_back_freed_memory()


def _trained(recipe: Recipe) -> dict[str, Any]:
    """Return what a record says of a training."""
    folder = folder_of(recipe)
    found = _json(folder / "metrics.json")
    own = {"folder": str(folder), "recipe": dict(recipe.source), "metrics": found["metrics"], "log": found["log"]}
    return own | (_json(folder / MADE) if (folder / MADE).is_file() else {})


def _about(task: Task) -> dict[str, Any]:
    return {"group": task.group, "limit": task.limit, "pool": task.pool, **task.measures}


def _scores(task: Task, folder: Path) -> dict[str, dict[str, float]]:
    """Return the scores of each question, by column of `RECORDED`, as far as its measure judges the question."""
    measures = {column: column for column in RECORDED} | {side: task.measures.get(side, "") for side in SIDES}
    measures[IF_RETRIEVED_COLUMN] = measures["correctness"] + IF_RETRIEVED
    lines = iter_jsonl(folder / task.name / "report" / "per_question.jsonl")
    return {
        str(line["id"]): {c: round(line["scores"][name], 6) for c, name in measures.items() if name in line["scores"]}
        for _, line in lines
    }


def _suite(suite: Suite, step: Step) -> Suite:
    """Return the suite with a step's pair in it."""
    writer, *searchers = step.trainings
    own = replace(step.system.within(suite), model=str(folder_of(writer) / "model"))
    if not searchers:
        return own
    return replace(own, retriever=RetrieverChoice(f"{SEPARATE}{folder_of(searchers[0]) / 'model'}"))


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def _held(step: Step) -> Iterator[bool]:
    """Hold a step's trainings, and with them the indexes of their embedders, if no other process does.

    Yields:
        Whether they are held; if not, another process of this or another experiment is at one of them.
    """
    folders = sorted({folder_of(recipe) for recipe in step.trainings})
    with ExitStack() as stack:
        try:
            for folder in folders:
                folder.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0))
        except Timeout:
            stack.close()
            yield False
            return
        yield True


@contextmanager
def _timed(folder: Path) -> Iterator[None]:
    """Add how long a block takes, in seconds, to what a folder has taken before; a killed process adds nothing."""
    began, path = time.perf_counter(), folder / SECONDS
    try:
        yield
    finally:
        before = _json(path) if path.is_file() else 0.0
        if folder.is_dir():
            write_text(path, f"{before + time.perf_counter() - began:.1f}\n")
