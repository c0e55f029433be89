"""Task suites: one YAML file that names several tasks, each under measures of its own.

model: runs/mine/model        # a model folder; not needed where every task names its predictions
output: runs/mine/suite
retriever: bm25               # in the model's place; or separate:MODEL, or a sentence-transformers model
generation: {max_new_tokens: 160, batch_size: 32}
tasks:
  squad:
    passages: data/squad/passages.jsonl
    questions: data/squad/questions.test.jsonl
    limit: 200                                  # questions at most, spread over the file
    pool: 1000                                  # passages at most, beyond those that the questions need
    retrieval: answer_passage_precision
    correctness: contains_answer
    citation: citation_recall
    group: in domain
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from cosup.data.yaml_files import check_keys, count_of, kind_of, mapping_of, read_yaml
from cosup.errors import InputError, UsageError, did_you_mean
from cosup.evaluation.scoring import metric_names, recount_names
from cosup.generation.retrievers.opening import RetrieverChoice
from cosup.generation.settings import GenerationSettings
from cosup.index.filters import Filter

SIDES = ("retrieval", "correctness", "citation")
TOP_KEYS = ("model", "output", "retriever", "generation", "tasks")
RETRIEVER_KEYS = ("name", "query_text", "query_prompt", "passage_prompt")
BATCH_SIZE = "batch_size"
_NAME = re.compile(r"[\w][\w.-]*")


@dataclass(frozen=True)
class Task:
    """One task of a suite.

    Attributes:
        name: names its folder of results as well.
        passages: the corpus, files or folders.
        questions: file of questions.
        limit: questions at most, spread evenly over the file; None for all.
        pool: passages at most: the evidence of the questions asked, and others spread evenly over the corpus (more
            where the evidence alone is more); None for all.
        predictions: a file to score in place of answering; None answers with the suite's model.
        retrieval: measure shown for retrieval; None for none. So `correctness` and `citation`.
        group: tasks of one group have an average of their own.
        generation: settings of this task that differ from the suite's.
    """

    name: str
    passages: tuple[str, ...]
    questions: str
    limit: int | None = None
    pool: int | None = None
    predictions: str | None = None
    retrieval: str | None = None
    correctness: str | None = None
    citation: str | None = None
    group: str | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)

    @property
    def measures(self) -> dict[str, str]:
        """Side -> measure, as far as they are named."""
        return {side: name for side in SIDES if (name := getattr(self, side)) is not None}


@dataclass(frozen=True)
class Suite:
    """A parsed suite file.

    Attributes:
        model: model folder, where something is to be answered.
        output: folder of results; None where the command line names it.
        settings: of generation, for each task by name.
        batch_sizes: questions at once, for each task by name.
        retriever: who retrieves in the model's place; None where it does so itself.
    """

    path: Path
    model: str | None
    output: str | None
    tasks: tuple[Task, ...]
    settings: Mapping[str, GenerationSettings]
    batch_sizes: Mapping[str, int]
    retriever: RetrieverChoice | None = None

    @property
    def model_folder(self) -> Path:
        """The model's folder, where something is to be answered."""
        return Path(str(self.model))


def load_suite(path: str | Path, model: str | None = None) -> Suite:
    """Read a suite file; its paths are taken from where the command runs.

    Args:
        path: a YAML file.
        model: model folder in place of the suite's own.

    Raises:
        InputError: it is no YAML, or a key or value is wrong; names the file and the task.
    """
    place = Path(path)
    record = read_yaml(place, "suite")
    try:
        return _suite(place, record, model)
    except UsageError as error:
        raise InputError(str(error), place) from None


def _suite(path: Path, record: Any, instead: str | None) -> Suite:
    if not isinstance(record, Mapping):
        raise UsageError(f"found {kind_of(record)}; expected a suite with {', '.join(TOP_KEYS)}")
    check_keys(record, TOP_KEYS, "a suite")
    own = record.get("tasks")
    if not isinstance(own, Mapping) or not own:
        raise UsageError("'tasks' has no task; expected at least one, by name")
    tasks = tuple(_task(str(name), value) for name, value in own.items())
    common = _settings_of(record.get("generation"), "generation")
    merged = {task.name: {**common, **task.generation} for task in tasks}
    model = instead or _text(record, "model", "the suite")
    if model is None and (waiting := [task.name for task in tasks if task.predictions is None]):
        raise UsageError(f"no 'model' to answer {waiting[0]!r} with; give --model, or name the task's predictions")
    settings, sizes = {}, {}
    for name, values in merged.items():
        sizes[name] = values.pop(BATCH_SIZE, 32)
        if isinstance(sizes[name], bool) or not isinstance(sizes[name], int) or sizes[name] < 1:
            raise UsageError(f"tasks.{name}: batch_size is {sizes[name]!r}; expected a number of at least 1")
        settings[name] = _generation(f"tasks.{name}", values)
    retriever = read_retriever(record.get("retriever"))
    return Suite(path, model, _text(record, "output", "the suite"), tasks, settings, sizes, retriever)


