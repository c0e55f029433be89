"""`cosup experiment` on small pairs: what is run, what is run again, and what the tables say."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import date
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from filelock import FileLock

from cosup.checkpoints import load_generator
from cosup.data.reading import read_answers
from cosup.errors import UsageError
from cosup.experimenting import axis_of
from cosup.experiments import geometry as geometry_module
from cosup.experiments import run as running
from cosup.experiments.addresses import folder_of
from cosup.experiments.plan import load_experiment
from cosup.experiments.provenance import address_of
from cosup.experiments.run import steps_of
from cosup.experiments.table import collect, compare, differences, main_record, markdown
from cosup.training.config import PRESETS
from tests.commands import Cosup
from tests.pairs import TinyWorld

ANALYSES = Path(__file__).parents[2] / "recipes" / "experiments" / "analyses"
MEASURES = {"retrieval": "passage_f1", "correctness": "contains_answer"}


def experiment(world: TinyWorld, folder: Path, **changes: Any) -> Path:
    """Write a recipe of two steps, a suite of two tasks and an experiment of three systems."""
    files = {"passages": str(world.passages), "questions": str(world.questions)}
    training = {"max_steps": 2, "per_device_train_batch_size": 2, "save_strategy": "no", "use_cpu": True}
    data = {**files, "max_length": 256, "max_passage_length": 96}
    recipe = {"generator": str(world.base), "embedder": str(world.base), "data": data, "training": training}
    tasks = {"one": {**files, **MEASURES, "limit": 3, "group": "all of it"}, "two": {**files, **MEASURES, "limit": 9}}
    suite = {"generation": {"max_new_tokens": 12}, "tasks": tasks}
    record: dict[str, Any] = {
        "output": str(folder / "results"),
        "recipe": str(folder / "recipe.yaml"),
        "suite": str(folder / "suite.yaml"),
        "seeds": [1],
        "limit": 4,
        "systems": {
            "words": {"name": "NTP + BM25", "set": {"supervision": "ntp"}, "retriever": "bm25"},
            "apart": {"set": {"supervision": "ntp"}, "retriever": {"train": {"supervision": "nsp"}}},
            "both": {"generation": {"ret_first": True, "max_new_tokens": 9}},
        },
        "compare": [["both", "apart"], ["both", "words"]],
        "scales": {"small": {"systems": ["both"], "set": {"training.max_steps": 1}, "limit": 2}},
    }
    for name, content in {"recipe": recipe, "suite": suite, "experiment": record | changes}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return folder / "experiment.yaml"


def interrupted_at(call: int, real: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """Return a function that does what `real` does until its call of this number, which is interrupted."""
    calls = count(1)

    def stopped(*given: Any) -> Any:
        if next(calls) == call:
            raise KeyboardInterrupt
        return None if real is None else real(*given)

    return stopped


def made(folder: Path, pattern: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.glob(pattern)}


def test_what_systems_have_in_common_is_done_once_and_nothing_twice(
    cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path
) -> None:
    path, results = experiment(tiny_world, tmp_path), tmp_path / "results"
    assert "0 of 3 done" in cosup("experiment", path, "--plan").err
    assert not results.exists()
    done = cosup("experiment", path)
    assert done.code == 0, done.err
    assert len(made(results, "trained/*/model/cosup.json")) == 3  # one writer serves two systems
    assert len(made(results, "measured/*/record.json")) == 3
    assert "| NTP + BM25 | 1 |" in done.out
    assert "### Paired differences" in done.out
    main = json.loads((results / "main.json").read_text(encoding="utf-8"))
    assert main["systems"]["both"]["tasks"].keys() == {"one", "two"}
    assert main["systems"]["both"]["tasks"]["one"].keys() == {"retrieval", "recall@1", "correctness", "citation"}
    assert main["settings"]["limit"] == {"one": 3, "two": 4}
    asked = {p.parent.parent.name: read_answers(p) for p in results.glob("measured/*/one/predictions.jsonl")}
    (both,) = {step.address for step in steps_of(load_experiment(path)) if step.system.key == "both"}
    assert all(answer.retrievals for answer in asked[both])
    assert not all(answer.retrievals for answers in asked.values() for answer in answers)
    assert main["settings"]["runs"][0]["seconds"] > 0
    shown = cosup("info", results).out
    assert re.search(r"experiment +" + re.escape(str(path)), shown)
    assert re.search(r"system both +.* \(seed 1\): retrieval \d+\.\d, recall@1", shown)
    before = made(results, "*ed/**/*")
    again = cosup("experiment", path)
    assert (again.code, again.out) == (0, done.out)
    assert made(results, "*ed/**/*") == before
    assert json.loads(cosup("experiment", path, "--json").out) == main
    planned = json.loads(cosup("experiment", path, "--plan", "--json").out)["steps"]
    assert [(step["done"], Path(step["record"]).is_file()) for step in planned] == [(True, True)] * 3
    assert "3 of 3 done" in cosup("experiment", path, "--plan").err
    (results / "main.json").unlink()
    assert "begun; nothing is measured yet" in cosup("info", results).out
    assert cosup("experiment", experiment(tiny_world, tmp_path, seeds=[1, 2])).code == 0
    assert before.items() <= made(results, "*ed/**/*").items()
    assert len(made(results, "measured/*/record.json")) == 6


def test_it_goes_on_after_an_interruption(
    cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, results = experiment(tiny_world, tmp_path), tmp_path / "results"
    with monkeypatch.context() as patched:
        patched.setattr(running, "run_suite", interrupted_at(2, running.run_suite))
        assert cosup("experiment", path).code != 0
    kept = made(results, "trained/*/model/cosup.json") | made(results, "measured/*/record.json")
    assert len(kept) == 3  # two trainings of the system that was not measured, and one measurement
    assert list(json.loads((results / "main.json").read_text(encoding="utf-8"))["systems"]) == ["words"]
    done = cosup("experiment", path)
    assert done.code == 0, done.err
    found = made(results, "trained/*/model/cosup.json") | made(results, "measured/*/record.json")
    assert kept.items() <= found.items()


def test_a_scale_has_its_own_systems_settings_and_results(cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path) -> None:
    path = experiment(tiny_world, tmp_path)
    done = cosup("experiment", path, "--scale", "small")
    assert done.code == 0, done.err
    main = json.loads((tmp_path / "results-small" / "main.json").read_text(encoding="utf-8"))
    assert list(main["systems"]) == ["both"]
    assert (main["settings"]["scale"], main["settings"]["limit"]) == ("small", {"one": 2, "two": 2})
    (record,) = (tmp_path / "results-small").glob("measured/*/record.json")
    assert json.loads(record.read_text(encoding="utf-8"))["trainings"][0]["recipe"]["training"]["max_steps"] == 1


@pytest.mark.usefixtures("pictures")
def test_an_axis_makes_a_system_of_each_value(cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path) -> None:
    axes = {"objective.nsp_weight": [0, 0.5], "objective.mask_same_passage": [True, False]}
    path = experiment(tiny_world, tmp_path, axes=axes, systems={"both": {"name": "NTP + NSP"}}, compare=[], scales={})
    found = load_experiment(path)
    assert [own.key for own in found.systems] == [
        f"both-nsp_weight-{weight}-mask_same_passage-{mask}" for weight in ("0", "0.5") for mask in ("true", "false")
    ]
    assert found.systems[1].name == "NTP + NSP, nsp_weight 0, mask_same_passage false"
    path = experiment(tiny_world, tmp_path, axes={"objective.nsp_weight": [0, 0.5]}, systems={"run": None}, compare=[])
    record = yaml.safe_load(path.read_text(encoding="utf-8"))
    del record["systems"], record["scales"]
    path.write_text(json.dumps(record), encoding="utf-8")
    done = cosup("experiment", path)
    assert done.code == 0, done.err
    main = json.loads((tmp_path / "results" / "main.json").read_text(encoding="utf-8"))
    assert list(main["systems"]) == ["nsp_weight-0", "nsp_weight-0.5"]
    assert [own["axes"] for own in main["settings"]["runs"]] == [{"objective.nsp_weight": w} for w in (0, 0.5)]
    for name in ("systems", "groups", "if_retrieved", "axis"):
        assert (tmp_path / "results" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_systems_are_compared_at_each_point_of_an_axis(tiny_world: TinyWorld, tmp_path: Path) -> None:
    axes = {"temperature": [0.1, 0.2]}
    found = load_experiment(experiment(tiny_world, tmp_path, axes=axes, compare=[["both", "apart"]]))
    assert found.comparisons == tuple((f"both-temperature-{t}", f"apart-temperature-{t}") for t in (0.1, 0.2))
    assert found.systems[0].axes == {"objective.temperature": 0.1}  # in its one spelling


def test_an_axis_is_drawn_only_where_each_value_has_one_system(tiny_world: TinyWorld, tmp_path: Path) -> None:
    """Whatever has been measured so far: a picture of the first systems would stay when the others come."""
    axes = {"temperature": [0.1, 0.2]}
    several = load_experiment(experiment(tiny_world, tmp_path, axes=axes))
    one = load_experiment(experiment(tiny_world, tmp_path, axes=axes, systems={"both": None}, compare=[], scales={}))
    first = collect([scored("both-temperature-0.1", 1, x={"1": 1})])
    assert axis_of(several, first) is None
    assert axis_of(one, first) == ([0.1], "objective.temperature")
    assert axis_of(load_experiment(experiment(tiny_world, tmp_path)), collect([scored("both", 1, x={"1": 1})])) is None


def test_a_key_counts_once_however_it_is_spelt(cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path) -> None:
    """A system's own comes last, then the command line, the scale and the file."""
    systems = {"mine": {"set": {"learning_rate": 1e-3}}, "other": None}
    changes = {"set": {"learning_rate": 1e-5, "training.max_steps": 7}, "scales": {"s": {"set": {"max_steps": 8}}}}
    path = experiment(tiny_world, tmp_path, systems=systems, compare=[], **changes)
    mine, other = steps_of(load_experiment(path, "s", {"training.learning_rate": 1e-4}))
    assert [step.writer.training["learning_rate"] for step in (mine, other)] == [1e-3, 1e-4]
    assert {step.writer.training["max_steps"] for step in (mine, other)} == {8}
    assert "output_dir is the experiment's own" in cosup.refused("experiment", path, "--output-dir", "x")
    twice = experiment(tiny_world, tmp_path, set={"learning_rate": 1e-5, "training.learning_rate": 1e-4})
    assert "training.learning_rate comes twice" in cosup.refused("experiment", twice)


