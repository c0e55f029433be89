"""Runs of `cosup train` over a tiny world of files: what the tests of faults, folders and several processes start."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import Dataset
from transformers import GPT2LMHeadModel

from cosup.data.writing import write_jsonl
from cosup.modeling import CoSupervisedModel
from tests import pairs

HOUSE = Path(__file__).parents[2]
RECIPES = sorted((HOUSE / "recipes").glob("*.yaml"))
SHARDED = [path for path in RECIPES if "fsdp: true" in path.read_text()]


def write_world(folder: Path) -> Path:
    """Write base models of two families and widths, passages, questions and examples into a folder."""
    pairs.save_base(folder / "base", [*(p.rendered for p in pairs.PASSAGES), *(q.question for q in pairs.QUESTIONS)])
    write_jsonl(folder / "passages.jsonl", pairs.PASSAGES)
    write_jsonl(folder / "questions.jsonl", pairs.QUESTIONS)
    write_jsonl(folder / "examples.jsonl", pairs.EXAMPLES)
    rows = [{"id": p.id, "title": p.title, "text": p.text} for p in pairs.PASSAGES]
    Dataset.from_list(rows).to_parquet(str(folder / "passages.parquet"))
    _, words = pairs.generator("gpt2")
    torch.manual_seed(3)
    GPT2LMHeadModel(pairs.config("gpt2", len(words), 16)).save_pretrained(folder / "narrow")
    words.save_pretrained(folder / "narrow")
    return folder


def tiny(path: Path, world: Path, run: Path) -> dict[str, Any]:
    """Return a shipped recipe with everything it says but its size: tiny models and data, two steps.

    Each kind of source stays what it is: questions or examples, JSONL or Parquet.
    """
    record: dict[str, Any] = yaml.safe_load(path.read_text())
    record["generator"] = str(world / "base")
    if record["embedder"] != "shared":
        record["embedder"] = str(world / ("narrow" if "gpt2" in record["embedder"] else "base"))
    data = record["data"]
    for name in {"passages", "questions", "examples", "eval_questions", "eval_examples"} & data.keys():
        data[name] = str(world / (name.removeprefix("eval_") + Path(data[name]).suffix))
    data |= {"max_length": 200, "max_passage_length": 40, "shuffle_buffer": 4}
    objective = record.get("objective") or {}
    if "nsp_batch_size" in objective:
        objective["nsp_batch_size"] = 12
    size = 8 if "hard_negatives" in objective else 4  # the second step is a second epoch's, for which they are mined
    record["training"] |= {"max_steps": 2, "per_device_train_batch_size": size, "micro_batch_tokens": 120}
    record["training"] |= {"warmup_steps": 0, "logging_steps": 1, "use_cpu": True, "disable_tqdm": True}
    record["training"]["output_dir"] = str(run)
    return record


def recipe_of(world: Path, run: Path, **training: Any) -> dict[str, Any]:
    """Return a recipe of two steps that writes a checkpoint every step."""
    shape = {"output_dir": str(run), "max_steps": 2, "per_device_train_batch_size": 2, "use_cpu": True}
    saving = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 2, "logging_steps": 1}
    return {
        "generator": str(world / "base"),
        "embedder": str(world / "base"),
        "data": {
            "passages": str(world / "passages.jsonl"),
            "questions": str(world / "questions.jsonl"),
            "max_length": 200,
            "max_passage_length": 40,
        },
        "training": {**shape, **saving, "learning_rate": 3e-3, **training},
    }


def start(recipe: dict[str, Any], folder: Path, *more: str, **options: Any) -> subprocess.Popen[str]:
    """Start `cosup train` as a process of its own; `more` goes on its command line."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-m", "cosup", "train", str(path), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=HOUSE, **options)


def start_two(
    recipe: dict[str, Any], folder: Path, own: Sequence[Sequence[str]] = ((), ())
) -> list[subprocess.Popen[str]]:
    """Start `cosup train` as two processes that train together, without torchrun's own watch over them.

    `own` goes on each one's command line.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    ranks = [os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    return [start(recipe, folder, *words, env=env) for words, env in zip(own, ranks, strict=True)]


def torchrun(recipe: dict[str, Any], folder: Path, *more: str) -> str:
    """Run `cosup train` as two processes to its end, which must be a good one; return what it said."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "cosup", "train", str(path)]
    done = subprocess.run([sys.executable, *words, *more], capture_output=True, text=True, timeout=300, cwd=HOUSE)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return done.stdout + done.stderr


def wait_for(found: Callable[[], bool], processes: Sequence[subprocess.Popen[str]], seconds: float = 120) -> None:
    """Wait until something is so, while processes go on."""
    end = time.monotonic() + seconds
    while not found():
        for process in processes:
            assert process.poll() is None, process.stdout.read() if process.stdout else ""
        assert time.monotonic() < end
        time.sleep(0.01)


def end(processes: Sequence[subprocess.Popen[str]]) -> None:
    """End processes that a test may have left, stopped ones too."""
    for process in processes:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a model folder."""
    return CoSupervisedModel.from_pretrained(folder).state_dict()
