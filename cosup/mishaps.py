"""What other libraries' errors mean where nobody's input is wrong: memory ran out, a device or a process is gone.

Full disks too, which some libraries tell in words of their own.
"""

from __future__ import annotations

import errno
import os
import re

_NO_MEMORY = (
    "out of memory",  # CUDA, and torch's other devices
    "can't allocate memory",  # torch on a CPU
    "cannot allocate memory",  # the system
    "unable to allocate",  # numpy
    "bad_alloc",
    "alloc_failed",  # cuBLAS, cuDNN
    "could not create a memory object",  # oneDNN, as the next
    "could not create a primitive",
    "can't start new thread",  # its stack found no room
)
_NO_DEVICE = ("cuda error", "cudnn error", "cublas error", "hip error", "no cuda gpus", "device-side assert")
_NO_PROCESS = (
    "nccl error",
    "connection closed by peer",
    "connection reset by peer",
    "broken pipe",
    "timed out waiting",
    "timeout",
)
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_CUT_OFF = ("PytorchStreamWriter", "unexpected pos", "requested and")  # torch.save, torch.save, numpy.save
_ASKED = re.compile(r"allocate ([\d.]+) ?(bytes|[KMGTP]i?B)", re.IGNORECASE)


def out_of_memory(error: BaseException) -> str | None:
    """Return what is to be said where an error means that memory ran out, else None.

    Returns:
        `out of memory`, and how much was asked for where that is known.
    """
    text = str(error)
    ran_out = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    ran_out = ran_out or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    if not ran_out and not (isinstance(error, RuntimeError) and _has(text, _NO_MEMORY)):
        return None
    found = _ASKED.search(text)
    if found is None:
        return "out of memory"
    size, unit = found.groups()
    asked = _shown(float(size)) if unit.lower() == "bytes" else f"{size} {unit}"
    return f"out of memory ({asked} more were asked for)"


def disk_trouble(error: BaseException) -> str | None:
    """Return the reason where an error, or what caused it, says that the disk could not take what was written."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, OSError) and chain.errno in _DISK:
            return os.strerror(chain.errno).lower()
        if found := re.search(r"os error (\d+)", str(chain)):  # safetensors
            return os.strerror(int(found.group(1))).lower()
        if any(sign in str(chain) for sign in _CUT_OFF):
            return "the disk is full or cannot be written"
        chain = chain.__cause__ or chain.__context__
    return None


def lost_device(error: BaseException) -> str | None:
    """Return the first line of an error that says that an accelerator failed or is gone, else None."""
    is_named = type(error).__name__ == "AcceleratorError"
    return _first_line(error) if is_named or _is_runtime(error, _NO_DEVICE) else None


def lost_process(error: BaseException) -> str | None:
    """Return the first line of an error that says that another process of a run is gone, else None."""
    return _first_line(error) if _is_runtime(error, _NO_PROCESS) else None


def _shown(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"


def _is_runtime(error: BaseException, signs: tuple[str, ...]) -> bool:
    return isinstance(error, RuntimeError) and _has(_first_line(error), signs)


def _has(text: str, signs: tuple[str, ...]) -> bool:
    lower = text.lower()
    return any(sign in lower for sign in signs)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