def test_a_training_goes_on_when_its_files_have_moved(
    cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"training.save_strategy": "steps", "training.save_steps": 1}
    path = experiment(tiny_world, tmp_path, systems={"both": {"set": own}}, compare=[], scales={})
    with monkeypatch.context() as patched:
        patched.setattr("cosup.training.run._finish", interrupted_at(1))
        assert cosup("experiment", path).code != 0
    assert list((tmp_path / "results").glob("trained/*/checkpoint-2"))
    shutil.copytree(tiny_world.base, tmp_path / "elsewhere")
    recipe = yaml.safe_load((tmp_path / "recipe.yaml").read_text(encoding="utf-8"))
    recipe["generator"] = str(tmp_path / "elsewhere")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    done = cosup("experiment", path)
    assert done.code == 0, done.err
    assert len(list((tmp_path / "results").glob("trained/*/model"))) == 1


def test_models_are_made_from_others(cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path) -> None:
    """What is trained starts from them, and an experiment that names the same in another folder trains the same."""
    models = {
        "cut": {"from": str(tiny_world.base), "layers": 1},
        "drawn": {"from": str(tiny_world.base), "random": True},
        "gpt2": {"from": str(tiny_world.base), "family": "gpt2"},
    }
    systems = {name: {"set": {"embedder": name}} for name in models}
    path = experiment(tiny_world, tmp_path, models=models, systems=systems, compare=[], scales={})
    done = cosup("experiment", path)
    assert done.code == 0, done.err
    found = load_experiment(path).model_folders
    made = {name: load_generator(str(folder)) for name, folder in found.items()}
    base = load_generator(str(tiny_world.base))
    assert len(made["cut"].base_model.layers) == 1
    kept = made["cut"].state_dict()
    assert kept.keys() < base.state_dict().keys()
    assert all(torch.equal(tensor, base.state_dict()[name]) for name, tensor in kept.items())
    assert made["drawn"].config.num_hidden_layers == 2
    drawn, own = (model.base_model.layers[0].mlp.up_proj.weight for model in (made["drawn"], base))
    assert not torch.equal(drawn, own)
    assert (made["gpt2"].config.model_type, made["gpt2"].config.n_layer) == ("gpt2", 2)
    (tmp_path / "again").mkdir()
    again = experiment(tiny_world, tmp_path / "again", models=models, systems=systems, compare=[], scales={})
    pairs = zip(steps_of(load_experiment(path)), steps_of(load_experiment(again)), strict=True)
    assert all(one.address == other.address for one, other in pairs)
    assert len({step.address for step in steps_of(load_experiment(path))}) == 3


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"layers": 3}, "has 2 layers; 3 of them cannot stay"),
        ({"layers": 0}, "'layers' is 0"),
        ({"from": None}, "'from' is None"),
        ({"random": "yes"}, "'random' is 'yes'"),
        ({"family": "gpt3"}, "'family' is 'gpt3'; there are: gpt2"),
        ({"layer": 3}, "did you mean 'layers'?"),
    ],
)
def test_a_model_that_cannot_be_made_is_refused(
    model: dict[str, Any], message: str, cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path
) -> None:
    models = {"own": {"from": str(tiny_world.base), **model}}
    systems = {"x": {"set": {"embedder": "own"}}}
    path = experiment(tiny_world, tmp_path, models=models, systems=systems, compare=[], scales={})
    assert message in cosup.refused("experiment", path)


