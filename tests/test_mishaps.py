"""Errors of other libraries, as they really come, are known for what they mean."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cosup.mishaps import lost_device, lost_process, out_of_memory

MUCH = 1 << 50
CUDA = "CUDA out of memory. Tried to allocate 20.50 GiB. GPU 0 has a total capacity of 79.11 GiB of which .."


@pytest.mark.parametrize(
    ("allocate", "asked"),
    [
        (lambda: torch.empty(MUCH, dtype=torch.uint8), "1.1e+06 GB"),
        (lambda: np.ones(MUCH, dtype=np.uint8), "1.00 PiB"),
        (lambda: bytearray(MUCH), None),
    ],
)
def test_allocations_that_fail_are_known(allocate: Callable[[], Any], asked: str | None) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as found:
        allocate()
    expected = "out of memory" + (f" ({asked} more were asked for)" if asked else "")
    assert out_of_memory(found.value) == expected
    assert lost_device(found.value) is None


def test_those_of_accelerators_are_known() -> None:
    assert out_of_memory(torch.OutOfMemoryError(CUDA)) == "out of memory (20.50 GiB more were asked for)"
    assert out_of_memory(RuntimeError("CUDA error: out of memory")) == "out of memory"
    assert out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `x`")) == "out of memory"
    assert out_of_memory(OSError(errno.ENOMEM, "Cannot allocate memory")) == "out of memory"


def test_a_device_that_fails_is_no_lack_of_memory() -> None:
    gone = torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors ..")
    assert out_of_memory(gone) is None
    assert lost_device(gone) == "CUDA error: uncorrectable ECC error encountered"


@pytest.mark.parametrize(
    "error", [ValueError("CUDA error: out of memory"), RuntimeError("shapes differ"), OSError(errno.ENOSPC, "x")]
)
def test_other_errors_are_none_of_these(error: Exception) -> None:
    assert (out_of_memory(error), lost_device(error), lost_process(error)) == (None, None, None)


def test_a_process_that_is_gone_is_known() -> None:
    assert lost_process(RuntimeError("[..] Connection closed by peer [127.0.0.1]:1\nmore")) is not None
