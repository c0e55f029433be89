"""What a checkpoint needs so that training can go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from cosup.errors import UsageError
from tests.training.trained import trained


def test_a_checkpoint_of_the_model_alone_is_not_gone_on_from(tmp_path: Path) -> None:
    """A fresh optimizer would be another run without a word."""
    more = {"save_strategy": "steps", "save_steps": 1, "save_only_model": True}
    trained(tmp_path, **more)
    with pytest.raises(UsageError, match=r"checkpoint-1 holds the model alone \(save_only_model\), and training"):
        trained(tmp_path, **more, max_steps=2, resume=True)
