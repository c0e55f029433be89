"""What an experiment's file may say: what is wrong is refused before anything runs, and ours can be planned."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from cosup.errors import UsageError
from cosup.experiments.plan import load_experiment
from cosup.experiments.run import steps_of
from cosup.training.config import PRESETS
from tests.commands import Cosup
from tests.experiments.small import experiment
from tests.pairs import TinyWorld

ANALYSES = Path(__file__).parents[2] / "recipes" / "experiments" / "analyses"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"systems": {}}, "'systems' has no system"),
        ({"system": {}}, "no key 'system' (did you mean 'systems'?)"),
        ({"systems": {"../x": None}}, "systems.../x: expected letters"),
        ({"systems": {"x": {"sets": {}}}}, "no key 'sets' (did you mean 'set'?)"),
        ({"systems": {"x": {"set": {"supervison": "ntp"}}}, "compare": []}, "did you mean 'supervision'"),
        ({"systems": {"x": {"set": {"supervision": "ntpp"}}}, "compare": []}, "experiment.yaml: system 'x': "),
        ({"systems": {"x": {"generation": {"ret_frist": True}}}, "compare": []}, "did you mean 'ret_first'"),
        ({"systems": {"x": {"generation": {"top_p": 2}}}, "compare": []}, "systems.x.generation: top_p is 2"),
        ({"systems": {"x": {"generation": {"batch_size": 2}}}, "compare": []}, "batch_size is the suite's"),
        ({"compare": 5}, "'compare' is 5; expected a list"),
        ({"set": {"training.seed": 3}}, "training.seed is the experiment's own; name them in 'seeds'"),
        ({"axes": {"output_dir": ["x"]}}, "output_dir is the experiment's own"),
        ({"set": {"data.max_length": date(2024, 1, 1)}}, "data.max_length is"),
        ({"systems": {"x": {"seeds": 1}}, "compare": []}, "systems.x.seeds is 1"),
        ({"compare": [["both"]]}, "'compare' has ['both']; expected two systems"),
        ({"compare": [["both", "word"]]}, "no system 'word' (did you mean 'words'?)"),
        ({"seeds": [1.5]}, "'seeds' is [1.5]"),
        ({"limit": 0}, "'limit' is 0"),
        ({"pool": -1}, "'pool' is -1"),
        ({"axes": {"objective.temperature": 0.1}}, "axes.objective.temperature is 0.1; expected a list"),
        ({"axes": {"objective.temperature": [0.1, 0.1]}}, "two systems are named 'words-temperature-0.1'"),
        ({"geometry": {"passages": "p"}}, "geometry.questions is None; expected a path"),
        ({"suite": None}, "'suite' is None; expected a path"),
        ({"suite": "none.yaml"}, "none.yaml: no such suite; expected a YAML file"),
        ({"recipe": "none.yaml"}, "none.yaml: no such recipe"),
        ({"scales": {"x": {"seed": 1}}}, "no key 'seed' (did you mean 'seeds'?)"),
    ],
)
def test_a_wrong_experiment_is_refused_before_anything_runs(
    changes: dict[str, Any], message: str, cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path
) -> None:
    assert message in cosup.refused("experiment", experiment(tiny_world, tmp_path, **changes))
    assert not (tmp_path / "results").exists()


def test_what_a_suite_cannot_say_here_is_refused(cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path) -> None:
    path = experiment(tiny_world, tmp_path)
    suite = yaml.safe_load((tmp_path / "suite.yaml").read_text(encoding="utf-8"))
    wrong = {"retriever": "bm25"}, {"tasks": {"one": suite["tasks"]["one"] | {"predictions": "p.jsonl"}}}
    for change, message in zip(wrong, ("'retriever' is of no use here", "tasks.one has predictions"), strict=True):
        (tmp_path / "suite.yaml").write_text(json.dumps(suite | change), encoding="utf-8")
        assert message in cosup.refused("experiment", path, "--plan")


def test_a_system_can_have_fewer_seeds(tiny_world: TinyWorld, tmp_path: Path) -> None:
    systems = {"one": {"seeds": [1]}, "all": None}
    found = load_experiment(experiment(tiny_world, tmp_path, systems=systems, seeds=[1, 2], compare=[], scales={}))
    assert [(system.key, seed) for system, seed in found.runs()] == [("one", 1), ("all", 1), ("all", 2)]


def test_models_along_an_axis_make_names_without_a_path(tiny_world: TinyWorld, tmp_path: Path) -> None:
    """The axis itself keeps them as they are."""
    changes = {"systems": {"one": None}, "axes": {"embedder": ["models/a b", "./c"]}, "compare": [], "scales": {}}
    found = load_experiment(experiment(tiny_world, tmp_path, **changes))
    assert [system.key for system in found.systems] == ["one-embedder-models_a_b", "one-embedder-._c"]
    assert [system.changes["embedder"] for system in found.systems] == ["models/a b", "./c"]


def test_a_file_that_is_missing_is_found_before_anything_is_trained(
    cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path
) -> None:
    path = experiment(tiny_world, tmp_path)
    suite = yaml.safe_load((tmp_path / "suite.yaml").read_text(encoding="utf-8"))
    suite["tasks"]["two"]["questions"] = str(tmp_path / "none.jsonl")
    (tmp_path / "suite.yaml").write_text(json.dumps(suite), encoding="utf-8")
    assert "none.jsonl: no such file" in cosup.refused("experiment", path)
    for retriever, message in (("separate:none", "none: "), (str(tmp_path), "cannot")):
        systems = {"x": {"retriever": retriever}}
        path = experiment(tiny_world, tmp_path, systems=systems, compare=[], scales={})
        assert message in cosup.refused("experiment", path)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("scale", [None, "cpu"])
def test_the_experiment_of_the_recipes_can_be_planned(scale: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The paper's preset and the recipe with its keys set are one and the same."""
    monkeypatch.chdir(Path(__file__).parents[2])
    found = load_experiment("recipes/experiments/main.yaml", scale)
    steps = steps_of(found)
    assert len(steps) == len(found.systems) * len(found.seeds)
    assert {task.limit for task in found.suite.tasks} == {300 if scale is None else 20}
    paper = next(step.writer for step in steps if step.system.key == "e")
    assert paper.objective.items() >= PRESETS["paper"].items()


@pytest.mark.parametrize("scale", [None, "cpu"])
@pytest.mark.parametrize("path", sorted(ANALYSES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_analysis_can_be_planned(path: Path, scale: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its systems differ in what they train, or in who retrieves for the trained."""
    monkeypatch.chdir(ANALYSES.parents[2])
    found = load_experiment(path, scale)
    steps = steps_of(found)
    assert len({step.address for step in steps}) == len(found.systems) * len(found.seeds) > 1
    assert str(found.output) == f"runs/experiments/{path.stem}" + ("" if scale is None else f"-{scale}")


@pytest.mark.parametrize("scale", [None, "cpu"])
def test_the_file_of_the_documents_can_be_loaded(
    scale: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = ANALYSES.parents[2]
    text = (root / "docs" / "experiments.md").read_text(encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(text.split("```yaml\n")[1].split("```")[0], encoding="utf-8")
    monkeypatch.chdir(root)
    found = load_experiment(tmp_path / "mine.yaml", scale)
    assert len(found.systems) == (10 if scale is None else 4)
    assert len(found.comparisons) == 2


def test_an_unknown_scale_is_named(tiny_world: TinyWorld, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no scale 'smal' \(did you mean 'small'\?\); there are: small"):
        load_experiment(experiment(tiny_world, tmp_path), "smal")
