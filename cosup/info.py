"""What a path holds, in a few lines: `cosup info PATH`. Weights are never loaded; data files are read whole."""

from __future__ import annotations

import json
import math
import re
import statistics
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosup.data.folders import TEXT_SUFFIXES
from cosup.data.jsonl import iter_jsonl
from cosup.data.reading import read_answers, read_examples, read_passages, read_questions
from cosup.errors import InputError, UsageError, did_you_mean
from cosup.index.milvus_place import is_milvus_place
from cosup.records import Answer, Example, Passage, Question

if TYPE_CHECKING:
    from cosup.index.manifest import IndexManifest, StructureRecord
    from cosup.training.recipe import Recipe


@dataclass(frozen=True)
class Info:
    """What a path holds.

    Attributes:
        kind: what it is, in words.
        rows: pairs of a name and a value.
    """

    kind: str
    rows: tuple[tuple[str, str], ...]

    @property
    def lines(self) -> list[str]:
        """The rows under a head, names in one column."""
        width = max((len(name) for name, _ in self.rows), default=0)
        return [self.kind, *(f"  {name:<{width}}  {value}".rstrip() for name, value in self.rows)]


Rows = list[tuple[str, str]]
RECIPE_SUFFIXES = (".yaml", ".yml")
_OPTIONS = ("verify", "devices", "examples")
_ADDRESS = re.compile(r"(measured|trained)/[0-9a-f]{16}")  # folders of an experiment
_SAMPLE = 1000  # passages of an index in Milvus that are looked at


def describe(
    path: str | Path,
    devices: int | None = None,
    examples: int | None = None,
    verify: bool = False,
    overrides: Sequence[tuple[str, str]] = (),
) -> Info:
    """Say what a path holds.

    Args:
        path: a model, index, run or data folder, an index in Milvus, a recipe, a report, or a file of passages,
            questions, examples or predictions.
        devices: of a recipe: for how many devices its memory and steps are worked out; None for one.
        examples: of a recipe: how many training examples there are; None counts them.
        verify: the path must be an index; compare every file with its checksum, however large. Nothing of Milvus's.
        overrides: of a recipe: see `load_recipe`.

    Raises:
        InputError: nothing is there, it is nothing that cosup knows, or it is wrong or damaged.
        UsageError: a recipe cannot be used; `devices`, `examples` or `overrides` are given for what is no recipe.
    """
    path = Path(path)
    in_milvus = is_milvus_place(path)
    if not in_milvus and not path.exists():
        raise InputError("no such file or folder", path)
    if verify and not in_milvus:
        return index_info(path, verify)
    if path.is_file() and path.suffix.lower() in RECIPE_SUFFIXES:
        return recipe_info(path, devices or 1, examples, overrides)
    if overrides:
        name = overrides[0][0]
        raise UsageError(f"no such option: --{name}{did_you_mean(name, _OPTIONS)}; {path} is no recipe")
    if devices is not None or examples is not None:
        raise UsageError(f"--devices and --examples go with a recipe; {path} is none")
    if in_milvus:
        return milvus_info(path)
    return _folder(path) if path.is_dir() else _file(path)


def _folder(path: Path) -> Info:
    kinds: tuple[tuple[str, Callable[[Path], Info]], ...] = (
        ("cosup.json", model_info),
        ("index.json", index_info),
        ("recipe.yaml", run_info),
        ("main.json", experiment_info),
        ("suite.json", suite_info),
        ("report.json", results_info),
        ("config.json", checkpoint_info),
    )
    for name, read in kinds:
        if (path / name).is_file():
            return read(path)
    if any(path.glob("questions*.jsonl")) or any(path.glob("examples*.jsonl")):
        return data_info(path)
    if any(_ADDRESS.fullmatch(p.relative_to(path).as_posix()) for p in path.glob("*ed/*")):
        return Info("experiment", (("state", "begun; nothing is measured yet"),))
    if not _has_passages(path):
        raise InputError(f"nothing here that cosup knows{_near_folder(path, tuple(name for name, _ in kinds))}", path)
    return passages_info(read_passages(path), "passages, read from a folder")


def _has_passages(folder: Path) -> bool:
    names = ("passages.jsonl", "corpus.jsonl", "dataset_info.json", "dataset_dict.json")
    if any((folder / name).is_file() for name in names):
        return True
    return any(file.suffix.lower() in TEXT_SUFFIXES for file in folder.rglob("*"))


