"""What a process keeps of the memory that it frees, and of the code that oneDNN writes for it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from typing import Any

import pytest

from cosup.heap import keep_few_kernels


def test_freed_memory_is_kept_unless_the_user_has_tuned_the_heap(tmp_path: Any) -> None:
    """In a process of its own: what is freed stays with it, so that the next step is given it without new pages."""
    script = """
import os, sys, torch
from cosup.heap import keep_freed_memory
print(keep_freed_memory())
held = torch.ones(50_000_000)
del held
pages = int(open("/proc/self/statm").read().split()[1])
print(pages * os.sysconf("SC_PAGE_SIZE") > 200_000_000 + int(sys.argv[1]))
"""
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        pytest.skip("only with glibc")

    def run(**more: str) -> list[str]:
        words = [sys.executable, "-c", script, "100_000_000"]
        done = subprocess.run(words, env=os.environ | more, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert run() == ["True", "True"]
    assert run(MALLOC_TRIM_THRESHOLD_="1000000")[0] == "False"


def test_what_was_kept_is_given_back(tmp_path: Any) -> None:
    """A process that has trained and goes on with other work does not hold the peak of its training."""
    program = """
import gc, os, torch
from cosup.heap import give_back_freed_memory, keep_freed_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

if keep_freed_memory():
    before = resident()
    tensors = [torch.ones(1 << 20) for _ in range(64)]
    del tensors
    gc.collect()
    assert resident() - before > 200e6
    assert give_back_freed_memory()
    assert resident() - before < 50e6
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


def test_a_server_keeps_the_code_of_few_products() -> None:
    """Products of shapes without end take no more memory, once as many as are kept have been met."""
    program = """
import os, sys
from cosup.heap import keep_few_kernels

if sys.argv[1] == "few":
    keep_few_kernels()
import torch

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def products(first, last):
    for rows in range(first, last):
        torch.ones(rows, 64, dtype=torch.bfloat16) @ torch.ones(64, 64, dtype=torch.bfloat16)

torch.set_num_threads(1)
products(1, 200)
before = resident()
products(200, 400)
print((resident() - before) // 1_000_000)
"""
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    environment = {name: value for name, value in os.environ.items() if not name.endswith("CACHE_CAPACITY")}

    def grown(how: str) -> int:
        words = [sys.executable, "-c", program, how]
        return int(subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout)

    if (all_of_them := grown("all")) < 50:
        pytest.skip(f"products in bfloat16 write no code here: {all_of_them} MB more")
    assert grown("few") < all_of_them / 2


def test_how_many_are_kept_is_the_users_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "0")
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    keep_few_kernels()
    assert (os.environ["LRU_CACHE_CAPACITY"], os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"]) == ("7", "128")