def test_records_of_elsewhere_count_as_done(cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path) -> None:
    path, kept = experiment(tiny_world, tmp_path), tmp_path / "records"
    assert cosup("experiment", path, "--records", kept).code == 0
    assert len(made(kept, "*.json")) == 3
    shutil.rmtree(tmp_path / "results")
    assert "3 of 3 done" in cosup("experiment", path, "--plan", "--records", kept).err
    assert "0 of 3 done" in cosup("experiment", path, "--plan").err
    done = cosup("experiment", path, "--records", kept)
    assert (done.code, "| NTP + BM25 | 1 |" in done.out) == (0, True)
    assert not (tmp_path / "results" / "trained").exists()
    assert "0 of 3 done" in cosup("experiment", path, "--plan", "--records", kept, "--temperature", 0.3).err
    assert "0 of 3 done" in cosup("experiment", path, "--plan", "--records", kept, "--dtype", "bfloat16").err
    shutil.rmtree(tmp_path / "results")
    for record in kept.glob("*.json"):
        (tmp_path / "results" / "measured" / record.stem).mkdir(parents=True)
        record.rename(tmp_path / "results" / "measured" / record.stem / "record.json")
    assert cosup("experiment", path, "--records", kept).code == 0
    assert len(made(kept, "*.json")) == 3  # of a run that was killed before it could copy them


