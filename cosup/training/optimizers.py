"""Two optimizers in one step: Muon for a model's hidden matrices, another for everything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn


class JointOptimizer(torch.optim.Optimizer):
    """Steps several optimizers, each over its own parameters, as one.

    Args:
        parts: the optimizers; schedules and clipping see all their parameter groups.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = list(parts)
        super().__init__([dict(group) for part in self.parts for group in part.param_groups], {})
        self._share_groups()

    def _share_groups(self) -> None:
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take one step of every part; closures are not supported."""
        if closure is not None:
            raise ValueError("a joint optimizer takes no closure")
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Return every part's state."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share_groups()


def hidden_matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return a model's trainable matrices between embedding and head: those that Muon is made for."""
    ends = {id(m.weight) for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m is not None}  # type: ignore[operator]
    return {name: p for name, p in model.named_parameters() if p.requires_grad and p.ndim == 2 and id(p) not in ends}
