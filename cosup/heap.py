"""The C library's heap: what a process keeps of the memory that it frees.

A step of training on a CPU frees gigabytes that the next step asks for again. glibc gives such memory back to the
system, which hands it out again page by page, zeroed, which takes time. Keeping it costs no memory at the peak. A
server is the other way round: each thread that opened an index keeps what it freed, and memory grows until all have.
"""

from __future__ import annotations

import ctypes
import os
import sys

_KERNELS = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")  # of oneDNN, and of torch's way to it
_FEW_KERNELS = 128
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of mallopt(3)
_NEVER = -1


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, from now on; returns whether it will.

    Only with glibc, and only where the user has not tuned it by `MALLOC_..` or `GLIBC_TUNABLES`.
    """
    tuned = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if tuned or not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, 64 << 20))
    return all(bool(mallopt(name, value)) for name, value in wanted)


def keep_few_kernels() -> None:
    """Let oneDNN keep the code of few matrix products, before the first; where the user has not said of how many.

    It writes code for every shape that it meets, and keeps that of 1,024 shapes at each of two places. A batch of
    answers has another shape at every step, so that a server's memory would go on growing.
    """
    for name in _KERNELS:
        os.environ.setdefault(name, str(_FEW_KERNELS))


def give_back_freed_memory() -> bool:
    """Give the system what was kept of what was freed, in a process that goes on with other work; whether any was.

    Collect garbage first: trainers are freed by the collector alone.
    """
    if not sys.platform.startswith("linux"):
        return False
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim is not None and bool(trim(0))