@pytest.mark.usefixtures("pictures")
def test_both_spaces_are_measured_over_the_training(
    cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was stopped goes on, with what had been measured."""
    geometry = {"passages": str(tiny_world.passages), "questions": str(tiny_world.questions), "limit": 6, "every": 2}
    own = {"set": {"training.max_steps": 3, "training.save_strategy": "steps", "training.save_steps": 2}}
    path = experiment(tiny_world, tmp_path, geometry=geometry, systems={"both": own}, compare=[], scales={})
    with monkeypatch.context() as patched:
        patched.setattr(geometry_module, "measure", interrupted_at(3, geometry_module.measure))
        assert cosup("experiment", path).code != 0
    done = cosup("experiment", path)
    assert done.code == 0, done.err
    (record,) = (tmp_path / "results").glob("measured/*/record.json")
    first, middle, last = json.loads(record.read_text(encoding="utf-8"))["geometry"]
    assert [first["step"], middle["step"], last["step"]] == [0, 2, 3]
    assert first["alignment"] != last["alignment"]
    assert "projection" not in middle
    assert not list((tmp_path / "results").glob("trained/*/checkpoint-*"))
    (folder,) = (tmp_path / "results").glob("trained/[!.]*")
    assert json.loads((folder / "made.json").read_text(encoding="utf-8"))["seconds"] > 0
    assert first["states"] >= first["passages"] >= 6
    assert len(first["projection"]["states"]) == len(first["projection"]["wanted"]) == first["states"]
    assert (tmp_path / "results" / "geometry.png").is_file()
    assert (tmp_path / "results" / "projection.png").is_file()


def test_addresses_are_of_contents(tiny_world: TinyWorld, tmp_path: Path) -> None:
    """Files may move; what is in them may not change. The name of a system and of its file count for nothing."""
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        shutil.copy(tiny_world.questions, tmp_path / name / "questions.jsonl")
    with (tmp_path / "c" / "questions.jsonl").open("a") as stream:
        stream.write("\n")
    assert len({address_of({"x": 1}, [tmp_path / name / "questions.jsonl"]) for name in "ab"}) == 1
    assert len({address_of({"x": 1}, [tmp_path / name]) for name in "abc"}) == 2
    assert address_of({"x": 1}, ["hub/id"]) != address_of({"x": 1}, ["hub/other"])
    steps = steps_of(load_experiment(experiment(tiny_world, tmp_path / "a", seeds=[1, 2])))
    systems = {"renamed": {"generation": {"ret_first": True, "max_new_tokens": 9}}}
    moved = steps_of(load_experiment(experiment(tiny_world, tmp_path / "b", systems=systems, compare=[])))
    assert folder_of(moved[0].writer).name == folder_of(steps[2].writer).name
    assert moved[0].record.parent.name == steps[2].record.parent.name
    assert [(step.system.key, step.seed) for step in steps] == [
        (key, seed) for seed in (1, 2) for key in ("words", "apart", "both")
    ]
    assert len({folder_of(recipe) for step in steps for recipe in step.trainings}) == 6
    assert len({step.record for step in steps}) == 6


def scored(system: str, seed: int, **tasks: dict[str, float]) -> dict[str, Any]:
    """Return a record whose tasks have these scores of correctness, by question."""
    return {
        "system": system,
        "name": system.upper(),
        "seed": seed,
        "tasks": {task: {"group": "in" if task == "x" else None, **MEASURES} for task in tasks},
        "scores": {t: {q: {"correctness": s, "recall@1": 1.0} for q, s in own.items()} for t, own in tasks.items()},
    }


def test_averages_count_each_task_once_and_differences_are_paired() -> None:
    """Worked out by hand: task x has two questions, task y four; system a has two seeds."""
    records = [
        scored("a", 1, x={"1": 1, "2": 0}, y={"1": 1, "2": 1, "3": 1, "4": 1}),
        scored("b", 1, x={"1": 0, "2": 1}, y={"1": 0, "2": 0, "3": 1, "4": 1}),
        scored("a", 2, x={"1": 1, "2": 1}, y={"1": 1, "2": 1, "3": 1, "4": 1}),
    ]
    a, b = collect(records)
    assert a.seeds == (1, 2)
    assert a.scores["x"]["correctness"] == {"1": 1, "2": 0.5}
    main = main_record([a, b], differences([a, b], [("a", "b")]), {})["systems"]
    assert main["a"]["tasks"]["x"] == {"retrieval": None, "recall@1": 100, "correctness": 75, "citation": None}
    assert main["a"]["average"]["correctness"] == pytest.approx((75 + 100) / 2)
    assert main["b"]["average"]["correctness"] == pytest.approx(50)
    assert main["a"]["groups"]["in"]["correctness"] == 75
    assert compare(a, b, "citation") == []
    whole, group = compare(a, b, "correctness")  # by seed 1 alone, which both have
    assert (whole.group, whole.seeds, group.group) == (None, (1,), "in")
    assert whole.value == pytest.approx((0 + 50) / 2)
    assert (whole.better, whole.tasks) == (1, 2)
    assert whole.low < whole.value < whole.high
    assert whole.p_value is not None
    assert 0.2 < whole.p_value <= 1  # of 16 ways to exchange two of 1/2 and two of 1/4, many are as extreme
    assert "| a | b | correctness | all | +25.0 [" in markdown([a, b], differences([a, b], [("a", "b")]))


def test_the_margin_of_one_group_over_another() -> None:
    """In x both are equal; in y the first is always right and the second never."""
    records = [
        scored("a", 1, x={"1": 1, "2": 0}, y={"1": 1, "2": 1}),
        scored("b", 1, x={"1": 1, "2": 0}, y={"1": 0, "2": 0}),
    ]
    for record in records:
        record["tasks"]["y"]["group"] = "out"
    found = {own.group: own for own in compare(*collect(records), "correctness")}
    assert found.keys() == {None, "in", "out", "out minus in"}
    assert (found["in"].value, found["out"].value, found[None].value) == (0, 100, 50)
    margin = found["out minus in"]
    assert (margin.value, margin.low, margin.high, margin.p_value) == (100, 100, 100, None)
    assert (found["in"].better, found["in"].p_value) == (0, 1)


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


# -- several processes -------------------------------------------------------------------------------------------------


def test_what_another_process_is_at_comes_last(
    tiny_world: TinyWorld, tmp_path: Path, cosup: Cosup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The systems whose trainings are free are run meanwhile; the held one when it is let go."""
    monkeypatch.setattr(running, "PAUSE", 0.05)
    path = experiment(tiny_world, tmp_path)
    steps = {step.system.key: step for step in steps_of(load_experiment(path))}
    folder = folder_of(steps["words"].writer)  # also that of "apart"
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    lock.acquire()
    worker = threading.Thread(target=cosup, args=("experiment", path))
    worker.start()
    try:
        deadline = time.monotonic() + 120
        while not steps["both"].record.is_file():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert not steps["words"].record.exists()
        assert worker.is_alive()
    finally:
        lock.release()
    worker.join(120)
    assert all(step.record.is_file() for step in steps.values())


@pytest.mark.slow
def test_two_processes_share_an_experiment(tiny_world: TinyWorld, tmp_path: Path) -> None:
    """Each training and measurement is made by one of them, and both end with the whole table."""
    path = experiment(tiny_world, tmp_path, seeds=[1, 2])
    command = [sys.executable, "-m", "cosup", "experiment", str(path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ends = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    assert ends[0][0] == ends[1][0]
    assert "NTP + BM25" in ends[0][0]
    records = list((tmp_path / "results" / "measured").glob("*/record.json"))
    assert len(records) == len(steps_of(load_experiment(path))) == 6
