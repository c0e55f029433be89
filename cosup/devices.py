"""What the device at hand is good at."""

from __future__ import annotations

import torch

_HALF_ON_CPU = ("avx512_bf16", "amx_bf16", "bf16")  # x86 (two kinds), Arm


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 by instructions of its own, so that it is faster than float32 there."""
    if device.type == "cpu":
        ask = getattr(torch.cpu, "get_capabilities", None)
        found = ask() if ask is not None else {}
        return any(found.get(name) for name in _HALF_ON_CPU)
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)


def quick_dtype(device: torch.device) -> torch.dtype:
    """Return the type that weights are held in to embed and to answer, where nothing else is asked for."""
    return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
