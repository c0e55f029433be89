"""A temperature that is learnt: a parameter of its logarithm, never below a bound."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from cosup.errors import UsageError

MIN_TEMPERATURE = 0.005


def learnt_from(temperature: float, device: torch.device) -> nn.Parameter:
    """Return the parameter of a temperature that is learnt, [1].

    Raises:
        UsageError: the temperature to start from is below `MIN_TEMPERATURE`.
    """
    if temperature < MIN_TEMPERATURE:
        raise UsageError(f"temperature is {temperature}; learnt, it starts from {MIN_TEMPERATURE} up")
    start = torch.tensor([math.log(temperature)], device=device)
    return nn.Parameter(start)  # one element, not a scalar, which FSDP2 cannot shard


def value_of(log_temperature: torch.Tensor) -> float:
    """Return the temperature that a parameter stands for. Of a sharded one, a collective call."""
    value: Any = log_temperature.detach()
    return max(MIN_TEMPERATURE, math.exp(float(value.full_tensor() if hasattr(value, "full_tensor") else value)))


def bounded(log_temperature: nn.Parameter) -> torch.Tensor:
    """Return the logarithm of the temperature that the loss uses, a scalar with its graph."""
    least: torch.Tensor = _AtLeast.apply(log_temperature, math.log(MIN_TEMPERATURE))  # type: ignore[no-untyped-call]
    return least.sum()  # of one; not a view, over which FSDP2 warns


class _AtLeast(torch.autograd.Function):
    """`max(value, bound)`, through which a gradient that would raise the value passes even below the bound."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, bound: float) -> torch.Tensor:
        ctx.save_for_backward(value <= bound)
        return value.clamp_min(bound)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (at_bound,) = ctx.saved_tensors
        return gradient.masked_fill(at_bound & (gradient > 0), 0.0), None
