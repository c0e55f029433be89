"""What a run needs beside its model to go on: the state of optimizer, schedule and callbacks, the size of its steps.

An optimizer's state is kept by parameter name, whatever the sharding, so that a run goes on with another number of
devices.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import TrainerState
from transformers.trainer_callback import ExportableState

from cosup.errors import CosupError, UsageError
from cosup.training.optimizers import JointOptimizer
from cosup.training.saving import STATE

OPTIMIZER, SCHEDULER, STEP = "optimizer.pt", "scheduler.pt", "step.json"


def save_optimizer(folder: Path, optimizer: torch.optim.Optimizer, schedule: Any, model: nn.Module, keep: bool) -> None:
    """Write an optimizer's and its schedule's state into a checkpoint.

    Args:
        folder: the checkpoint.
        optimizer: its parameters are the model's; where they are sharded, every process takes part.
        schedule: of its learning rates.
        model: gives the names.
        keep: whether this process writes.
    """
    state = state_by_name(optimizer, model, keep)
    if keep:
        torch.save(state, folder / OPTIMIZER)
        torch.save(schedule.state_dict(), folder / SCHEDULER)


def load_optimizer(folder: Path, optimizer: torch.optim.Optimizer, schedule: Any, model: nn.Module) -> None:
    """Put back what `save_optimizer` wrote.

    Raises:
        UsageError: the checkpoint holds the model alone.
        CosupError: it is of other parameters.
    """
    if not (folder / OPTIMIZER).is_file():
        raise UsageError(
            f"{folder} holds the model alone (save_only_model), and training cannot go on without its optimizer; start "
            "anew with another --output_dir"
        )
    saved = torch.load(folder / OPTIMIZER, weights_only=True, mmap=True)  # read as it is copied
    load_state_by_name(optimizer, model, saved)
    schedule.load_state_dict(torch.load(folder / SCHEDULER, weights_only=True))


def save_state(folder: Path, state: TrainerState, parts: Iterable[Any], step: int) -> None:
    """Write how far a run is into a checkpoint.

    Args:
        folder: the checkpoint.
        state: of the trainer; takes up the states of `parts`.
        parts: callbacks and control; those that can be exported are.
        step: examples of a step, on all devices.
    """
    kept: Any = state.stateful_callbacks
    for part in parts:
        if isinstance(part, ExportableState):
            name, own = part.__class__.__name__, part.state()
            if isinstance(kept.get(name), list):
                kept[name].append(own)
            else:
                kept[name] = own
    (folder / STEP).write_text(json.dumps({"examples": step}), encoding="utf-8")
    state.save_to_json(str(folder / STATE))


def check_step_size(folder: Path, step: int) -> None:
    """Refuse to go on with steps of another size: places in the data are counted in steps.

    Raises:
        UsageError: the checkpoint was made with another number of examples a step.
    """
    file = folder / STEP
    made = json.loads(file.read_text(encoding="utf-8"))["examples"] if file.is_file() else step
    if made != step:
        raise UsageError(
            f"{folder} was made with {made} examples a step, and this start has {step}; set "
            "per_device_train_batch_size x gradient_accumulation_steps x devices to the same"
        )


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
        inner.share_groups()


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
