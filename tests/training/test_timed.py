"""Checkpoints by the clock."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from cosup.errors import UsageError
from cosup.training import timed
from tests.training.trained import quiet_config, trained, weights_of


class Clock(TrainerCallback):
    """Every step takes seven minutes; the clock stands at some time when it begins."""

    def __init__(self) -> None:
        self.now = 12345.0

    def on_step_begin(self, *args: object, **kwargs: object) -> None:
        self.now += 7 * 60


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(timed.time, "monotonic", lambda: found.now)
    return found


def saved(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("checkpoint-")) for path in folder.glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"save_minutes": 10}, [2, 4, 6]),
        ({"save_minutes": 7}, [1, 2, 3, 4, 5, 6]),  # the seventh step is the last one: the model folder comes next
        ({"save_minutes": 0.5}, [1, 2, 3, 4, 5, 6]),
        ({"save_minutes": 15}, [3, 6]),
        ({"save_minutes": None}, []),
        ({"save_minutes": 15, "save_strategy": "steps", "save_steps": 4}, [3, 4, 7]),  # each starts the clock anew
    ],
)
def test_a_checkpoint_is_written_when_it_is_time(
    clock: Clock, tmp_path: Path, more: dict[str, float], expected: list[int]
) -> None:
    trained(tmp_path, max_steps=7, callbacks=[clock], **more)
    assert saved(tmp_path) == expected


def test_processes_save_together(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them whose clock goes slower saves with the first whose time it is: all have a part in a checkpoint."""
    asked: list[float] = []

    def with_another(values: list[float], device: torch.device) -> list[float]:
        asked.extend(values)
        return [float(len(asked) == 2)]  # the other one's time has come after the second step

    monkeypatch.setattr(timed, "max_over", with_another)
    trained(tmp_path, max_steps=4, callbacks=[clock], save_minutes=100)
    assert saved(tmp_path) == [2]
    assert asked == [0.0, 0.0, 0.0]


def test_it_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    more = {"save_minutes": 0, "save_total_limit": 1, "max_steps": 3}
    whole = weights_of(trained(tmp_path / "whole", **more))
    (only,) = saved(tmp_path / "whole")
    assert only == 2
    parted = weights_of(trained(tmp_path / "whole", **more, resume=True))
    assert all(torch.equal(whole[name], parted[name]) for name in whole)


@pytest.mark.parametrize("value", [-1, "soon", True])
def test_no_number_of_minutes(value: object, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"save_minutes is .*; expected a number of at least 0"):
        quiet_config(tmp_path, save_minutes=value)
