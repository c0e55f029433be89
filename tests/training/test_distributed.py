"""Two processes (gloo) train as one does on the joined batch: DDP and FSDP2, a process without `[Ret]` included."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from cosup.errors import UsageError
from cosup.modeling import CoSupervisedModel
from cosup.training.config import PRESETS
from cosup.training.recipe import parse_recipe
from cosup.training.run import train
from cosup.training.saving import damage_of, last_complete_checkpoint
from tests.bases import write_all
from tests.training import pairings, worker
from tests.training.runs import SHARDED, end, recipe_of, start_two, tiny, torchrun, wait_for, weights, write_world

pytestmark = pytest.mark.distributed

SGD = {"optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
FSDP = {"fsdp": True}


def run(processes: int, *cases: dict[str, Any]) -> list[tuple[dict[str, torch.Tensor], dict[str, Any]]]:
    """Train each case as so many processes, all in one start of them; return weights and records."""
    for case in cases:
        Path(case["folder"]).mkdir(parents=True, exist_ok=True)
    settings = Path(cases[0]["folder"]) / "settings.json"
    settings.write_text(json.dumps(cases))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *torchrun, "-m", "tests.training.worker", str(settings)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    found = []
    for case in cases:
        record = json.loads((Path(case["folder"]) / "log.json").read_text())
        assert record["processes"] == processes
        found.append((torch.load(Path(case["folder"]) / "weights.pt", weights_only=True), record))
    return found


def alone(folder: str, **settings: Any) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]], dict[str, float]]:
    """Run the same in this process."""
    trainer = worker.train({"folder": folder, **settings})
    figures = trainer.evaluate() if settings.get("evaluate") else {}
    return {k: v.detach() for k, v in trainer.model.state_dict().items()}, trainer.state.log_history, figures


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float = 2e-5) -> None:
    assert set(a) == set(b)
    largest = max(float(v.abs().max()) for v in a.values())
    for name, value in a.items():
        assert torch.allclose(value, b[name], atol=tolerance * largest, rtol=1e-3), name


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "packs": {"micro_batch_tokens": 60, "symmetric_nsp": True, "mask_same_answer": True},
    "mined": {"hard_negatives": 2, "hard_negatives_depth": 6, "max_steps": 3, "learning_rate": 1e-2},
    "streamed": {"accelerator_config": {"dispatch_batches": False}, "max_steps": 3, "learning_rate": 1e-2},
    "frozen": {"freeze_embedder": True, "max_steps": 2, "learning_rate": 1e-2},
    "learnt": {"learn_temperature": True, "micro_batch_tokens": 60, "learning_rate": 1e-2},
    "padded": {"packing": False, "activation_checkpointing": True, "preset": "paper", "gather": "full"},
}


def settings_of(folder: Path, name: str, examples: str, processes: int, **more: Any) -> dict[str, Any]:
    """Return the worker's settings for a case, the whole batch shared out over the processes."""
    case = dict(CASES[name])
    config = {**SGD, **PRESETS[case.pop("preset", "default")], **case, **more}
    count = 8 if examples == "MIXED" else 4
    config |= {"per_device_train_batch_size": count // processes}
    place = str(folder / f"{name}-{examples}-{processes}")
    more = {"examples": examples, "evaluate": True, "pair": {"embedder_width": 16}, "stream": name == "streamed"}
    return {"folder": place, "config": config, **more}


@pytest.mark.parametrize(
    ("names", "more"),
    [
        (("plain", "packs", "padded", "mined", "streamed", "learnt"), {}),
        (("plain", "packs", "mined", "frozen", "learnt"), FSDP),
    ],
    ids=["ddp", "fsdp2"],
)
def test_two_processes_equal_one(names: Sequence[str], more: dict[str, Any], tmp_path: Path) -> None:
    """Proof 2: loss and every gradient (one plain gradient step of rate 1), and the held-out figures."""
    cases = [(name, examples) for name in names for examples in ("MIXED", "LOPSIDED")]
    both = run(2, *(settings_of(tmp_path, name, examples, 2, **more) for name, examples in cases))
    for (name, examples), (two, record) in zip(cases, both, strict=True):
        one, log, figures = alone(**settings_of(tmp_path, name, examples, 1))
        same(one, two)
        assert record["log"][0]["loss"] == pytest.approx(log[0]["loss"], rel=1e-5), name
        assert record["log"][0]["nsp_accuracy"] == log[0]["nsp_accuracy"]
        for figure in ("eval_ntp_loss", "eval_recall@1", "eval_recall@10"):
            assert record["eval"][figure] == pytest.approx(figures[figure], rel=1e-5)


PAIRS = ("qwen2+gpt2", "gpt2+llama", "llama+llama", "shared", "shared-lora", "one-base", "two-bases", "frozen")


@pytest.mark.parametrize("sharding", [{}, FSDP], ids=["ddp", "fsdp2"])
def test_two_processes_equal_one_over_all_kinds_of_pairs(sharding: dict[str, Any], tmp_path: Path) -> None:
    """Proof 2: mixed families, shared weights, adapters on one base and on two, a frozen embedder; several packs."""
    write_all(tmp_path / "bases")

    def settings(name: str, processes: int, **more: Any) -> dict[str, Any]:
        config = {**SGD, **pairings.options_of(name), "per_device_train_batch_size": 4 // processes, **more}
        config |= {"micro_batch_tokens": 200}
        pair = {"pairing": name, "bases": str(tmp_path / "bases")}
        return {"folder": str(tmp_path / f"{name}-{processes}"), "config": config, "pair": pair, "evaluate": True}

    both = run(2, *(settings(name, 2, **sharding) for name in PAIRS))
    for name, (two, record) in zip(PAIRS, both, strict=True):
        one, log, figures = alone(**settings(name, 1))
        same({n: one[n] for n in one.keys() & two.keys()}, {n: two[n] for n in one.keys() & two.keys()}, 5e-5)
        trained = pairings.start(tmp_path / "bases", name)
        missing = {n for n, p in trained.named_parameters() if p.requires_grad} - two.keys()
        assert not missing, name
        assert record["log"][0]["loss"] == pytest.approx(log[0]["loss"], rel=1e-5), name
        assert record["eval"]["eval_ntp_loss"] == pytest.approx(figures["eval_ntp_loss"], rel=1e-4), name
        assert record["eval"]["eval_recall@10"] == figures["eval_recall@10"], name


def test_a_checkpoint_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    """FSDP2 on two processes, then one, then DDP on two: the same run as one process from start to end."""
    shape = {"learning_rate": 3e-3, "save_strategy": "steps", "save_steps": 2, "max_steps": 6}
    config = {"learn_temperature": True, **shape}
    two, four = ({**config, "per_device_train_batch_size": size} for size in (2, 4))
    pair = {"pair": {"learn_temperature": True}}
    whole, _, _ = alone(str(tmp_path / "whole"), config=four, **pair)
    folder = str(tmp_path / "parts")
    run(2, {"folder": folder, "config": {**two, **FSDP}, "stop": 2, **pair})
    checkpoint = CoSupervisedModel.from_pretrained(tmp_path / "parts" / "checkpoint-2")
    assert checkpoint.log_temperature is not None
    worker.train({"folder": folder, "config": four, "resume": True, "stop": 4, **pair})
    ((last, _),) = run(2, {"folder": folder, "config": two, "resume": True, **pair})
    same(whole, last, tolerance=1e-4)


LEAVING = """
import atexit, sys, threading, torch.distributed as dist
from cosup.processes import leave
dist.init_process_group("gloo", init_method=sys.argv[1], rank=int(sys.argv[2]), world_size=2)
atexit.register(print, "closed")
threading.Thread(target=threading.Event().wait).start()  # like gloo's, it would outlive the work
dist.barrier()
leave(int(sys.argv[3]))
print("still here")
"""


@pytest.mark.parametrize("code", [0, 1])
def test_a_process_leaves_at_once_with_its_code_and_what_was_registered(code: int, tmp_path: Path) -> None:
    words = [sys.executable, "-c", LEAVING, f"file://{tmp_path / 'meeting'}"]
    both = [subprocess.Popen([*words, str(rank), str(code)], stdout=subprocess.PIPE, text=True) for rank in range(2)]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [code, code]
    assert said == ["closed\n", "closed\n"]


def test_steps_of_another_size_are_refused(tmp_path: Path) -> None:
    """Places in the data are counted in steps: going on with other steps would pass over examples."""
    config = {"save_strategy": "steps", "save_steps": 1, "per_device_train_batch_size": 2}
    worker.train({"folder": str(tmp_path), "config": config})
    other = {**config, "per_device_train_batch_size": 4, "max_steps": 2}
    with pytest.raises(UsageError, match="was made with 2 examples a step, and this start has 4; set per_device"):
        worker.train({"folder": str(tmp_path), "config": other, "resume": True})


def test_a_process_that_dies_ends_the_run(tmp_path: Path) -> None:
    """One process is killed in the middle of a step: the other ends too, within the timeout."""
    folder = tmp_path / "run"
    folder.mkdir()
    config = {**SGD, "learning_rate": 1e-3, "max_steps": 2000, "per_device_train_batch_size": 2, "ddp_timeout": 60}
    (folder / "settings.json").write_text(json.dumps([{"folder": str(folder), "config": config, "die": [1, 5]}]))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *torchrun, "-m", "tests.training.worker", str(folder / "settings.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, cwd=Path(__file__).parents[2])
    assert done.returncode != 0
    assert "Signal 9 (SIGKILL)" in done.stderr
    assert not (folder / "log.json").exists()


def test_what_is_left_of_a_run_says_that_it_lost_a_process(tmp_path: Path) -> None:
    """`cosup train` on two processes, one killed: the other's last word is one line, and its exit code is 1."""
    recipe = recipe_of(write_world(tmp_path), tmp_path / "run", max_steps=100_000, save_strategy="no")
    both = start_two(recipe, tmp_path)
    try:
        wait_for((tmp_path / "run" / "recipe.yaml").exists, both)
        time.sleep(5)
        both[1].kill()
        both[1].communicate()
        said, _ = both[0].communicate(timeout=120)
    finally:
        end(both)
    assert both[0].returncode == 1
    assert "error: process 0 of the run lost another one" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("path", SHARDED, ids=lambda p: p.stem)
def test_every_sharded_recipe_runs(path: Path, tmp_path: Path) -> None:
    """FSDP2 and activation checkpointing as the recipe has them, on two processes: a plain model folder at the end."""
    record = tiny(path, write_world(tmp_path), tmp_path / "run")
    assert record["training"]["fsdp"]
    assert record["training"]["activation_checkpointing"]
    torchrun(record, tmp_path)
    model = CoSupervisedModel.from_pretrained(tmp_path / "run" / "model")
    log = json.loads((tmp_path / "run" / "metrics.json").read_text())["log"]
    assert sum("loss" in entry for entry in log) == 2
    assert model.embed_ids([model.encode_passage("Red Tide :: Red Tide is a book.")]).isfinite().all()


def test_a_process_that_hangs_ends_the_others_within_the_timeout(tmp_path: Path) -> None:
    """Stopped and not dead, it keeps its connections: only `ddp_timeout` tells the other one."""
    folder = tmp_path / "run"
    recipe = recipe_of(write_world(tmp_path), folder, max_steps=100_000, save_total_limit=1, ddp_timeout=20)
    both = start_two(recipe, tmp_path)
    try:
        wait_for(lambda: any(folder.glob("checkpoint-*")), both)
        both[1].send_signal(signal.SIGSTOP)
        began = time.monotonic()
        said, _ = both[0].communicate(timeout=120)
        took = time.monotonic() - began
    finally:
        end(both)
    assert both[0].returncode == 1
    assert took < 60
    assert len([line for line in said.splitlines() if line.startswith("error:")]) == 1
    assert "error: process 0 of the run lost another one (" in said
    assert "Traceback" not in said
    assert last_complete_checkpoint(folder) is not None


def test_processes_that_do_not_see_one_folder_are_told_so(tmp_path: Path) -> None:
    """As on two nodes without a shared file system: one line on each, before anything is trained."""
    recipe = recipe_of(write_world(tmp_path), tmp_path / "run")
    both = start_two(
        recipe, tmp_path, own=[("--output_dir", str(tmp_path / "run")), ("--output_dir", str(tmp_path / "b"))]
    )
    try:
        said = [process.communicate(timeout=120)[0] for process in both]
    finally:
        end(both)
    assert [process.returncode for process in both] == [2, 2]
    wanted = f"error: process 1 does not see {tmp_path / 'run'}, which process 0 writes; give all nodes an --output_dir"
    assert wanted in said[0]
    assert all("error: process 1 does not see" in text and "Traceback" not in text for text in said)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["recipe.yaml"]


def test_a_run_goes_on_with_another_number_of_devices_by_its_command(tmp_path: Path) -> None:
    """`cosup train` on one process, then the same recipe by torchrun on two, laid out anew: the same model."""
    recipe = recipe_of(write_world(tmp_path), tmp_path / "run", max_steps=4, save_total_limit=4)
    recipe["training"]["per_device_train_batch_size"] = 4
    whole = weights(train(parse_recipe(recipe)))
    for name in ("model", "checkpoint-3", "checkpoint-4"):
        shutil.rmtree(tmp_path / "run" / name)
    sizes = ("--per_device_train_batch_size", "2", "--micro_batch_tokens", "120", "--activation_checkpointing", "true")
    said = torchrun(recipe, tmp_path, *sizes, "--fsdp", "true", "--save_steps", "2")
    assert f"going on from {tmp_path / 'run' / 'checkpoint-2'}" in said
    same(whole, weights(tmp_path / "run" / "model"), tolerance=1e-4)


def test_processes_write_a_checkpoint_by_the_clock_together(tmp_path: Path) -> None:
    config = {"save_strategy": "no", "save_minutes": 0, "per_device_train_batch_size": 2, "max_steps": 2}
    run(2, {"folder": str(tmp_path), "config": config})
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]
    assert damage_of(tmp_path / "checkpoint-1") is None
