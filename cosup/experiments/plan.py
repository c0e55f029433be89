"""Experiments: one YAML file that names systems, how each is trained and retrieves, and what they are measured on.

output: runs/experiments/main
store: runs/experiments/store               # trainings, which other experiments may share; left out, they are in output
recipe: recipes/experiments/base.yaml       # what all systems train by, but for what is set for each
suite: recipes/suites/twelve-sets.yaml      # what they are measured on
seeds: [1, 2, 3]
set: {training.max_steps: 800}              # keys of the recipe, for every system
limit: 300                                  # questions a task at most
pool: 5000                                  # passages a task at most, as in a suite
models:                                     # made from others, named as `generator` or `embedder`; see `models`
  six-layers: {from: models/SmolLM2-135M-Instruct.Q4_1.gguf, layers: 6}
axes: {objective.temperature: [0.02, 0.05]} # every system once with each value (with each of their combinations)
geometry: {passages: data/squad/passages.jsonl, questions: data/squad/questions.dev.jsonl, limit: 200, every: 50}
                                            # measure both spaces of who writes, every so many steps of its training
systems:
  bm25:
    name: NTP only + BM25
    set: {supervision: ntp}
    retriever: bm25                         # as in a suite; left out, the pair retrieves itself
  separate:
    name: NTP only + separately trained retriever
    set: {supervision: ntp}
    retriever: {train: {supervision: nsp}}  # a pair of its own, by the recipe with these keys set
    generation: {ret_first: true}           # settings of answering, in place of the suite's
  both: {name: NTP + NSP, seeds: [1, 2]}    # fewer than the others have
compare: [[both, separate]]                 # paired differences, the first minus the second, at each point of the axes
scales:                                     # other values for `--scale NAME`
  cpu: {seeds: [1], limit: 20, set: {training.max_steps: 40}, systems: [separate, both]}
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from cosup.data.yaml_files import check_keys, count_of, kind_of, mapping_of, read_yaml
from cosup.errors import InputError, UsageError, did_you_mean
from cosup.evaluation.suites import Suite, load_suite, read_retriever, read_settings
from cosup.experiments.models import DerivedModel, folders_of, read_models
from cosup.generation.retrievers.opening import RetrieverChoice
from cosup.training.recipe import place_of_key

KEYS = (
    *("output", "store", "recipe", "suite", "seeds", "set", "limit", "pool"),
    *("models", "axes", "geometry", "systems", "compare", "scales"),
)
GEOMETRY_KEYS = ("passages", "questions", "limit", "every")
SYSTEM_KEYS = ("name", "set", "retriever", "generation", "seeds")
SCALE_KEYS = ("seeds", "limit", "pool", "set", "models", "axes", "geometry", "systems")
ONLY = "run"  # the system of an experiment that names none
OURS = {"training.seed": "name them in 'seeds'", "training.output_dir": "trainings lie in 'store'"}
_NAME = re.compile(r"[\w][\w.-]*")
_NO_NAME = re.compile(r"[^\w.+-]+")


@dataclass(frozen=True)
class System:
    """One system of a comparison.

    Attributes:
        key: short name.
        name: what tables call it.
        changes: keys of the recipe that its training sets, each in its one spelling (`training.learning_rate`).
        retriever: who retrieves in the pair's place; None where it does so itself or `retriever_changes` says who.
        retriever_changes: keys set for the training of a pair that retrieves in its place; None trains no such pair.
        axes: the value that this system has of each of the experiment's axes.
        generation: settings of answering that differ from the suite's.
        seeds: of its trainings, in place of the experiment's; None for those.
    """

    key: str
    name: str
    changes: Mapping[str, Any]
    retriever: RetrieverChoice | None = None
    retriever_changes: Mapping[str, Any] | None = None
    axes: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] | None = None

    def within(self, suite: Suite) -> Suite:
        """Return the suite with this system's own settings and retriever.

        Raises:
            UsageError: a setting cannot be used.
        """
        settings = {name: replace(own, **self.generation) for name, own in suite.settings.items()}
        return replace(suite, settings=settings, retriever=self.retriever)


@dataclass(frozen=True)
class GeometrySettings:
    """What both spaces are measured with.

    Attributes:
        passages: file or folder.
        questions: file; they become examples by the recipe's template.
        limit: questions at most, spread evenly over the file.
        every: steps from one measurement to the next; the untrained and the trained pair are measured too.
    """

    passages: str
    questions: str
    limit: int = 200
    every: int = 50


@dataclass(frozen=True)
class Experiment:
    """A parsed experiment at one scale.

    Attributes:
        path: its file.
        output: folder of results.
        store: folder of trainings.
        recipe: base of every training.
        suite: tasks; the model in it is none.
        systems: in their order.
        seeds: of the trainings.
        comparisons: pairs of systems.
        scale: its name, None for the whole.
        models: made from others, by name.
        geometry: what both spaces are measured with, or None.
        precision: type of the weights in answering that was asked for; None is the machine's own choice, and a
            measurement then counts whatever that was.
    """

    path: Path
    output: Path
    store: Path
    recipe: Path
    suite: Suite
    systems: tuple[System, ...]
    seeds: tuple[int, ...]
    comparisons: tuple[tuple[str, str], ...] = ()
    scale: str | None = None
    models: Mapping[str, DerivedModel] = field(default_factory=dict)
    geometry: GeometrySettings | None = None
    precision: str | None = None

    @property
    def model_folders(self) -> dict[str, Path]:
        """Where each of `models` is or will be."""
        return folders_of(self.models, self.store)

    def runs(self) -> Iterator[tuple[System, int]]:
        """Yield systems with seeds: all systems with the first seed, then all with the next."""
        own = {system.key: self.seeds if system.seeds is None else system.seeds for system in self.systems}
        for seed in dict.fromkeys([*self.seeds, *(seed for seeds in own.values() for seed in seeds)]):
            for system in self.systems:
                if seed in own[system.key]:
                    yield system, seed


def load_experiment(
    path: str | Path, scale: str | None = None, changes: Mapping[str, Any] | None = None, precision: str | None = None
) -> Experiment:
    """Read an experiment; its paths are taken from where the command runs.

    Args:
        path: YAML file.
        scale: one of its `scales`.
        changes: keys of the recipe, for every system that does not set them itself.
        precision: see `Experiment`.

    Raises:
        InputError: it is no YAML, or a key or value is wrong; names the file.
        UsageError: there is no such scale.
    """
    place = Path(path)
    record = read_yaml(place, "experiment")
    try:
        return replace(_experiment(place, record, scale, changes or {}), precision=precision)
    except InputError:
        raise
    except UsageError as error:
        raise InputError(str(error), place) from None


def _experiment(path: Path, record: Any, scale: str | None, changes: Mapping[str, Any]) -> Experiment:
    if not isinstance(record, Mapping):
        raise UsageError(f"found {kind_of(record)}; expected an experiment with {', '.join(KEYS)}")
    check_keys(record, KEYS, "an experiment")
    chosen = _scale(record.get("scales"), scale)
    texts = {key: record.get(key) for key in ("output", "recipe", "suite", *(["store"] if "store" in record else []))}
    wrong = next((key for key, value in texts.items() if not isinstance(value, str) or not value.strip()), None)
    if wrong is not None:
        raise UsageError(f"{wrong!r} is {texts[wrong]!r}; expected a path")
    output = _output(Path(str(texts["output"])), scale)
    parts = {"set": record.get("set"), "the scale's set": chosen.get("set"), "command line": changes}
    common = {key: value for where, part in parts.items() for key, value in _changes(part, where).items()}
    systems = _systems(record.get("systems", {ONLY: None}), common)
    kept = _known(chosen.get("systems", list(systems)), systems, "the scale's systems")
    axes = _axes(chosen.get("axes", record.get("axes")))
    if "seeds" in chosen:  # of every system
        systems = {key: replace(system, seeds=None) for key, system in systems.items()}
    comparisons = [pair for pair in _comparisons(record.get("compare"), systems) if set(pair) <= set(kept)]
    spread = {key: list(_along(systems[key], axes)) for key in dict.fromkeys(kept)}
    _check_names([system.key for along in spread.values() for system in along])
    points = [zip(spread[one], spread[other], strict=True) for one, other in comparisons]
    counts = {key: count_of(chosen.get(key, record.get(key)), f"'{key}'") for key in ("limit", "pool")}
    return Experiment(
        path,
        output,
        Path(str(texts.get("store", output))),
        Path(str(texts["recipe"])),
        _limited(_suite(str(texts["suite"])), **counts),
        tuple(system for along in spread.values() for system in along),
        _seeds(chosen.get("seeds", record.get("seeds", [0])), "'seeds'"),
        tuple((one.key, other.key) for pairs in points for one, other in pairs),
        scale,
        {**read_models(record.get("models")), **read_models(chosen.get("models"))},
        _geometry(chosen.get("geometry", record.get("geometry"))),
    )


def _suite(path: str) -> Suite:
    """Read the suite, which says what is measured and by what, and leaves the rest to the systems."""
    suite = load_suite(path, "to be trained")
    answered = next((task.name for task in suite.tasks if task.predictions is not None), None)
    if answered is not None:
        raise UsageError(f"{path}: tasks.{answered} has predictions; an experiment's systems answer by themselves")
    if suite.retriever is not None:
        raise UsageError(f"{path}: 'retriever' is of no use here; an experiment's systems name theirs")
    return suite


def _seeds(seeds: Any, where: str) -> tuple[int, ...]:
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise UsageError(f"{where} is {seeds!r}; expected a list of whole numbers")
    return tuple(dict.fromkeys(seeds))


def _comparisons(record: Any, systems: Mapping[str, System]) -> list[tuple[str, str]]:
    if not isinstance(record or [], list):
        raise UsageError(f"'compare' is {record!r}; expected a list of pairs of systems")
    found = []
    for pair in record or []:
        if not isinstance(pair, list) or len(pair) != 2:
            raise UsageError(f"'compare' has {pair!r}; expected two systems")
        one, other = _known(pair, systems, "'compare'")
        found.append((one, other))
    return found


def _geometry(record: Any) -> GeometrySettings | None:
    if record is None:
        return None
    own = mapping_of(record, "geometry", _one_of(GEOMETRY_KEYS))
    check_keys(own, GEOMETRY_KEYS, "geometry")
    for key in GEOMETRY_KEYS[:2]:
        if not isinstance(own.get(key), str):
            raise UsageError(f"geometry.{key} is {own.get(key)!r}; expected a path")
    limit, every = (count_of(own.get(key), f"'geometry.{key}'") for key in GEOMETRY_KEYS[2:])
    default = GeometrySettings(own["passages"], own["questions"])
    return replace(default, limit=limit or default.limit, every=every or default.every)


def _output(folder: Path, scale: str | None) -> Path:
    if not folder.name:
        raise UsageError(f"'output' is '{folder}'; expected a folder with a name")
    return folder if scale is None else folder.with_name(f"{folder.name}-{scale}")


def _scale(record: Any, name: str | None) -> Mapping[str, Any]:
    """Return what a scale sets; every one of them is checked."""
    scales = {str(key): value for key, value in mapping_of(record, "scales", "scales by name").items()}
    for key, value in scales.items():
        check_keys(mapping_of(value, f"scales.{key}", _one_of(SCALE_KEYS)), SCALE_KEYS, f"scales.{key}")
    if name is None:
        return {}
    if name not in scales:
        known = ", ".join(map(str, scales)) or "none"
        raise UsageError(f"there is no scale {name!r}{did_you_mean(name, map(str, scales))}; there are: {known}")
    return mapping_of(scales[name], f"scales.{name}", _one_of(SCALE_KEYS))


def _systems(record: Any, common: Mapping[str, Any]) -> dict[str, System]:
    if not isinstance(record, Mapping) or not record:
        raise UsageError("'systems' has no system; expected at least one, by its short name")
    return {str(key): _system(str(key), value, common) for key, value in record.items()}


def _system(key: str, record: Any, common: Mapping[str, Any]) -> System:
    where = f"systems.{key}"
    if not _NAME.fullmatch(key):
        raise UsageError(f"{where}: expected letters, digits, '-', '_' and '.'")
    own = mapping_of(record, where, _one_of(SYSTEM_KEYS))
    check_keys(own, SYSTEM_KEYS, where)
    changes = {**common, **_changes(own.get("set"), f"{where}.set")}
    name, retriever = str(own.get("name") or key), own.get("retriever")
    seeds = None if own.get("seeds") is None else _seeds(own["seeds"], f"{where}.seeds")
    settings = read_settings(own.get("generation"), f"{where}.generation")
    if isinstance(retriever, Mapping) and "train" in retriever:
        check_keys(retriever, ("train",), f"{where}.retriever")
        own_changes = _changes(retriever["train"], f"{where}.retriever.train")
        return System(key, name, changes, None, {**common, **own_changes}, generation=settings, seeds=seeds)
    return System(key, name, changes, read_retriever(retriever), generation=settings, seeds=seeds)


def _changes(record: Any, where: str) -> dict[str, Any]:
    """Read keys of the recipe, each in its one spelling: `training.learning_rate` for `learning_rate` as well."""
    found = dict[str, Any]()
    for given, value in mapping_of(record, where, "keys of the recipe").items():
        try:
            part, name = place_of_key(str(given))
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None
        key = name if part is None else f"{part}.{name}"
        if (why := OURS.get(key)) is not None:
            raise UsageError(f"{where}: {key} is the experiment's own; {why}")
        if key in found:
            raise UsageError(f"{where}: {key} comes twice")
        found[key] = value
    for key, value in found.items():
        try:
            json.dumps(value)
        except TypeError:
            raise UsageError(f"{where}: {key} is {value!r}; expected text, a number, true, false or a list") from None
    return found


def _axes(record: Any) -> dict[str, list[Any]]:
    axes = _changes(record, "axes")
    for key, values in axes.items():
        if not isinstance(values, list) or not values or not all(isinstance(v, str | int | float) for v in values):
            raise UsageError(f"axes.{key} is {values!r}; expected a list of values")
    return axes


def _along(system: System, axes: Mapping[str, Sequence[Any]]) -> Iterator[System]:
    """Yield a system at each point of the axes (itself without axes); a retriever that is trained moves along."""
    if not axes:
        yield system
        return
    for values in product(*axes.values()):
        point = dict(zip(axes, values, strict=True))
        shown = {key.rpartition(".")[2]: json.dumps(value).strip('"') for key, value in point.items()}
        parts = [f"{key}-{_NO_NAME.sub('_', value)}" for key, value in shown.items()]
        named = ", ".join(f"{key} {value}" for key, value in shown.items())
        searcher = system.retriever_changes
        yield replace(
            system,
            key="-".join(parts) if system.key == ONLY else "-".join([system.key, *parts]),
            name=named if system.key == ONLY else f"{system.name}, {named}",
            changes={**system.changes, **point},
            retriever_changes=None if searcher is None else {**searcher, **point},
            axes=point,
        )


def _check_names(keys: Sequence[str]) -> None:
    """Refuse points of axes that share a name."""
    twice = next((key for i, key in enumerate(keys) if key in keys[:i]), None)
    if twice is not None:
        raise UsageError(f"two systems are named {twice!r}; no two values of an axis may be spelt alike")


def _limited(suite: Suite, limit: int | None, pool: int | None) -> Suite:
    """Return the suite with at most so many questions and passages a task."""
    tasks = (replace(task, limit=_least(limit, task.limit), pool=_least(pool, task.pool)) for task in suite.tasks)
    return replace(suite, tasks=tuple(tasks))


def _least(*counts: int | None) -> int | None:
    return min((count for count in counts if count is not None), default=None)


def _one_of(keys: Sequence[str]) -> str:
    return f"keys such as {', '.join(keys)}"


def _known(keys: Any, systems: Mapping[str, System], where: str) -> list[str]:
    """Return the names of systems in a list.

    Raises:
        UsageError: it is no list, or there is no such system.
    """
    if not isinstance(keys, list) or not keys:
        raise UsageError(f"{where} is {keys!r}; expected a list of systems")
    for key in keys:
        if str(key) not in systems:
            raise UsageError(f"{where}: no system {key!r}{did_you_mean(str(key), systems)}")
    return [str(key) for key in keys]
