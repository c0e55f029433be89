"""Settings in YAML: recipes with values given on the command line, suites, experiments; and keys of a server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from cosup.errors import CosupError
from cosup.evaluation.suites import load_suite
from cosup.experiments.plan import load_experiment
from cosup.index.filters import Filter
from cosup.serving.settings import read_keys
from cosup.training.recipe import load_recipe
from tests.fuzz.damage import as_json, cases
from tests.fuzz.readers import write
from tests.fuzz.running import Run, Target

RECIPE = {
    "generator": "models/g",
    "embedder": "models/e",
    "adapters": {"r": 8, "alpha": 16, "dropout": 0.1, "target_modules": ["q_proj"]},
    "supervision": "ntp+nsp",
    "data": {
        "passages": ["p.jsonl", "more.jsonl"],
        "questions": "q.jsonl",
        "eval_questions": "d.jsonl",
        "max_eval_examples": 9,
        "template": "claims",
        "prompt": "{question}",
        "max_length": 512,
        "streaming": False,
    },
    "objective": {"preset": "default", "temperature": 0.05, "nsp_weight": "5e-1", "mask_same_passage": True},
    "training": {
        "output_dir": "runs/x",
        "num_train_epochs": 3,
        "learning_rate": 2.0e-4,
        "eval_strategy": "steps",
        "save_strategy": "no",
        "save_total_limit": 1,
        "report_to": "none",
        "use_cpu": True,
        "seed": 2,
    },
}
SUITE = {
    "model": "runs/m",
    "output": "runs/s",
    "retriever": {"name": "models/m", "query_text": "text", "query_prompt": "q: "},
    "generation": {"max_new_tokens": 16, "batch_size": 4, "do_sample": True, "temperature": 0.7, "min_score": None},
    "tasks": {
        "one": {
            "passages": ["a", "b"],
            "questions": "q",
            "limit": 5,
            "pool": 9,
            "correctness": "contains_answer",
            "retrieval": "passage_f1",
            "citation": "citation_recall",
            "group": "in",
            "generation": {"ret_first": True},
        },
        "two": {"passages": "a", "questions": "q", "predictions": "p"},
    },
}
PLAIN_SUITE = {"tasks": {"one": {"passages": "a", "questions": "q", "correctness": "contains_answer"}}}
EXPERIMENT = {
    "output": "runs/e",
    "store": "runs/store",
    "recipe": "r.yaml",
    "suite": "SUITE",
    "seeds": [1, 2],
    "set": {"training.max_steps": 8, "learning_rate": 0.1},
    "limit": 3,
    "pool": 5,
    "models": {"small": {"from": "models/g", "layers": 2, "random": True}},
    "axes": {"objective.temperature": [0.02, 0.05], "nsp_weight": [1]},
    "geometry": {"passages": "p", "questions": "q", "limit": 2, "every": 5},
    "systems": {
        "a": {"name": "A", "set": {"supervision": "ntp"}, "retriever": {"train": {"supervision": "nsp"}}},
        "b": {"retriever": "bm25", "generation": {"ret_first": True}, "seeds": [1]},
    },
    "compare": [["a", "b"]],
    "scales": {"cpu": {"seeds": [1], "limit": 1, "set": {"training.max_steps": 2}, "systems": ["a", "b"]}},
}


def as_yaml(value: Any) -> bytes:
    """Return a value as YAML, as people write it."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=False).encode("utf-8", "surrogatepass")


def _recipe(folder: Path) -> Run:
    path = folder / "recipe.yaml"

    def run(data: bytes) -> None:
        write(path, data)
        recipe = load_recipe(path)
        recipe.config(output_dir=str(folder / "run"))

    return run


def _override(folder: Path) -> Run:
    """A key and a value of a command line, parted by the first line end."""
    path = folder / "recipe.yaml"
    write(path, as_yaml(RECIPE))

    def run(data: bytes) -> None:
        key, _, value = data.decode("utf-8", "replace").partition("\n")
        load_recipe(path, [(key, value)]).config(output_dir=str(folder / "run"))

    return run


def _suite(folder: Path) -> Run:
    path = folder / "suite.yaml"

    def run(data: bytes) -> None:
        write(path, data)
        suite = load_suite(path)
        assert all("/" not in task.name and task.name not in (".", "..") for task in suite.tasks)

    return run


def _experiment(scale: str | None) -> Callable[[Path], Run]:
    def prepare(folder: Path) -> Run:
        path, suite = folder / "experiment.yaml", folder / "suite.yaml"
        write(suite, as_yaml(PLAIN_SUITE))

        def run(data: bytes) -> None:
            write(path, data.replace(b"SUITE", str(suite).encode()))
            experiment = load_experiment(path, scale)
            for system, _ in experiment.runs():
                assert "/" not in system.key
                system.within(experiment.suite)
            _ = experiment.model_folders

        return run

    return prepare


def _filter(_: Path) -> Run:
    metadata = {"lang": "en", "year": 2000, "old": True, "x": 0.5}

    def run(data: bytes) -> None:
        try:
            record = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise CosupError("no JSON") from error
        where = Filter.parse(record)
        assert where.holds(metadata) in (True, False)
        assert hash(where) == hash(Filter.parse(record))

    return run


def _keys(folder: Path) -> Run:
    path = folder / "keys"

    def run(data: bytes) -> None:
        write(path, data)
        assert all(key and key.isascii() and not key.startswith("#") for key in read_keys(None, path))

    return run


FILTER = {"lang": ["en", "de"], "year": {"gte": 2000, "lt": 2010, "ne": 2005}, "old": True, "x": 0.5}
OVERRIDES = (
    b"training.learning_rate\n1e-3",
    b"passages\n[a, b]",
    b"adapters.r\n4",
    b"data.max-length\n300",
    b"seed\n3",
)
NAMES = st.sampled_from(
    [
        "learning_rate",
        "data.passages",
        "adapters.r",
        "objective.preset",
        "generator",
        "supervision",
        "max_steps",
        "optim",
    ]
)
VALUES = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["2024-13-45", "[" * 3000, "&a [*a]", "{a: &x {b: *x}}", "null", "1e400", "0x", "9" * 5000, "<<: 3"]
    ),
)
PAIRS = st.builds(lambda name, value: f"{name}\n{value}".encode("utf-8", "surrogatepass"), NAMES, VALUES)

YAMLS = (
    Target("recipe", _recipe, cases([as_yaml(RECIPE)], RECIPE, as_yaml), (as_yaml(RECIPE),)),
    Target("recipe-override", _override, st.one_of(cases(OVERRIDES), PAIRS), OVERRIDES),
    Target("suite", _suite, cases([as_yaml(SUITE)], SUITE, as_yaml), (as_yaml(SUITE),)),
    Target("experiment", _experiment(None), cases([as_yaml(EXPERIMENT)], EXPERIMENT, as_yaml), (as_yaml(EXPERIMENT),)),
    Target(
        "experiment-scale",
        _experiment("cpu"),
        cases([as_yaml(EXPERIMENT)], EXPERIMENT, as_yaml),
        (as_yaml(EXPERIMENT),),
    ),
    Target("filter", _filter, cases([as_json(FILTER)], FILTER), (as_json(FILTER),)),
    Target("api-keys", _keys, cases([b"# ours\nabc\ndef\n"]), (b"# ours\nabc\ndef\n",)),
)
