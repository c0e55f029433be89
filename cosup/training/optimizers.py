"""Optimizers: Muon and another one in one step; and their state by parameter name, whatever the sharding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from cosup.errors import CosupError


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
    """Return a model's trainable matrices between embedding and head, without adapters: those Muon is made for."""
    modules = (model.get_input_embeddings(), model.get_output_embeddings())  # type: ignore[operator]
    ends = {id(p) for module in modules if module is not None for p in module.parameters()}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad and p.ndim == 2 and id(p) not in ends}
    return {name: p for name, p in trained.items() if "lora_" not in name}


def state_by_name(optimizer: torch.optim.Optimizer, model: nn.Module, keep: bool = True) -> dict[str, Any]:
    """Return an optimizer's state by parameter name, unsharded and on the CPU.

    The same for one process, DDP and FSDP2, so that a run can go on with another number of devices. A collective call
    where parameters are sharded: every process has to make it.

    Args:
        optimizer: its parameters are the model's.
        model: gives the names.
        keep: whether this process wants the result; the others get an empty state.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    state: dict[str, dict[str, Any]] = {}
    for part in _parts(optimizer):
        for p in (p for group in part.param_groups for p in group["params"]):
            values = {key: _whole(value) for key, value in part.state.get(p, {}).items()}
            if keep:
                state[names[id(p)]] = values
    groups = [
        {key: value for key, value in group.items() if key != "params"}
        | {"names": [names[id(p)] for p in group["params"]]}
        for group in optimizer.param_groups
    ]
    return {"state": state, "groups": groups}


def load_state_by_name(optimizer: torch.optim.Optimizer, model: nn.Module, saved: dict[str, Any]) -> None:
    """Put back what `state_by_name` gave, sharded as the model's parameters are now.

    Raises:
        CosupError: the parameters are not those of the saved state.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    by_name = {name: group for group in saved["groups"] for name in group["names"]}
    for part in _parts(optimizer):
        state, groups, count = {}, [], 0
        for group in part.param_groups:
            own = [names[id(p)] for p in group["params"]]
            missing = next((name for name in own if name not in by_name), None)
            if missing is not None:
                raise CosupError(f"the checkpoint's optimizer has no state for '{missing}'; it was made by another run")
            for p, name in zip(group["params"], own, strict=True):
                state[count] = {key: _sharded_as(p, value) for key, value in saved["state"].get(name, {}).items()}
                count += 1
            kept = {key: value for key, value in by_name[own[0]].items() if key != "names"} if own else {}
            groups.append({**{k: v for k, v in group.items() if k != "params"}, **kept})
            groups[-1]["params"] = list(range(count - len(own), count))
        part.load_state_dict({"state": {k: v for k, v in state.items() if v}, "param_groups": groups})
    inner = _unwrapped(optimizer)
    if isinstance(inner, JointOptimizer):
        inner._share_groups()


def _unwrapped(optimizer: Any) -> torch.optim.Optimizer:
    """Return what accelerate's wrapper holds."""
    inner: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    return inner


def _parts(optimizer: torch.optim.Optimizer) -> Iterator[torch.optim.Optimizer]:
    inner = _unwrapped(optimizer)
    yield from inner.parts if isinstance(inner, JointOptimizer) else [inner]


def _whole(value: Any) -> Any:
    if isinstance(value, DTensor):
        value = value.full_tensor()
    return value.detach().cpu().clone() if isinstance(value, torch.Tensor) else value


def _sharded_as(parameter: nn.Parameter, value: Any) -> Any:
    if isinstance(parameter, DTensor) and isinstance(value, torch.Tensor) and value.shape == parameter.shape:
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value
