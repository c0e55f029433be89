"""`cosup experiment` on small pairs: what is run, what is run again, and what several processes share."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from filelock import FileLock

from cosup.checkpoints import load_generator
from cosup.data.reading import read_answers
from cosup.experiments import geometry as geometry_module
from cosup.experiments import run as running
from cosup.experiments.addresses import folder_of
from cosup.experiments.plan import load_experiment
from cosup.experiments.provenance import address_of
from cosup.experiments.run import steps_of
from tests.commands import Cosup
from tests.experiments.small import experiment
from tests.pairs import TinyWorld


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
