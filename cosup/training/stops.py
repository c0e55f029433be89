"""Why a run stopped that nothing of ours has stopped, as an error that says what to do."""

from __future__ import annotations

from pathlib import Path

from cosup.errors import CosupError, UsageError
from cosup.mishaps import lost_device, lost_process, out_of_memory
from cosup.processes import rank, world_size
from cosup.training.config import CoSupervisionConfig
from cosup.training.recipe import DataSettings


def explained(error: BaseException, config: CoSupervisionConfig, data: DataSettings) -> CosupError | None:
    """Return what is to be raised for an error of other libraries: out of memory, a device or a process gone.

    Returns:
        The error, or None where this one means none of these.
    """
    if told := out_of_memory(error):
        where = f" on process {rank()}" if world_size() > 1 else ""
        return UsageError(f"{told}{where}; {_less(config, data)}; {_kept(config)}")
    if told := lost_device(error):
        return CosupError(f"the device failed ({told}); {_kept(config)}")
    if world_size() > 1 and (told := lost_process(error)):
        return CosupError(f"process {rank()} of the run lost another one ({told}); the run stops; {_kept(config)}")
    return None


def _less(config: CoSupervisionConfig, data: DataSettings) -> str:
    """Say which settings make a step smaller, those first that change none of its results."""
    size = config.micro_batch_tokens
    first = "set micro_batch_tokens (2048, say)" if size is None else f"lower micro_batch_tokens (now {size})"
    further = [] if config.activation_checkpointing else ["set activation_checkpointing to true"]
    batch = config.per_device_train_batch_size
    further.append(f"lower per_device_train_batch_size (now {batch}) with more gradient_accumulation_steps")
    further.append(f"lower data.max_length (now {data.max_length})")
    return f"{first}, else {', or '.join(further)}"


def _kept(config: CoSupervisionConfig) -> str:
    """Say whether the run can go on."""
    if any(Path(str(config.output_dir)).glob("checkpoint-*")):
        return "the same command goes on from the last checkpoint"
    return "there is no checkpoint yet, and the same command begins anew"
