"""Training on one large GPU (written for an H200): how much of its arithmetic is used, and what memory is needed.

    python benchmarks/gpu_training.py mfu --json docs/performance/gpu_mfu.json
    python benchmarks/gpu_training.py gradcache --json docs/performance/gpu_gradcache.json
    python benchmarks/gpu_training.py lora_memory --json docs/performance/gpu_lora_memory.json

`mfu`: a pair of about 1 B parameters each with random weights, bf16. Model FLOPs over time, against the rate of an
8192^3 bf16 matrix product measured just before. `gradcache`: tokens a second with few and with many in-batch negatives,
at the same tokens a pack. `lora_memory`: peak memory of two adapters on one base against full training of two models.
Every run has a process of its own. With `--tiny` all of it is small enough to try on a CPU; `--device cpu` runs there
as well. The texts are made of random words; nothing is read.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from gpu_parts import TINY, Part, Shape, World, build_pair, longest_example, make_world, read_part, save_base
from machine import about
from training import parse_options, train_cosup

from cosup.data.writing import write_json

if TYPE_CHECKING:
    import torch
    from yardstick import Counts

    from cosup.modeling import CoSupervisedModel

logger = logging.getLogger(__name__)

FLOPS_FORMULA = (
    "6 x (matrix parameters of the generator's body x its tokens + those of the embedder x its tokens + those of the "
    "head x supervised tokens) + 6 x layers x width of the heads x sum of squared sequence lengths (causal attention); "
    "recomputation not counted"
)


def main() -> None:
    """Run a command's parts, print and write what they give."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    found = _arguments()
    if found.part:
        part = read_part(json.loads(found.part.read_text(encoding="utf-8")))
        found.json.write_text(json.dumps(run_part(part)), encoding="utf-8")
        return
    parts, results = PLANS[found.command](found), {}
    with tempfile.TemporaryDirectory() as folder:
        save_base(next(iter(parts.values())).shape, Path(folder))
        for name, part in parts.items():
            logger.info("%s: %d steps of %d examples", name, part.steps, part.batch_size)
            results[name] = in_own_process(replace(part, base=folder))
    record = {"kind": found.command, **about(sys.argv, found.device, found.commit)}
    record |= {"setting": {name: asdict(part) for name, part in parts.items()}}
    record |= SUMMARIES[found.command](results) | {"runs": results}
    logger.info("%s", json.dumps({k: v for k, v in record.items() if k not in ("runs", "setting")}, indent=2))
    if found.json:
        write_json(found.json, record)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("command", choices=list(PLANS), help="what to measure")
    add("--json", type=Path, help="file to write")
    add("--device", choices=("cpu", "cuda"), default="cuda", help="where to train")
    add("--tiny", action="store_true", help="a pair and a world for trying this script; implies --device cpu")
    add("--layers", type=int, help="layers of each model")
    add("--hidden", type=int, help="width of each model; the inner width follows")
    add("--steps", type=int, help="optimizer steps of each run, warm-up included")
    add("--batch-size", type=int, help="examples a step")
    add("--negatives", type=int, default=4096, help="gradcache: examples contrasted in a step")
    add("--set", dest="options", action="append", default=[], metavar="KEY=VALUE", help="training setting of cosup")
    add("--commit", help="commit to note where git cannot be asked")
    add("--part", type=Path, help=argparse.SUPPRESS)
    found = parser.parse_args()
    found.device = "cpu" if found.tiny else found.device
    found.options = parse_options(found.options)
    return found


# -- what each command runs --------------------------------------------------------------------------------------------


def plan_mfu(found: argparse.Namespace) -> dict[str, Part]:
    """One run whose step is a single pack, so that nothing is computed twice."""
    batch = found.batch_size or (4 if found.tiny else 64)
    steps = found.steps or (3 if found.tiny else 12)
    world = World(4 * batch, 4, 12, 6) if found.tiny else World(4 * batch)
    part = Part(_shape(found), world, batch, steps, 1 if found.tiny else 3, found.device)
    return {"mfu": replace(part, matmul=256 if found.tiny else 8192, options=found.options)}


def plan_gradcache(found: argparse.Namespace) -> dict[str, Part]:
    """The same tokens a pack: once one pack a step, once as many as the negatives need."""
    few, many = (4, 16) if found.tiny else (found.batch_size or 64, found.negatives)
    world = World(many, 4, 12, 6, 0.0) if found.tiny else World(many, 24, 128, 64, 0.0)
    options = dict(found.options)
    pack = options.setdefault("micro_batch_tokens", few * longest_example(world))
    logger.info("packs of at most %d tokens", pack)
    shape, warm_up = _shape(found), 1 if found.tiny else 3
    first = Part(shape, world, few, found.steps or 4 * warm_up, warm_up, found.device, options=options)
    return {"few": first, "many": replace(first, batch_size=many, steps=3 if found.tiny else 4, warm_up=1)}


def plan_lora_memory(found: argparse.Namespace) -> dict[str, Part]:
    """8 x 512 tokens a step in the generator, activation checkpointing on; full training, then two adapters."""
    batch = found.batch_size or (2 if found.tiny else 8)
    world = World(4 * batch, 4, 12, 6, 0.0) if found.tiny else World(4 * batch, 60, 250, 179, 0.0)
    options = {"gradient_checkpointing": True} | found.options
    full = Part(_shape(found), world, batch, found.steps or 3, 1, found.device, options=options)
    return {"full": full, "lora": replace(full, adapters=True)}


PLANS: dict[str, Callable[[argparse.Namespace], dict[str, Part]]] = {
    "mfu": plan_mfu,
    "gradcache": plan_gradcache,
    "lora_memory": plan_lora_memory,
}


