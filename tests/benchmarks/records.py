"""What the scripts leave behind, made up: runs, curves, sizes, and parts of the scripts for one GPU."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yardstick
from gpu_parts import Part, Shape, World
from yardstick import Yardstick

BENCHMARKS = Path(yardstick.__file__).parent


def settings(rate: float = 1e-3, **more: Any) -> Yardstick:
    return Yardstick(rate, 4, generator_pad=0, embedder_pad=0, **more)


# -- benchmarks/training.py --------------------------------------------------------------------------------------------


def runs() -> dict[str, Any]:
    def figures(rate: float, memory: float, loss: float) -> dict[str, Any]:
        return {"tokens_per_second": rate, "padding_share": 0.25, "peak_memory_gb": memory, "loss": loss}

    return {
        "baseline": figures(200.0, 10.0, 5.0),
        "cosup": figures(1100.0, 3.0, 4.9),
        "cosup_same_supervision": figures(900.0, 3.5, 5.05),
    }


# -- benchmarks/gpu_training.py ----------------------------------------------------------------------------------------

SHAPE = Shape(layers=2, hidden=32, inner=64, heads=2, key_value_heads=1, vocabulary=1024)
WORLD = World(8, 4, 12, 6)


def part(base: str, **more: Any) -> Part:
    return Part(**({"shape": SHAPE, "world": WORLD, "batch_size": 4, "steps": 3, "warm_up": 1, "device": "cpu",
                    "base": base} | more))  # fmt: skip


# -- benchmarks/two_nodes.py -------------------------------------------------------------------------------------------

CURVE = [{"loss": 2.0, "ntp_loss": 1.5, "nsp_loss": 0.5}, {"loss": 1.0, "ntp_loss": 0.8, "nsp_loss": 0.2}]
NEAR = {"largest_weight_difference": 1e-6, "weight_distance": 1e-5}


# -- benchmarks/retrieval.py -------------------------------------------------------------------------------------------

RETRIEVAL = {
    "runs": [
        {
            "passages": size, "type": "ivf-pq", "build_seconds": size / 1e4, "disk_gb": size * 2e-6, "recall": 0.97,
            "resident_gb": 0.1 + size * 1e-7, "median_ms": math.sqrt(size) / 100, "p95_ms": 20.0,
        }
        for size in (100_000, 300_000, 1_000_000)
    ],
}  # fmt: skip


# -- benchmarks/performance_page.py ------------------------------------------------------------------------------------


def origin() -> dict[str, Any]:
    versions = {"torch": "2.13.0", "transformers": "5.23.0"}
    return {"commit": "abc1234", "hardware": "a machine", "command": "python benchmarks/x.py", "versions": versions}
