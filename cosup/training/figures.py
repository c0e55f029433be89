"""What a run tells about itself between two logs: losses, speed, padding, memory, gradient norms."""

from __future__ import annotations

import re
import resource
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from cosup.modeling import CoSupervisedModel
from cosup.processes import max_over, sum_over

_SUMS = ("ntp", "tokens", "nsp", "correct", "retrievals", "negatives", "real", "all")


class Figures:
    """Sums since the last log; tensors are added up on their device and read when logged."""

    def __init__(self) -> None:
        self._sums: dict[str, Any] = dict.fromkeys(_SUMS, 0.0)
        self._norms: dict[str, float] = {}
        self.begin()

    def begin(self) -> None:
        """Start both clocks: that of the run, and that of what the next log shows."""
        self._began = self._since = time.monotonic()

    def began_at(self) -> float:
        """Return when the run began on the wall clock as it is now: that clock may have jumped since."""
        return time.time() - (time.monotonic() - self._began)

    def add(self, **values: Any) -> None:
        """Add to the sums: `ntp`, `tokens`, `nsp`, `correct`, `retrievals`, `negatives`, `real` and `all` tokens."""
        for name, value in values.items():
            self._sums[name] = self._sums[name] + (value.detach() if isinstance(value, torch.Tensor) else value)

    def set_norms(self, **norms: float) -> None:
        """Keep the newest gradient norms, by name."""
        self._norms = norms

    def start(self) -> None:
        """Start the clock anew (after work that is no training, such as an evaluation)."""
        self._since = time.monotonic()

    def take(self, device: torch.device) -> dict[str, float]:
        """Return what a log shows, over all processes, and begin anew. A collective call.

        Returns:
            `ntp_loss` (nats a supervised token), `nsp_loss` (nats a retrieval), `nsp_accuracy` (share of 1),
            `nsp_negatives` (mean number a retrieval), `tokens_per_second` (real tokens of both models, all devices),
            `padding_share` (of all tokens run), `memory_gb` (10^9 bytes: peak of the fullest device, or of a process on
            the CPU), `<part>_grad_norm`.
        """
        sums = dict(zip(_SUMS, sum_over([float(self._sums[name]) for name in _SUMS], device), strict=True))
        seconds, memory = max_over([time.monotonic() - self._since, peak_memory(device)], device)
        found: dict[str, float] = {}
        if sums["tokens"]:
            found["ntp_loss"] = sums["ntp"] / sums["tokens"]
        if sums["retrievals"]:
            found["nsp_loss"] = sums["nsp"] / sums["retrievals"]
            found["nsp_accuracy"] = sums["correct"] / sums["retrievals"]
            found["nsp_negatives"] = sums["negatives"] / sums["retrievals"]
        if sums["all"]:
            found["tokens_per_second"] = round(sums["real"] / max(seconds, 1e-9), 1)
            found["padding_share"] = round(1 - sums["real"] / sums["all"], 4)
        found["memory_gb"] = round(memory / 1e9, 3)
        found |= {f"{part}_grad_norm": value for part, value in self._norms.items()}
        self._sums = dict.fromkeys(_SUMS, 0.0)
        self.start()
        return found


def peak_memory(device: torch.device) -> float:
    """Return the largest number of bytes held so far: on the device, or by this process on a CPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.is_file():  # what getrusage gives on Linux may be the peak of the process that started this one
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))
        if found:
            return float(found.group(1)) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def grad_norm(parameters: Iterable[nn.Parameter]) -> float:
    """Return the 2-norm of all gradients together; a collective call where they are sharded."""
    grads = [p.grad for p in parameters if p.grad is not None]
    if not grads:
        return 0.0
    norm = torch.linalg.vector_norm(
        torch.stack([n.full_tensor() if isinstance(n, DTensor) else n for n in _norms(grads)])
    )
    return float(norm)


def gradient_norms(model: CoSupervisedModel, scale: float) -> dict[str, float]:
    """Return the gradients' norms by model; parameters that both share count as the generator's.

    Args:
        model: the pair.
        scale: what the gradients are multiplied by at present (float16).
    """
    shared = {id(p) for p in model.generator.parameters()}
    parts = {
        "generator": (p for p in model.generator.parameters() if p.requires_grad),
        "embedder": (p for p in model.embedder.parameters() if p.requires_grad and id(p) not in shared),
    }
    return {name: grad_norm(own) / scale for name, own in parts.items()}


def _norms(grads: list[torch.Tensor]) -> Iterable[torch.Tensor]:
    return torch._foreach_norm(grads)
