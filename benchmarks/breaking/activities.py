"""What is broken into: commands that write, each with what its result comes to."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from breaking.world import World

CHANGES = ("--replace", "--add", "--delete", "--compact")


@dataclass(frozen=True)
class Activity:
    """A command that writes into a folder of its own.

    Attributes:
        does: what it does, for a record.
        words: the command line, given the world, the folder and the number of the trial.
        result: what its result comes to, as JSON: the same for every run to the end. Runs in a fork.
        begin: what lies in the folder before.
        inputs: files that it reads, by their names in the world.
        kinds: how many command lines take turns.
        over: parts of a refusal that means that the work of a killed command was done already.
    """

    does: str
    words: Callable[[World, Path, int], list[str]]
    result: Callable[[str], Any]
    inputs: Sequence[str]
    begin: Callable[[World, Path], None] | None = None
    kinds: int = 1
    over: Sequence[str] = field(default=())


def _train(world: World, folder: Path, _: int) -> list[str]:
    return ["train", world.recipe_yaml, "--output_dir", str(folder / "run")]


def _trained(folder: str) -> dict[str, Any]:
    """Weights bit for bit, and every logged loss."""
    run = Path(folder) / "run"
    log = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["log"]
    weights = {str(p.relative_to(run)): _digest(p) for p in sorted((run / "model").rglob("*.safetensors"))}
    return {"weights": weights, "losses": [entry["loss"] for entry in log if "loss" in entry]}


def _index(world: World, folder: Path, _: int) -> list[str]:
    paths = ["--model", world.model, "--passages", world.corpus_jsonl, "--output", str(folder / "index")]
    return ["index", *paths, "--dtype", "float32"]


def _change(world: World, folder: Path, number: int) -> list[str]:
    change = CHANGES[number % len(CHANGES)]
    words = ["index", "--output", str(folder / "index"), change]
    if change == "--compact":
        return words
    if change == "--delete":
        return [*words, world.gone_txt]
    passages = world.changed_jsonl if change == "--replace" else world.new_jsonl
    return [*words, "--model", world.model, "--passages", passages, "--dtype", "float32"]


def _indexed(folder: str) -> dict[str, Any]:
    """Every passage in its order, and every vector bit for bit."""
    import numpy as np

    from cosup.index.faiss_index import FaissIndex
    from cosup.index.segment import vectors_of

    index = FaissIndex.load(Path(folder) / "index", None)
    passages = json.dumps([passage.to_dict() for passage in index])
    vectors = hashlib.sha256()
    for block in vectors_of(index._segments):
        vectors.update(np.ascontiguousarray(block).tobytes())
    return {"count": len(index), "passages": _hash(passages.encode()), "vectors": vectors.hexdigest()}


def _experiment(_: World, folder: Path, __: int) -> list[str]:
    return ["experiment", str(folder / "experiment.yaml"), "--dtype", "float32"]


def _own_experiment(world: World, folder: Path) -> None:
    """Write the experiment with its results in the folder."""
    import yaml

    record = yaml.safe_load(Path(world.experiment_yaml).read_text(encoding="utf-8"))
    record["output"] = str(folder / "results")
    (folder / "experiment.yaml").write_text(yaml.safe_dump(record, sort_keys=False), encoding="utf-8")


def _compared(folder: str) -> dict[str, Any]:
    """The tables of the experiment, without times."""
    main = json.loads((Path(folder) / "results" / "main.json").read_text(encoding="utf-8"))
    return {name: part for name, part in main.items() if name != "settings"}


def _evaluate(world: World, folder: Path, _: int) -> list[str]:
    files = {"predictions": world.predictions_jsonl, "questions": world.questions_jsonl}
    files |= {"passages": world.passages_jsonl, "output": str(folder / "report")}
    return ["evaluate", *(word for name, file in files.items() for word in (f"--{name}", file))]


def _reported(folder: str) -> dict[str, str]:
    return {p.name: _digest(p) for p in sorted((Path(folder) / "report").iterdir()) if not p.name.startswith(".")}


def _generate(world: World, folder: Path, _: int) -> list[str]:
    places = ["--model", world.model, "--index", world.index, "--questions", world.questions_jsonl]
    own = ["--max-new-tokens", "12", "--batch-size", "4", "--dtype", "float32"]
    return ["generate", *places, "--output", str(folder / "predictions.jsonl"), *own]


def _generated(folder: str) -> str:
    return _digest(Path(folder) / "predictions.jsonl")


def _old_index(world: World, folder: Path) -> None:
    shutil.copytree(world.index, folder / "index")


def _digest(path: Path) -> str:
    return _hash(path.read_bytes())


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


ACTIVITIES: Mapping[str, Activity] = {
    "train": Activity("training", _train, _trained, ("recipe.yaml", "corpus.jsonl", "learnt.jsonl", "base")),
    "index": Activity("embedding a corpus", _index, _indexed, ("corpus.jsonl", "model")),
    "change": Activity(
        "a live update (replace, add, delete, compact)",
        _change,
        _indexed,
        ("changed.jsonl", "new.jsonl", "gone.txt"),
        _old_index,
        kinds=len(CHANGES),
        over=("has a passage 'new-0' already", "no passage "),
    ),
    "experiment": Activity(
        "a sweep (experiment)", _experiment, _compared, ("questions.jsonl", "suite.yaml"), _own_experiment
    ),
    "evaluate": Activity(
        "writing a report", _evaluate, _reported, ("predictions.jsonl", "questions.jsonl", "passages.jsonl")
    ),
    "generate": Activity("answering a file", _generate, _generated, ("questions.jsonl", "model", "index")),
}
