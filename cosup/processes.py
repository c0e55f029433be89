"""The processes of a run: sums and maxima over them, and who may write."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

# How long a process waits for the others: one may have far more to do. torchrun sees processes that died.
PATIENCE = timedelta(days=7)


def join() -> None:
    """Meet the other processes, where torchrun has started several and none has done so yet; alone, do nothing.

    They meet over gloo, which needs no accelerator; meant for work whose processes send one another little.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        distributed.init_process_group("gloo", timeout=PATIENCE)


def local_rank() -> int:
    """Return this process's number on its machine, which is that of its device."""
    return int(os.environ.get("LOCAL_RANK", "0")) if world_size() > 1 else 0


def world_size() -> int:
    """Return the number of processes that work together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Return this process's number among them."""
    return distributed.get_rank() if world_size() > 1 else 0


def sum_over(values: Sequence[float], device: torch.device) -> list[float]:
    """Add numbers up over all processes (in float64)."""
    return _reduced(values, device, torch.distributed.ReduceOp.SUM)


def max_over(values: Sequence[float], device: torch.device) -> list[float]:
    """Return the largest of every process's numbers, one by one."""
    return _reduced(values, device, torch.distributed.ReduceOp.MAX)


def _reduced(values: Sequence[float], device: torch.device, operation: Any) -> list[float]:
    if world_size() == 1:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(tensor, operation)
    found: list[float] = tensor.tolist()
    return found


def gather_objects(value: Any) -> list[Any]:
    """Return every process's value, in the order of the processes."""
    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    distributed.all_gather_object(found, value)
    return found


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        distributed.barrier()


def leave(code: int) -> None:
    """End this process at once where it is one of several; alone, do nothing.

    gloo's threads outlive the process group: one that lets go of a tensor while Python shuts down aborts the process
    (`terminate called without an active exception`), and torchrun then calls a finished run failed.

    Args:
        code: the exit code. Where it is not 0 the others are not waited for: they may be gone.
    """
    if world_size() == 1:
        return
    if code == 0:
        distributed.destroy_process_group()
    atexit._run_exitfuncs()  # trackers close their runs here
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