def _near_folder(folder: Path, known: Sequence[str]) -> str:
    """Say what an unknown folder is near to, and what to give instead."""
    inside = [p for p in sorted(folder.iterdir()) if p.is_dir() and any((p / name).is_file() for name in known)]
    if inside:
        shown = ", ".join(str(p) for p in inside[:4])
        return f"; its folders are known: give {shown}{', ..' if len(inside) > 4 else ''}"
    files = sorted(p.name for p in folder.iterdir() if p.is_file())
    if any(name.endswith((".safetensors", ".gguf", ".bin")) for name in files):
        return "; it has weights and no config.json, which a model folder needs"
    readable = [
        name for name in files if Path(name).suffix.lower() in (*RECIPE_SUFFIXES, ".json", ".jsonl", ".parquet")
    ]
    if readable:
        return f"; give one of its files: {', '.join(readable[:4])}{', ..' if len(readable) > 4 else ''}"
    return "; expected a model, index, run or data folder, or Markdown and text files"


def _file(path: Path) -> Info:
    if path.suffix.lower() == ".json":
        return Info("evaluation report", tuple(_report_rows(path)))
    if path.suffix.lower() == ".jsonl":
        return jsonl_info(path)
    return passages_info(read_passages(path), "passages")


# -- models ------------------------------------------------------------------------------------------------------


def model_info(folder: Path) -> Info:
    """Describe a model folder."""
    from cosup.model_folder import read_model_record, settings_of

    record = read_model_record(folder)
    rows: Rows = []
    for part in ("generator", "embedder"):
        rows.append((part, _architecture(folder / part)))
    names = ("similarity", "temperature", "template", "prompt", "max_length", "max_passage_length", "pooling", "query")
    own = settings_of(record)
    rows += [(name, _value(getattr(own, name))) for name in names]
    rows += [("embedder fingerprint", str(record["embedder_fingerprint"]))]
    rows += [("made by", f"cosup {record.get('cosup_version', '(unknown version)')}")]
    return Info("model folder", tuple(rows))


def checkpoint_info(folder: Path) -> Info:
    """Describe a plain model of other tools, to train from."""
    return Info("language model (not yet a cosup pair)", (("model", _architecture(folder)),))


def _architecture(folder: Path) -> str:
    config = _json(folder / "config.json")
    names = ("num_hidden_layers", "hidden_size", "vocab_size")
    layers, width, words = (config.get(name, "?") for name in names)
    shape = f"{layers} layers x {width}, vocabulary {words}"
    return f"{config.get('model_type', 'unknown type')}, {_parameters(folder)}, {shape}"


def _parameters(folder: Path) -> str:
    shapes = [shape for file in sorted(folder.rglob("*.safetensors")) for shape in _shapes(file)]
    return f"{sum(map(math.prod, shapes)):,} parameters" if shapes else "no safetensors weights"


