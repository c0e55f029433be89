"""The KV cache of many rows: whatever comes, goes, is taken back or copied, states are those of each row alone."""

from __future__ import annotations

import copy
import gc
import weakref
from functools import lru_cache
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from transformers import MistralConfig, MistralForCausalLM, PreTrainedModel

from cosup.attention import PACKED
from cosup.generation import cache
from cosup.generation.cache import PaddedRows, RowCache, SlotRows, cache_class
from cosup.trials import enable_packing
from tests import pairs

MOST, LONGEST = 5, 120
#: Making a run of a model smaller takes minutes.
WITHOUT_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)
SLIDING = "mistral with a window"


@lru_cache
def generator(family: str) -> PreTrainedModel:
    if family != SLIDING:
        return pairs.pair(family).generator.eval()
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MistralConfig(vocab_size=80, num_key_value_heads=2, sliding_window=9, initializer_range=0.1, **shape)
    model = MistralForCausalLM(config).eval()
    assert enable_packing(model)
    return model


class Model:
    """What a cache should hold: each row's tokens, encoded whole and alone when asked."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.rows: list[list[int]] = []

    @torch.no_grad()
    def check(self, chunks: list[list[int]], found: torch.Tensor) -> None:
        parts = found.split([len(chunk) for chunk in chunks])
        for row, chunk, part in zip(self.rows, chunks, parts, strict=True):
            row += chunk
            if chunk:
                wanted = self.model.base_model(torch.tensor([row])).last_hidden_state[0, -len(chunk) :]
                assert torch.allclose(part, wanted, atol=1e-4 * float(wanted.abs().max()))


def change(data: st.DataObject, rows: RowCache, model: Model) -> None:
    """Let rows come, go, be copied, and take tokens back."""
    count = len(model.rows)
    if count < MOST and data.draw(st.booleans(), "enter"):
        assert rows.enter() == count
        model.rows.append([])
    if model.rows and len(model.rows) < MOST and data.draw(st.booleans(), "fork"):
        source = data.draw(st.integers(0, len(model.rows) - 1))
        assert rows.fork(source) == len(model.rows)
        model.rows.append(list(model.rows[source]))
    if len(model.rows) > 1 and data.draw(st.booleans(), "leave"):
        gone = data.draw(st.integers(0, len(model.rows) - 1))
        rows.leave(gone)
        last = model.rows.pop()
        if gone < len(model.rows):
            model.rows[gone] = last
    if model.rows and data.draw(st.booleans(), "forget"):
        row = data.draw(st.integers(0, len(model.rows) - 1))
        start = data.draw(st.integers(0, len(model.rows[row])))
        rows.forget(row, start)
        del model.rows[row][start:]


class FilledRows(SlotRows):
    """As slots are fed in half precision on a CPU, and more: every row is filled up, by more."""

    def _filling(self, tokens: int) -> int:
        return 7 - tokens % 7


@pytest.mark.parametrize("kind", [SlotRows, PaddedRows, FilledRows])
@pytest.mark.parametrize("family", [*pairs.FAMILIES, SLIDING])
@given(data=st.data())
@settings(max_examples=12, phases=WITHOUT_SHRINKING)
def test_states_are_those_of_each_row_alone(kind: Any, family: str, data: st.DataObject) -> None:
    """Rows of any lengths and stages: one writes, the next reads 60 tokens, a third has nothing to add."""
    own = generator(family)
    rows, model = kind(own, MOST), Model(own)
    for _ in range(data.draw(st.integers(1, 8), "feedings")):
        change(data, rows, model)
        sizes = [data.draw(st.sampled_from([0, 1, 1, 2, 9, 30, 60])) for _ in model.rows]
        sizes = [min(size, LONGEST - len(row)) for size, row in zip(sizes, model.rows, strict=True)]
        if any(sizes):
            chunks = [[data.draw(st.integers(5, 60)) for _ in range(size)] for size in sizes]
            with torch.no_grad():
                found = rows.feed(chunks)
            model.check(chunks, found)
            assert rows.lengths == [len(row) for row in model.rows]


@torch.no_grad()
@pytest.mark.parametrize("kind", [SlotRows, PaddedRows])
def test_keys_and_values_are_freed_with_their_rows(kind: Any) -> None:
    """Without the garbage collector, which may leave them for hours: a server makes new rows with each change."""
    gc.collect()
    gc.disable()
    try:
        rows = kind(generator("llama"), MOST)
        rows.enter()
        rows.feed([[5, 6, 7]])
        kept = weakref.ref(rows.cache)
        del rows
        assert kept() is None
    finally:
        gc.enable()


def test_slots_are_taken_where_they_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each family here can have them; other attention, or states that differ, gets padded rows."""
    for family in (*pairs.FAMILIES, SLIDING):
        assert generator(family).config._attn_implementation == PACKED
        assert cache_class(generator(family)) is SlotRows
    plain = pairs.generator("llama")[0]
    assert cache_class(plain) is PaddedRows
    monkeypatch.setattr(cache, "_close", lambda *_: False)
    assert cache_class(generator("llama")) is SlotRows  # it was tried out before, and is not again
    assert cache_class(copy.deepcopy(generator("llama"))) is PaddedRows


@torch.no_grad()
def test_half_precision_on_a_cpu_sees_rows_of_few_lengths() -> None:
    """Kernels would be kept for each of them."""
    half = copy.deepcopy(generator("llama")).to(torch.bfloat16)
    lengths = set()
    half.base_model.register_forward_pre_hook(
        lambda _, __, own: lengths.add(own["input_ids"].shape[1]), with_kwargs=True
    )
    for size in range(1, 100):
        rows = SlotRows(half, 1)
        rows.enter()
        assert rows.feed([[5] * size]).shape == (size, half.config.hidden_size)
    assert lengths == {*range(1, 33), 48, 64, 80, 96, 112}


def test_a_model_that_loses_the_layout_gets_padded_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails on the empty mask instead of mixing rows."""
    model = pairs.pair("llama").generator
    whole = type(model.base_model).forward

    def forgetful(self: Any, *args: Any, slot_layout: Any = None, **kwargs: Any) -> Any:
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(type(model.base_model), "forward", forgetful)
    assert cache_class(model) is PaddedRows
