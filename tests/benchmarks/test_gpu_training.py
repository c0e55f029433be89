"""Training on one GPU and over two nodes: operations counted, the same curve and weights, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gpu_parts
import gpu_training
import pytest
import torch
import two_nodes
from gpu_parts import World
from torch.utils.flop_counter import FlopCounterMode
from yardstick import Counts

from tests.benchmarks.records import BENCHMARKS, CURVE, NEAR, SHAPE, WORLD, part
from tests.pairs import encoder

# -- benchmarks/gpu_training.py ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("base")
    gpu_parts.save_base(SHAPE, folder)
    return str(folder)


def test_flops_are_those_that_torch_counts(base: str) -> None:
    model = gpu_parts.build_pair(part(base))
    sizes = gpu_training.matrix_parameters(model)
    length = 24
    with FlopCounterMode(display=False) as counter:
        states = model.generator.base_model(torch.zeros(1, length, dtype=torch.long)).last_hidden_state
        model.generator.get_output_embeddings()(states)
    attention = 4 * SHAPE.layers * SHAPE.hidden * length**2  # torch counts all of it, the causal half and the other
    counts = counter.get_flop_counts()
    angles = sum(sum(own.values()) for name, own in counts.items() if name.endswith("rotary_emb"))  # of older versions
    matrices = sum(n for op, n in counts["Global"].items() if "attention" not in str(op)) - angles
    assert matrices == 2 * length * (sizes["generator"] + sizes["head"])
    assert sizes["embedder"] == sizes["generator"]
    own = Counts(generator=length, generator_squares=length**2, supervised=length)
    assert gpu_training.step_flops(own, sizes, SHAPE) == 3 * matrices + 3 * attention / 2


def test_a_world_has_the_lengths_that_are_said(base: str) -> None:
    model = gpu_parts.build_pair(part(base))
    own = encoder(model)
    for world in (WORLD, World(4, 60, 250, 179, 0.0)):
        passages, examples = gpu_parts.make_world(world, SHAPE.vocabulary)
        lengths = [len(own.example(e, passages).input_ids) for e in examples]
        assert len(examples) == len(passages) == world.examples
        assert max(lengths) <= gpu_parts.longest_example(world)
    assert lengths == [512] * 4
    assert len({p.text for p in passages.values()}) == 4


def test_a_part_survives_its_way_to_another_process(base: str) -> None:
    own = part(base, options={"micro_batch_tokens": 7})
    assert gpu_parts.read_part(json.loads(json.dumps(asdict(own)))) == own


def test_arithmetic_is_measured(base: str) -> None:
    own = part(base, matmul=64)
    found = gpu_training.run_part(own)
    assert found["flops"] > 0
    assert found["matmul_flops"] > 0
    summary = gpu_training.summarise_mfu({"mfu": found})
    assert summary["mfu"] == pytest.approx(found["flops"] / found["matmul_flops"])
    assert len(found["rates"]) == own.steps - own.warm_up


def test_summaries_compare_the_right_way_round() -> None:
    rates = {"few": {"tokens_per_second": 130.0}, "many": {"tokens_per_second": 100.0}}
    assert gpu_training.summarise_gradcache(rates)["slowdown"] == pytest.approx(1.3)
    peaks = {"full": {"peak_memory_gb": 10.0}, "lora": {"peak_memory_gb": 4.0}}
    assert gpu_training.summarise_lora_memory(peaks)["memory_ratio"] == pytest.approx(0.4)


# -- benchmarks/two_nodes.py -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("curve", "distance", "equal"),
    [
        (CURVE, NEAR, True),
        ([CURVE[0], CURVE[1] | {"nsp_loss": 0.2004}], NEAR, False),
        (CURVE[:1], NEAR, False),
        ([], NEAR, False),
        (CURVE, NEAR | {"weight_distance": 0.5}, False),
        ([CURVE[0], CURVE[1] | {"loss": float("nan")}], NEAR, False),
        (CURVE, NEAR | {"weight_distance": float("nan")}, False),
    ],
)
def test_only_the_same_curve_and_weights_are_equal(curve: Any, distance: Any, equal: bool) -> None:
    found = two_nodes.judge(CURVE, curve, distance, two_nodes.Tolerance())
    assert found["equal"] is equal


def test_weights_are_compared_over_both_models(base: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    model = gpu_parts.build_pair(part(base))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.01)
    model.save_pretrained(one)
    assert two_nodes.weight_distance(Path(base), one, one)["weight_distance"] == 0
    with torch.no_grad():
        for p in model.embedder.parameters():
            p.sub_(0.01)
    model.save_pretrained(two)
    found = two_nodes.weight_distance(Path(base), one, two)
    assert found["largest_weight_difference"] == pytest.approx(0.01, rel=1e-4)
    assert 0.5 < found["weight_distance"] < 1


def can_make_namespaces() -> bool:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    made = subprocess.run(["ip", "netns", "add", "cosup-probe"], check=False, capture_output=True)
    if made.returncode:
        return False
    return not subprocess.run(["ip", "netns", "del", "cosup-probe"], check=False, capture_output=True).returncode


@pytest.mark.distributed
def test_two_namespaces_join_and_nothing_is_left() -> None:
    if not can_make_namespaces():
        pytest.skip("network namespaces need root and iproute2")
    command = [sys.executable, str(BENCHMARKS / "two_nodes.py"), "--selftest"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 + 2 = 3" in done.stdout
    left = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout
    assert "cosup-" not in left