def read_retriever(record: Any) -> RetrieverChoice | None:
    """Read a retriever: its name, or a mapping of `RETRIEVER_KEYS`; None where there is none.

    Raises:
        UsageError: it is neither, or cannot be used.
    """
    if record is None:
        return None
    given = {"name": record} if isinstance(record, str) else record
    if not isinstance(given, Mapping):
        raise UsageError(f"'retriever' is {record!r}; expected a name, or {', '.join(RETRIEVER_KEYS)}")
    check_keys(given, RETRIEVER_KEYS, "retriever")
    name, query, *prompts = (_text(given, key, "retriever") for key in RETRIEVER_KEYS)
    if name is None:
        raise UsageError("'retriever' has no 'name'; expected bm25, separate:MODEL_FOLDER or a model")
    return RetrieverChoice(name, query or "text", *prompts)


def _task(name: str, record: Any) -> Task:
    where = f"tasks.{name}"
    if not _NAME.fullmatch(name):
        raise UsageError(f"{where}: a task's name is a folder's too; expected letters, digits, '-', '_' and '.'")
    if not isinstance(record, Mapping):
        raise UsageError(f"{where} is {type(record).__name__}; expected keys such as passages and questions")
    check_keys(record, [f.name for f in fields(Task) if f.name != "name"], where)
    passages = record.get("passages")
    listed: list[Any] = passages if isinstance(passages, list) else [passages]
    if not listed or not all(isinstance(item, str) and item for item in listed):
        raise UsageError(f"{where}: 'passages' is {passages!r}; expected a file or a list of files")
    questions = _text(record, "questions", where)
    if questions is None:
        raise UsageError(f"{where}: no 'questions'; expected a file")
    limit, pool = (count_of(record.get(key), f"{where}: {key}") for key in ("limit", "pool"))
    sides = {side: _measure(record, side, where) for side in SIDES}
    more = {key: _text(record, key, where) for key in ("predictions", "group")}
    own = _settings_of(record.get("generation"), f"{where}.generation")
    if pool is not None and more["predictions"] is not None:
        raise UsageError(f"{where}: predictions were made over all passages; leave out 'pool' or 'predictions'")
    return Task(name, tuple(listed), questions, limit, pool, **sides, **more, generation=own)


def _measure(record: Mapping[str, Any], side: str, where: str) -> str | None:
    name, known = _text(record, side, where), (*metric_names(), *recount_names())
    if name is not None and name not in known:
        raise UsageError(f"{where}: no measure {name!r}{did_you_mean(name, known)}; docs/evaluation.md lists them")
    return name


def _settings_of(record: Any, where: str) -> dict[str, Any]:
    settings = mapping_of(record, where, "settings by name")
    names = [f.name for f in fields(GenerationSettings)]
    check_keys(settings, [*names, BATCH_SIZE], where)
    return dict(settings)


def read_settings(record: Any, where: str) -> dict[str, Any]:
    """Read settings of answering by name, in which a batch size is none.

    Raises:
        UsageError: one is unknown, or its value cannot be used.
    """
    settings = _settings_of(record, where)
    if BATCH_SIZE in settings:
        raise UsageError(f"{where}: {BATCH_SIZE} is the suite's")
    _generation(where, settings)
    return settings


def _generation(where: str, values: Mapping[str, Any]) -> GenerationSettings:
    defaults, plain = GenerationSettings(), dict(values)
    wanted = plain.pop("filter", None)
    for key, value in plain.items():
        default = getattr(defaults, key)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        fits = isinstance(value, bool) if isinstance(default, bool) else number or (value is None and default is None)
        if not fits or (isinstance(default, int) and isinstance(value, float)):
            expected = "true or false" if isinstance(default, bool) else "a number"
            raise UsageError(f"{where}: generation.{key} is {value!r}; expected {expected}")
    try:
        return GenerationSettings(**plain, filter=None if wanted is None else Filter.parse(wanted))
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def _text(record: Mapping[str, Any], key: str, where: str) -> str | None:
    value = record.get(key)
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise UsageError(f"{where}: {key!r} is {value!r}; expected text")
    return value
