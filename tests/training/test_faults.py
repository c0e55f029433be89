"""What a run survives: kill -9 at any moment, a disk that is full, damaged checkpoints, a loss that is no number."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cosup.errors import CosupError
from cosup.training.config import CoSupervisionConfig
from cosup.training.recipe import parse_recipe
from cosup.training.run import train
from cosup.training.saving import damage_of, last_complete_checkpoint, remove_drafts, whole_folder
from cosup.training.trainer import CoSupervisionTrainer
from tests import pairs
from tests.training import runs
from tests.training.runs import start, wait_for, weights, write_world

STEPS = 24


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


def recipe_of(world: Path, run: Path, **training: Any) -> dict[str, Any]:
    """Return a recipe that writes a checkpoint every step."""
    return runs.recipe_of(world, run, **{"max_steps": STEPS, **training})


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_as_if_it_never_had_been(world: Path, tmp_path: Path) -> None:
    """Proof 6: killed while it starts, trains, saves and writes its model, it ends bit for bit like one left alone.

    The moments differ from run to run; their seed is printed, and taken from `COSUP_SEED` where that is set.
    """
    whole = train(parse_recipe(recipe_of(world, tmp_path / "whole")))
    run = tmp_path / "parts"
    recipe = recipe_of(world, run)
    seed = int(os.environ.get("COSUP_SEED", random.SystemRandom().randrange(10**6)))
    print(f"COSUP_SEED={seed}")  # noqa: T201 - shown where the test fails
    moments = random.Random(seed)

    def reached(step: int) -> Callable[[], bool]:
        return lambda: any((run / f"checkpoint-{n}").exists() for n in range(step, STEPS + 1))

    kills = [
        (run.exists, 0.5),  # while it starts: the recipe is being written, nothing else is there
        (reached(moments.randrange(1, 8)), 0.3),
        (reached(moments.randrange(8, 16)), 0.3),
        (reached(STEPS), 0.4),  # the last checkpoint, the figures, the model
    ]
    for arrived, most in kills:
        process = start(recipe, tmp_path)
        wait_for(arrived, [process])
        time.sleep(moments.uniform(0, most))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if (run / "model").exists():
            break
    process = start(recipe, tmp_path)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "going on from" in output or "is finished already" in output
    a, b = weights(whole), weights(run / "model")
    assert all(torch.equal(a[name], b[name]) for name in a)
    losses = [
        [e["loss"] for e in json.loads((folder / "metrics.json").read_text())["log"] if "loss" in e]
        for folder in (tmp_path / "whole", run)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == STEPS
    assert not list(run.glob(".*"))


@pytest.mark.parametrize("there", [True, False])
def test_what_a_kill_left_is_cleared_or_put_back(there: bool, tmp_path: Path) -> None:
    """Drafts go; what a replacement was to follow comes back where the replacement did not come."""
    for name in (".checkpoint-3.draft", ".model.draft", ".checkpoint-2.older"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name)
    (tmp_path / ".recipe.yaml.0123abcd.tmp").write_text("half")
    if there:
        (tmp_path / "checkpoint-2").mkdir()
    remove_drafts(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]
    assert (tmp_path / "checkpoint-2" / "a.txt").is_file() != there


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_good_checkpoint(world: Path, tmp_path: Path) -> None:
    """A file that the system refuses to let grow, in the middle of a checkpoint: one line, exit code 2; it goes on."""
    run = tmp_path / "run"
    train(parse_recipe(recipe_of(world, run)))
    size = (run / f"checkpoint-{STEPS}" / "optimizer.pt").stat().st_size
    assert size > 50_000

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, resource.RLIM_INFINITY))

    other = tmp_path / "other"
    recipe = recipe_of(world, other)
    process = start(recipe, tmp_path)
    wait_for(lambda: last_complete_checkpoint(other) is not None, [process])
    process.kill()
    process.communicate()
    good = last_complete_checkpoint(other)
    process = start(recipe, tmp_path, preexec_fn=limited)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "Traceback" not in output
    assert "what was saved before is untouched" in output
    assert last_complete_checkpoint(other) == good
    assert not list(other.glob(".checkpoint-*"))
    process = start(recipe, tmp_path)
    process.communicate(timeout=120)
    assert process.returncode == 0
    a, b = weights(run / "model"), weights(other / "model")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_damaged_checkpoints_are_passed_over_by_name(
    world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Truncated or missing files: the run goes on from the newest whole checkpoint and says which it passed over."""
    run = tmp_path / "run"
    train(parse_recipe(recipe_of(world, run, max_steps=4, save_total_limit=4)))
    weights_4 = run / "checkpoint-4" / "generator" / "model.safetensors"
    weights_4.write_bytes(weights_4.read_bytes()[:1000])
    (run / "checkpoint-3" / "optimizer.pt").unlink()
    caplog.clear()
    assert last_complete_checkpoint(run) == run / "checkpoint-2"
    assert "checkpoint-4 is damaged (generator/model.safetensors has 1000 bytes" in caplog.text
    assert "checkpoint-3 is damaged (optimizer.pt is missing)" in caplog.text
    (run / "checkpoint-2" / "trainer_state.json").write_text("{half")
    assert damage_of(run / "checkpoint-2") == "trainer_state.json is missing or unreadable"
    assert last_complete_checkpoint(run) == run / "checkpoint-1"