def _shape(found: argparse.Namespace) -> Shape:
    shape = TINY if found.tiny else Shape()
    if found.hidden:
        heads = max(1, found.hidden // 128)
        shape = replace(shape, hidden=found.hidden, inner=4 * found.hidden, heads=heads, key_value_heads=heads)
    return replace(shape, layers=found.layers) if found.layers else shape


# -- one run -----------------------------------------------------------------------------------------------------------


def in_own_process(part: Part) -> dict[str, Any]:
    """Run a part in a fresh process, so that no run sees another's memory."""
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory() as name:
        given, result = Path(name) / "part.json", Path(name) / "result.json"
        given.write_text(json.dumps(asdict(part)), encoding="utf-8")
        words = [str(Path(__file__).resolve()), "mfu", "--part", str(given), "--json", str(result)]
        if subprocess.run([sys.executable, *words], check=False, env=environment).returncode:
            raise SystemExit("a run failed; its own message stands above")
        found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return found


def run_part(part: Part) -> dict[str, Any]:
    """Train in this process and return rates, memory and, where a product was timed, the arithmetic."""
    import torch
    from yardstick import Meter, peak_memory_gb

    device = torch.device(part.device)
    peak = matmul_flops(part.matmul, device) if part.matmul else None
    model = build_pair(part)
    sizes = matrix_parameters(model)
    passages, examples = make_world(part.world, part.shape.vocabulary)
    chosen = list(islice(cycle(examples), part.steps * part.batch_size))
    meter = Meter(device, part.warm_up)
    train_cosup(model, passages, chosen, options_of(part), meter)
    if part.options.get("gradient_checkpointing") and not checkpoints(model):
        raise SystemExit("activation checkpointing is not on in both models; the memory would mean nothing")
    figures = meter.report() | {"peak_memory_gb": peak_memory_gb(device), "matrix_parameters": sizes}
    if peak is not None:
        figures |= {"matmul_flops": peak, "flops": median(flops_rates(meter, sizes, part.shape))}
    return figures


def checkpoints(model: CoSupervisedModel) -> bool:
    """Whether both models compute activations again in the backward pass."""
    from cosup.lean import recomputes

    return all(map(recomputes, (model.generator, model.embedder)))


def options_of(part: Part) -> dict[str, Any]:
    """Return the run's settings: bf16, a constant rate, the loader's work beside the GPU's; then the part's own."""
    return {
        "max_steps": part.steps,
        "per_device_train_batch_size": part.batch_size,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "bf16": True,
        "use_cpu": part.device == "cpu",
        "dataloader_num_workers": 4 if part.device == "cuda" else 0,
        **part.options,
    }


def matmul_flops(side: int, device: torch.device) -> float:
    """Return the operations a second of a bf16 matrix product [side, side] x [side, side]: 2 side^3 over its time.

    The median of ten timed products of random numbers, after three.
    """
    import torch

    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(13):
        _wait(device)
        start = time.perf_counter()
        torch.mm(a, b)
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / median(seconds[3:])


def _wait(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_parameters(model: CoSupervisedModel) -> dict[str, int]:
    """Return the parameters of the matrices that every token (or every supervised one, for the head) meets."""

    def of_body(body: Any) -> int:
        rows = {id(p) for p in body.get_input_embeddings().parameters()}
        return sum(p.numel() for p in body.parameters() if p.ndim == 2 and id(p) not in rows)

    head: Any = model.generator.get_output_embeddings()
    sizes = {"generator": of_body(model.generator.base_model), "embedder": of_body(model.embedder)}
    return sizes | {"head": int(head.weight.numel())}


def step_flops(counts: Counts, sizes: Mapping[str, int], shape: Shape) -> float:
    """Return the model FLOPs of a step, forward and backward; see `FLOPS_FORMULA`.

    A matrix of N parameters takes 2 N operations a token forwards and 4 N backwards. Attention over L tokens takes
    4 L^2 d a layer forwards (scores and mixing, d the width of all heads), half of it under the causal mask, and twice
    that backwards: 6 L^2 d.
    """
    tokens = {"generator": counts.generator, "embedder": counts.embedder, "head": counts.supervised}
    matrices = 6 * sum(sizes[name] * tokens[name] for name in tokens)
    squares = counts.generator_squares + counts.embedder_squares
    return matrices + 6 * shape.layers * shape.hidden * squares


def flops_rates(meter: Any, sizes: Mapping[str, int], shape: Shape) -> list[float]:
    """Return the model FLOPs a second of each step after the warm-up."""
    timed = list(zip(meter.steps, meter.seconds, strict=True))[meter.warm_up :]
    return [step_flops(counts, sizes, shape) / seconds for counts, seconds in timed]


# -- what the runs say -------------------------------------------------------------------------------------------------


def summarise_mfu(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the share of the measured product's rate."""
    own = results["mfu"]
    shared = {name: own[name] for name in ("tokens_per_second", "peak_memory_gb", "matmul_flops", "flops")}
    return shared | {"mfu": own["flops"] / own["matmul_flops"], "formula": FLOPS_FORMULA}


def summarise_gradcache(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return how many times slower a token is with many negatives."""
    few, many = (results[name]["tokens_per_second"] for name in ("few", "many"))
    return {"few_tokens_per_second": few, "many_tokens_per_second": many, "slowdown": few / many}


def summarise_lora_memory(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the adapters' peak as a share of full training's."""
    full, lora = (results[name]["peak_memory_gb"] for name in ("full", "lora"))
    return {"full_peak_memory_gb": full, "lora_peak_memory_gb": lora, "memory_ratio": lora / full}


SUMMARIES: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "mfu": summarise_mfu,
    "gradcache": summarise_gradcache,
    "lora_memory": summarise_lora_memory,
}


if __name__ == "__main__":
    main()
