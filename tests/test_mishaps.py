"""Errors of other libraries, as they really come, are known for what they mean."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cosup.mishaps import disk_trouble, lost_device, lost_process, out_of_memory
from tests.training.test_run_folder import full_disk

MUCH = 1 << 50
CUDA = "CUDA out of memory. Tried to allocate 20.50 GiB. GPU 0 has a total capacity of 79.11 GiB of which .."


@pytest.mark.parametrize(
    ("allocate", "asked"),
    [
        (lambda: torch.empty(MUCH, dtype=torch.uint8), "1,125,899.9 GB"),
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


def _by_numpy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(10_000))


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda path: path.write_bytes(bytes(10_000)), "file too large"),
        (_by_numpy, "the disk is full or cannot be written"),
        (lambda path: torch.save(torch.zeros(10_000), path), "the disk is full or cannot be written"),
        (lambda path: save_file({"x": torch.zeros(10_000)}, path), "file too large"),
    ],
)
def test_a_disk_that_takes_no_more_is_known_whoever_writes(
    write: Callable[[Path], Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(Exception) as found, full_disk(5000):  # noqa: PT011 - each library has its own
        write(tmp_path / "x")
    assert disk_trouble(found.value) == told
    assert disk_trouble(ValueError("wrong")) is None
