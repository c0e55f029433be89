"""Held-out recall: what counts as found."""

from __future__ import annotations

import pytest
import torch

from cosup.training.validation import recall


def _found(vectors: list[list[float]], queries: list[list[float]], wanted: list[int]) -> dict[str, float]:
    return recall(torch.tensor(queries), torch.tensor(vectors), wanted)


def test_recall_by_hand() -> None:
    """Of twelve passages on a line, the wanted ones are the 1st, the 2nd, the 10th and the 11th."""
    line = [[12.0 - i, 0.0] for i in range(12)]
    assert _found(line, [[1.0, 0.0]] * 4, [0, 1, 9, 10]) == {"recall@1": 0.25, "recall@10": 0.75}


@pytest.mark.parametrize("value", [1.0, 0.0, float("nan")])
def test_a_collapsed_or_diverged_model_finds_nothing(value: float) -> None:
    """Every passage scores alike, or nothing can be compared: a tie is no find."""
    assert _found([[value, value]] * 12, [[1.0, 1.0]] * 2, [0, 11]) == {"recall@1": 0.0, "recall@10": 0.0}
    assert _found([[1.0, 0.0], [0.0, 1.0]], [[float("nan"), 1.0]], [0])["recall@10"] == 0.0