def _shapes(file: Path) -> list[list[int]]:
    """Read the shapes of all tensors from the head of a safetensors file."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > file.stat().st_size:
                raise ValueError("the head is longer than the file")
            head = json.loads(stream.read(length))
    except (struct.error, ValueError) as error:
        raise InputError("damaged: not a safetensors file", file) from error
    return [tensor["shape"] for name, tensor in head.items() if name != "__metadata__"]


# -- index, run, recipe, results -----------------------------------------------------------------------------------


def index_info(folder: Path, verify: bool = False) -> Info:
    """Describe an index folder; compare its files with their checksums where they are small, or `verify` is set."""
    from cosup.index.manifest import VERIFIED_ON_LOAD, IndexManifest

    manifest = IndexManifest.read(folder)
    manifest.check_sizes(folder)
    if verify or manifest.size <= VERIFIED_ON_LOAD:
        checked = f"verified, {manifest.verify(folder)} files"
    else:
        checked = "of sizes alone; --verify compares every byte"
    rows = [
        *index_rows(manifest),
        ("dimension", f"{manifest.dimension:,}, {manifest.vector_dtype}"),
        ("similarity", manifest.similarity),
        ("size", f"{manifest.size / 1e6:,.1f} MB"),
        ("embedder fingerprint", manifest.embedder_fingerprint),
        ("checksums", checked),
        ("made by", f"cosup {manifest.cosup_version}"),
    ]
    return Info("index folder", tuple(rows))


def milvus_info(place: Path) -> Info:
    """Describe an index in Milvus; see `cosup.index.milvus_place` for what names one."""
    from cosup.index.milvus_index import MilvusIndex

    index = MilvusIndex.load(place, None)
    state, sample = index.state, index.some(_SAMPLE)
    parameters = ", ".join(f"{name} {value}" for name, value in state.search.build.items())
    fields = ", ".join(sorted({key for passage in sample for key in passage.metadata})) or "none"
    rows = (
        ("type", f"{state.search.type} ({parameters})" if parameters else state.search.type),
        ("passages", f"{len(index):,}"),
        ("dimension", f"{index.dimension:,}, float32"),
        ("similarity", state.similarity),
        ("metadata fields", f"{fields} (of {len(sample):,} passages looked at)"),
        ("embedder fingerprint", index.embedder_fingerprint),
        ("checksums", "Milvus keeps its own; --verify compares nothing here"),
        ("made by", f"cosup {state.cosup_version}"),
    )
    return Info("index in Milvus", rows)


def index_rows(manifest: IndexManifest) -> Rows:
    """Return what an index is and how well it finds."""
    rows: Rows = [("type", f"{manifest.type} ({manifest.reason})"), ("passages", f"{manifest.count:,}")]
    rows.append(("segments", f"{len(manifest.segments)}, {manifest.deleted:,} deleted passages in them"))
    return rows + [("recall@10", _recall(s.structure, s.count)) for s in manifest.segments if s.structure is not None]


def _recall(found: StructureRecord, count: int) -> str:
    effort = "efSearch" if found.type == "hnsw" else "nprobe"
    return (
        f"{found.recall:.3f} against exact ({found.queries} queries: {found.measured_on}); {effort} {found.effort}, "
        f"{found.refine}x compared again, {count:,} passages"
    )


def run_info(folder: Path) -> Info:
    """Describe a run folder: its recipe, how far it is, its newest figures."""
    from cosup.training.run_folder import is_finished
    from cosup.training.saving import last_complete_checkpoint

    _, rows = _read_recipe(folder / "recipe.yaml")
    checkpoint = last_complete_checkpoint(folder)
    if is_finished(folder):
        state = f"finished: {folder / 'model'}"
    elif checkpoint is not None:
        state = f"stopped after {checkpoint.name}; run its recipe again to go on"
    else:
        state = "begun; no checkpoint yet"
    return Info("run folder", (("state", state), *run_figures(folder, checkpoint), *rows))


def run_figures(folder: Path, checkpoint: Path | None = None) -> Rows:
    """Return the figures of a finished run, or the newest ones that a checkpoint has."""
    if (folder / "metrics.json").is_file():
        return [(name, _value(value)) for name, value in _json(folder / "metrics.json").get("metrics", {}).items()]
    if checkpoint is None:
        return []
    newest: dict[str, Any] = {}
    for entry in _json(checkpoint / "trainer_state.json").get("log_history", []):
        newest |= entry
    return [(name, _value(value)) for name, value in newest.items()]


def recipe_info(
    path: Path, devices: int = 1, examples: int | None = None, overrides: Sequence[tuple[str, str]] = ()
) -> Info:
    """Describe a recipe and what it will need; every key and value of it is checked.

    Args:
        path: the recipe.
        devices: number of devices to train on.
        examples: number of training examples; None counts them in the recipe's files.
        overrides: see `load_recipe`.
    """
    from cosup.training.plan import plan

    recipe, rows = _read_recipe(path, overrides)
    return Info("recipe", (*rows, *plan(recipe, devices, examples).rows))


def _read_recipe(path: Path, overrides: Sequence[tuple[str, str]] = ()) -> tuple[Recipe, Rows]:
    """Read and check a recipe; return it and what it says."""
    from cosup.training.recipe import load_recipe

    recipe = load_recipe(path, overrides)
    recipe.config()
    rows = [("generator", recipe.generator), ("embedder", recipe.embedder), ("supervision", recipe.supervision)]
    if recipe.source.get("adapters") is not None:
        rows.append(("adapters", _value(recipe.source["adapters"])))
    for part in ("data", "objective", "training"):
        rows += [(f"{part}.{name}", _value(value)) for name, value in (recipe.source.get(part) or {}).items()]
    return recipe, rows


def results_info(folder: Path) -> Info:
    """Describe a folder with a report."""
    parts = [(name, "there") for name in ("model", "index") if (folder / name).is_dir()]
    return Info("results folder", (*parts, *_report_rows(folder / "report.json")))


def experiment_info(folder: Path) -> Info:
    """Describe the output folder of an experiment: what it compares, and each system's averages so far."""
    record = _json(folder / "main.json")
    settings, systems = _part(record, "settings", folder / "main.json"), _part(record, "systems", folder / "main.json")
    names = ("experiment", "scale")
    rows = [(name, _value(settings[name])) for name in names if settings.get(name) is not None]
    rows.append(("tasks", _value(list(settings.get("limit", {})))))
    rows.append(("runs", f"{len(settings.get('runs', []))} measured"))
    rows += [(f"system {key}", _system(own)) for key, own in systems.items()]
    return Info("experiment, averages over its tasks in percent", (*rows, ("tables", str(folder / "main.md"))))


