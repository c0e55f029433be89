"""FSDP2: on a CPU as well, and the whole weights of a pair that it has sharded."""

from __future__ import annotations

from typing import Any

from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.tensor import DTensor


def shard_on_cpu(accelerator: Any, plugin_args: Any) -> None:
    """Switch an accelerator that runs on CPUs to FSDP2; accelerate itself does so on accelerators alone."""
    plugin = FullyShardedDataParallelPlugin(**plugin_args)
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin


def is_sharded(model: nn.Module) -> bool:
    """Whether this process holds shards of a model's parameters alone."""
    return any(isinstance(p, DTensor) for p in model.parameters())


def unsharded_state(model: nn.Module) -> dict[str, Any] | None:
    """Return the whole weights of a sharded model, on the CPU (a collective call); None where it holds them itself."""
    if not is_sharded(model):
        return None
    return dict(get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)))
