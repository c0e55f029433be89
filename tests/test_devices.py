"""What a device is good at, and what follows for the type of the weights."""

from __future__ import annotations

import pytest
import torch

from cosup.devices import quick_dtype

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ({"avx512_bf16": True, "avx512_f": True}, torch.bfloat16),
        ({"avx512_bf16": False, "amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": False, "avx512_f": True}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_a_cpu_answers_in_bfloat16_where_it_has_instructions_for_it(
    found: dict[str, bool], wanted: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert quick_dtype(CPU) == wanted


def test_a_torch_that_cannot_tell_answers_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert quick_dtype(CPU) == torch.float32


@pytest.mark.parametrize(("capability", "wanted"), [((8, 0), torch.bfloat16), ((7, 5), torch.float32)])
def test_a_gpu_answers_in_bfloat16_from_ampere_on(
    capability: tuple[int, int], wanted: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert quick_dtype(torch.device("cuda")) == wanted
