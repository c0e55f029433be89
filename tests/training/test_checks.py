"""What a run refuses before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cosup.errors import CosupError, InputError, UsageError
from cosup.records import Example, RetrievalSegment
from cosup.training.trainer import CoSupervisionTrainer
from tests import pairs
from tests.training.examples import pair
from tests.training.trained import quiet_config, trained, written_stream


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"nsp_batch_size": 3}, "nsp_batch_size is 3; expected at least the 4 examples of a step"),
        ({"hard_negatives": 1, "max_steps": 2}, "are mined after an epoch, and this run has 1 in all; train longer"),
        ({"hard_negatives": 1, "max_steps": -1, "num_train_epochs": 0.5}, "and this run has 0.5 in all; train"),
        ({"hard_negatives": 1, "hard_negatives_every": 2, "max_steps": 4}, "are mined after 2 epochs, and this run"),
        ({"save_adapters": True}, "save_adapters is true, and the recipe has no adapters to save"),
    ],
)
def test_settings_that_exclude_one_another(more: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        trained(tmp_path, **more)


@pytest.mark.parametrize(
    "more",
    [
        *({"nsp_batch_size": 9}, {"hard_negatives": 1}, {"same_title_examples": 2}, {"lr_epoch_decay": 0.5}),
        *({"curriculum_steps": 1}, {"passage_dropout": 0.5}),
    ],
)
def test_what_needs_a_second_look_is_refused_for_streams(more: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(more))} needs examples that are not streamed"):
        CoSupervisionTrainer(pair({}), quiet_config(tmp_path, **more), written_stream(tmp_path, 1), pairs.PASSAGES)


def test_a_missing_passage_and_no_examples_are_refused(tmp_path: Path) -> None:
    """Before anything is trained."""
    lost = Example("x", "q", (RetrievalSegment("nowhere", "c"),))
    with pytest.raises(InputError, match="output of 'x' names the passage 'nowhere'; expected the id of one of the"):
        CoSupervisionTrainer(pair({}), quiet_config(tmp_path), [lost], pairs.PASSAGES)
    with pytest.raises(CosupError, match="no training examples"):
        CoSupervisionTrainer(pair({}), quiet_config(tmp_path), [], pairs.PASSAGES)