def test_an_interrupted_draft_leaves_what_was_there(tmp_path: Path) -> None:
    """An older folder is replaced whole or not at all."""
    folder = tmp_path / "checkpoint-1"
    with whole_folder(folder) as draft:
        (draft / "a.txt").write_text("old")
    with pytest.raises(FileNotFoundError), whole_folder(folder) as draft:
        (draft / "a.txt").write_text((draft / "nothing.txt").read_text())
    assert (folder / "a.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-1"]
    with whole_folder(folder) as draft:
        (draft / "b.txt").write_text("newer")
    assert sorted(p.name for p in folder.iterdir()) == ["b.txt", "files.json"]


def test_a_clock_that_goes_back_leaves_no_negative_time(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time

    def turn_back(*_: Any) -> None:
        monkeypatch.setattr(time, "time", lambda: real() - 3600)

    train(parse_recipe(recipe_of(world, tmp_path, max_steps=2)), watch=turn_back)
    record = json.loads((tmp_path / "metrics.json").read_text())
    told = [*record["metrics"].items(), *(item for entry in record["log"] for item in entry.items())]
    times = [value for name, value in told if "runtime" in name or "per_second" in name]
    assert len(times) >= 6
    assert all(0 < value < 1e6 for value in times)


@pytest.mark.parametrize("rate", [1e30])
def test_a_loss_that_is_no_number_stops_the_run_and_says_where(rate: float, world: Path, tmp_path: Path) -> None:
    """The step, the examples of it, and the last good checkpoint are named; nothing is saved after it."""
    recipe = parse_recipe(recipe_of(world, tmp_path, learning_rate=rate, lr_scheduler_type="constant", max_steps=9))
    with pytest.raises(CosupError, match=r"training diverged at step (\d): .*examples of the step: q\d, q\d") as found:
        train(recipe)
    step = int(str(found.value).split("at step ")[1][0])
    assert step > 1
    assert f"the last good checkpoint is {tmp_path / f'checkpoint-{step - 1}'}" in str(found.value)
    assert not (tmp_path / f"checkpoint-{step}").exists()


def test_examples_that_are_only_contrasted_are_named_too(tmp_path: Path) -> None:
    """One of them may be the cause."""
    config = CoSupervisionConfig(
        output_dir=str(tmp_path), max_steps=1, nsp_batch_size=5, per_device_train_batch_size=2, use_cpu=True,
        disable_tqdm=True,
    )  # fmt: skip
    trainer = CoSupervisionTrainer(pairs.pair(), config, pairs.EXAMPLES, pairs.PASSAGES)
    with torch.no_grad():
        trainer.model.embedder.get_input_embeddings().weight.fill_(float("nan"))  # type: ignore[operator]
    with pytest.raises(
        CosupError, match=r"examples of the step: (q\d), (q\d); contrasted with (q\d), (q\d), (q\d)"
    ) as found:
        trainer.train()
    named = re.findall(r"\bq\d\b", str(found.value))
    assert len(set(named)) == 5


def test_gradients_that_are_no_numbers_stop_the_run_without_clipping_too(world: Path, tmp_path: Path) -> None:
    """A loss may be finite where a gradient is not; no such step is taken, so no checkpoint holds it."""
    trainer = CoSupervisionTrainer(
        pairs.pair(),
        CoSupervisionConfig(output_dir=str(tmp_path), max_steps=2, max_grad_norm=0.0, use_cpu=True, disable_tqdm=True),
        pairs.EXAMPLES,
        pairs.PASSAGES,
    )
    weight = trainer.model.generator.get_input_embeddings().weight  # type: ignore[operator]
    weight.register_hook(lambda gradient: gradient * float("inf"))
    before = weight.detach().clone()
    with pytest.raises(CosupError, match="training diverged at step 1: the gradients are not finite; examples"):
        trainer.train()
    assert torch.equal(weight, before)