def suite_info(folder: Path) -> Info:
    """Describe the output folder of a suite: its tasks and their averages."""
    record = _json(folder / "suite.json")
    settings, tasks = _part(record, "settings", folder / "suite.json"), _part(record, "tasks", folder / "suite.json")
    rows = [(name, _value(value)) for name, value in settings.items()]
    rows.append(("tasks", _value([f"{name} ({task['count']:,})" for name, task in tasks.items()])))
    rows += [(name, _percents(sides)) for name, sides in _part(record, "averages", folder / "suite.json").items()]
    return Info("suite, averages over its tasks in percent", (*rows, ("table", str(folder / "suite.md"))))


def _part(record: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    found = record.get(name)
    if isinstance(found, Mapping):
        return found
    raise InputError(f"no '{name}'; expected what 'cosup experiment' or 'cosup evaluate --suite' writes", path)


def _system(own: Mapping[str, Any]) -> str:
    seeds = _value(own.get("seeds", []))
    return f"{own.get('name')} (seed{'s' if ',' in seeds else ''} {seeds}): {_percents(own.get('average', {}))}"


def _percents(figures: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {'-' if value is None else format(value, '.1f')}" for name, value in figures.items())


def _report_rows(path: Path) -> Rows:
    report = _report(path)
    metrics, settings = report.get("metrics"), report.get("settings", {})
    if not isinstance(metrics, dict) or not isinstance(settings, dict) or "count" not in report:
        missing = "no 'metrics', 'count' and 'settings'; expected a report of 'cosup evaluate'"
        raise InputError(missing + _near_json(path, report), path)
    wrong = next((name for name, value in metrics.items() if not isinstance(value, int | float)), None)
    if wrong is not None:
        raise InputError(f"metrics.{wrong} is {metrics[wrong]!r}; expected a number", path)
    rows = [("questions", _value(report["count"]))]
    rows += [(name, f"{value:.1f}") for name, value in metrics.items()]
    return rows + [(f"settings.{name}", _value(value)) for name, value in settings.items()]


def _report(path: Path) -> dict[str, Any]:
    from cosup.data.jsonl import read_json

    record = read_json(path)
    if isinstance(record, dict):
        return record
    raise InputError("found no JSON object; expected a report of 'cosup evaluate'" + _near_json(path, record), path)


def _near_json(path: Path, record: Any) -> str:
    """Say what a JSON file that is no report is near to, and what to do with it."""
    parts = {
        "cosup.json": "a model folder",
        "index.json": "an index folder",
        "config.json": "a model folder",
        "tokenizer.json": "a model folder",
        "tokenizer_config.json": "a model folder",
        "trainer_state.json": "a checkpoint",
        "metrics.json": "a run folder",
        "main.json": "an experiment's folder",
        "suite.json": "a suite's folder",
    }
    if path.name in parts:
        return f"; this is a part of {parts[path.name]}: give {path.parent}"
    first = record[0] if isinstance(record, list) and record else record
    fields = set(first) if isinstance(first, dict) else set()
    if "data" in fields and isinstance(first["data"], list):
        return f"; it looks like SQuAD: cosup convert squad {path} OUT"
    if "supporting_facts" in fields:
        return f"; it looks like HotpotQA: cosup convert hotpotqa {path} OUT"
    if isinstance(record, list) and {"text", "question", "prompt"} & fields:
        return "; it looks like data in one list: cosup reads JSONL, one object a line"
    if "model_type" in fields:
        return "; it looks like a model's configuration: give the model's folder"
    return ""


# -- data ----------------------------------------------------------------------------------------------------------


def data_info(folder: Path) -> Info:
    """Describe a folder with passages, questions, examples or predictions in cosup's own form."""
    rows: Rows = []
    for file in sorted(folder.glob("*.jsonl")):
        info = jsonl_info(file)
        rows += [(file.name, info.kind), *((f"  {name}", value) for name, value in info.rows)]
    return Info("data folder", tuple(rows))


def jsonl_info(path: Path) -> Info:
    """Describe a JSONL file of passages, questions, examples or predictions, by the fields of its first record."""
    first = next((record for _, record in iter_jsonl(path)), None)
    if first is None:
        raise InputError("found no records; expected at least one line", path)
    if "scores" in first and "gold_ids" in first:
        return scores_info([record for _, record in iter_jsonl(path)])
    if "prompt" in first and "output" in first:
        return examples_info(read_examples(path))
    if "text" in first and not {"segments", "citations", "retrievals", "answer"}.isdisjoint(first):
        return answers_info(read_answers(path))
    if "question" in first:
        return questions_info(read_questions(path))
    if "text" in first:
        return passages_info(read_passages(path), "passages")
    found = ", ".join(map(repr, first)) or "no field"
    raise InputError(f"found {found}; expected passages, questions, examples or predictions", path, 1)


def passages_info(passages: Sequence[Passage], kind: str) -> Info:
    """Describe a corpus."""
    rows = [
        ("passages", f"{len(passages):,}"),
        ("with a title", _share(sum(bool(p.title) for p in passages), len(passages))),
        ("words", _spread([len(p.text.split()) for p in passages])),
        ("distinct texts", f"{len({p.rendered for p in passages}):,}"),
    ]
    return Info(kind, tuple(rows))


def questions_info(questions: Sequence[Question]) -> Info:
    """Describe questions."""
    total = len(questions)
    sentences = sum(bool(q.evidence) and all(e.sentence for e in q.evidence) for q in questions)
    rows = [
        ("questions", f"{total:,}"),
        ("words", _spread([len(q.question.split()) for q in questions])),
        ("with answers", _share(sum(bool(q.answers) for q in questions), total)),
        ("with a long answer", _share(sum(q.long_answer is not None for q in questions), total)),
        ("with evidence", _share(sum(bool(q.evidence) for q in questions), total)),
        ("with all evidence sentences", _share(sentences, total)),
        ("with two or more gold passages", _share(sum(len(q.gold_ids) > 1 for q in questions), total)),
        ("with candidates", _share(sum(q.candidates is not None for q in questions), total)),
    ]
    return Info("questions", tuple(rows))


def examples_info(examples: Sequence[Example]) -> Info:
    """Describe training examples."""
    rows = [
        ("examples", f"{len(examples):,}"),
        ("words of a prompt", _spread([len(e.prompt.split()) for e in examples])),
        ("retrievals an example", _spread([len(e.passage_ids) for e in examples])),
        ("with negatives", _share(sum(bool(e.negatives) for e in examples), len(examples))),
    ]
    return Info("training examples", tuple(rows))


def answers_info(answers: Sequence[Answer]) -> Info:
    """Describe predictions."""
    ends = Counter(answer.finish_reason for answer in answers)
    rows = [
        ("predictions", f"{len(answers):,}"),
        ("words", _spread([len(a.text.split()) for a in answers])),
        ("retrievals an answer", _spread([len(a.retrievals) for a in answers])),
        ("citations an answer", _spread([len(a.citations) for a in answers])),
        ("finished by", ", ".join(f"{reason} {count:,}" for reason, count in ends.most_common())),
    ]
    return Info("predictions", tuple(rows))


def scores_info(records: Sequence[Mapping[str, Any]]) -> Info:
    """Describe the scores by question that `cosup evaluate` writes."""
    missing = sum(record.get("missing") is True for record in records)
    rows = [("questions", f"{len(records):,}"), ("without a prediction", _share(missing, len(records)))]
    return Info("scores by question", tuple(rows))


def _spread(values: Sequence[int]) -> str:
    return f"{min(values):,} to {max(values):,}, mean {statistics.fmean(values):.1f}, {sum(values):,} in all"


def _share(count: int, total: int) -> str:
    return f"{count:,} ({100 * count / total:.1f}%)"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return value.encode("unicode_escape").decode("ascii") if isinstance(value, str) and "\n" in value else str(value)


def _json(path: Path) -> dict[str, Any]:
    from cosup.data.jsonl import read_json

    record = read_json(path)
    if not isinstance(record, dict):
        raise InputError("expected a JSON object", path)
    return record
