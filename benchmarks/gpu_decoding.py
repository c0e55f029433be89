"""Decoding on one large GPU: how much of its memory's bandwidth the engine's cache uses.

    python benchmarks/gpu_decoding.py --json docs/performance/gpu_decoding.json

A Llama-2-7B-shaped generator with random bf16 weights writes a token for each of 64 rows a step, as the engine lets it:
one flat row of new tokens over slots (`SlotRows`), the head, the likeliest token. A step has to read the weights (the
embedding's rows aside) and the keys and values of all rows; these bytes over its time, against what a copy between two
large tensors reads and writes a second, is the share. `--tiny` is small enough to try on a CPU.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from machine import about

from cosup.data.writing import write_json

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from cosup.generation.cache import SlotRows

logger = logging.getLogger(__name__)

HALF = 2  # bytes of a bfloat16 number


@dataclass(frozen=True)
class Setting:
    """What is measured; as it stands, Llama 2 7B at batch 64.

    Attributes:
        layers: of the model.
        hidden: its width.
        inner: width of its gated layers.
        heads: of attention, each with keys of its own.
        vocabulary: rows of embedding and head.
        rows: that write at once.
        context: tokens that each row holds before the first timed step.
        steps: timed steps.
        warm_up: steps before them.
        copied: bytes of the tensor that is copied to measure the bandwidth.
        device: `cpu` or `cuda`.
    """

    layers: int = 32
    hidden: int = 4096
    inner: int = 11_008
    heads: int = 32
    vocabulary: int = 32_003
    rows: int = 64
    context: int = 512
    steps: int = 64
    warm_up: int = 16
    copied: int = 4 << 30
    device: str = "cuda"


TINY = Setting(2, 32, 64, 2, 100, rows=3, context=20, steps=4, warm_up=1, copied=1 << 20, device="cpu")


def main() -> None:
    """Measure, print the table, write the file."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="so small that a CPU can")
    parser.add_argument("--rows", type=int, help="that write at once")
    parser.add_argument("--context", type=int, help="tokens that each row holds before")
    parser.add_argument("--commit", help="where git cannot be asked")
    parser.add_argument("--json", type=Path, help="file to write")
    found = parser.parse_args()
    own = TINY if found.tiny else Setting()
    given = {name: value for name in ("rows", "context") if (value := getattr(found, name)) is not None}
    setting = Setting(**asdict(own) | given)
    record = {**about(sys.argv, setting.device, found.commit), **measure(setting)}
    logger.info("%s", "\n".join(table(record)))
    if found.json:
        write_json(found.json, record)


def measure(setting: Setting) -> dict[str, Any]:
    """Fill the rows, write, and return the figures."""
    import torch

    device = torch.device(setting.device)
    bandwidth = copied_per_second(setting.copied, device)
    model = random_model(setting)
    with torch.inference_mode():
        rows = filled_rows(model, setting)
        seconds = write(model, rows, setting)
    step, read = median(seconds), bytes_of_step(model, setting)
    return {
        "settings": asdict(setting),
        "tokens_per_second": setting.rows / step,
        "step_milliseconds": 1000 * step,
        "bytes_per_step": read,
        "bandwidth": bandwidth,
        "share": read / step / bandwidth,
    }


def copied_per_second(size: int, device: torch.device) -> float:
    """Return the bytes a second that a copy of so many reads and writes; the median of ten, after three."""
    import torch

    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / median(_timed(lambda: target.copy_(source), device) for _ in range(13))


def _timed(run: Any, device: torch.device) -> float:
    import torch

    begun = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def random_model(setting: Setting) -> PreTrainedModel:
    """Return a Llama-shaped model with random bf16 weights that takes slots.

    Raises:
        RuntimeError: it does not.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from cosup.generation.cache import SlotRows, cache_class
    from cosup.trials import enable_packing

    config = LlamaConfig(
        vocab_size=setting.vocabulary,
        hidden_size=setting.hidden,
        intermediate_size=setting.inner,
        num_hidden_layers=setting.layers,
        num_attention_heads=setting.heads,
        max_position_embeddings=4096,
    )
    torch.manual_seed(0)
    plain = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(setting.device):
            model = LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(plain)
    if not enable_packing(model) or cache_class(model) is not SlotRows:
        raise RuntimeError("this model cannot keep its rows in slots; what would be measured is not what is meant")
    return model


def filled_rows(model: PreTrainedModel, setting: Setting) -> SlotRows:
    """Return rows that have read random tokens, one row a feeding."""
    import torch

    from cosup.generation.cache import SlotRows

    rows = SlotRows(model, setting.rows)
    ids = torch.randint(setting.vocabulary, (setting.rows, setting.context)).tolist()
    for _ in range(setting.rows):
        rows.enter()
    for row in range(setting.rows):
        rows.feed([ids[row] if row == other else [] for other in range(setting.rows)])
    return rows


def write(model: PreTrainedModel, rows: SlotRows, setting: Setting) -> list[float]:
    """Write a token for each row a step; return the seconds of the timed steps."""
    head: Any = model.get_output_embeddings()
    tokens, seconds = [0] * setting.rows, []
    for _ in range(setting.warm_up + setting.steps):
        begun = time.perf_counter()
        states = rows.feed([[token] for token in tokens])
        tokens = head(states).argmax(dim=-1).tolist()  # waits for the device
        seconds.append(time.perf_counter() - begun)
    return seconds[setting.warm_up :]


def bytes_of_step(model: PreTrainedModel, setting: Setting) -> float:
    """Return the bytes that a step in the middle of the timed ones has to read."""
    table: Any = model.get_input_embeddings()
    weights = sum(p.numel() for p in model.parameters()) - table.weight.numel() + setting.rows * setting.hidden
    length = setting.context + setting.warm_up + setting.steps / 2
    return HALF * (weights + setting.rows * length * 2 * setting.layers * setting.hidden)


def table(record: dict[str, Any]) -> Sequence[str]:
    """Return the figures as lines of a Markdown table."""
    rate, step = f"{record['tokens_per_second']:.0f}", f"{record['step_milliseconds']:.1f}"
    read, bandwidth = f"{record['bytes_per_step'] / 1e9:.1f}", f"{record['bandwidth'] / 1e12:.2f}"
    return [
        "| rows | tokens/s | step, ms | GB read a step | bandwidth, TB/s | share |",
        "|---:|---:|---:|---:|---:|---:|",
        f"| {record['settings']['rows']} | {rate} | {step} | {read} | {bandwidth} | {100 * record['share']:.0f}% |",
    ]


if __name__ == "__main__":
    main()
