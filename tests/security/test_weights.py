"""Weights that come as a pickle run nothing: of a pair they are refused, of a judge tensors alone are read."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from cosup.checkpoints import load_generator
from cosup.errors import UsageError
from cosup.evaluation.judging.loading import Checkpoint
from tests import bases


class Harm:
    """What makes a folder when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.place),)


@pytest.fixture
def pickled(tmp_path: Path) -> Path:
    """A checkpoint whose weights are in pytorch_model.bin alone."""
    folder = Path(bases.write(tmp_path / "base", "llama"))
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    return folder


def test_a_pair_is_not_made_of_a_pickle(pickled: Path, tmp_path: Path) -> None:
    with (pickled / "pytorch_model.bin").open("wb") as file:
        pickle.dump(Harm(tmp_path / "harm"), file)
    with pytest.raises(UsageError, match=r"weights in pytorch_model\.bin, a pickle, which is not read; save it as"):
        load_generator(str(pickled))
    assert not (tmp_path / "harm").exists()


def test_a_judge_takes_tensors_from_a_pickle_and_nothing_else(pickled: Path, tmp_path: Path) -> None:
    assert isinstance(Checkpoint(str(pickled)).load("AutoModelForCausalLM"), LlamaForCausalLM)
    torch.save({"lm_head.weight": Harm(tmp_path / "harm")}, pickled / "pytorch_model.bin")
    with pytest.raises(UsageError, match="cannot load a model from"):
        Checkpoint(str(pickled)).load("AutoModelForCausalLM")
    assert not (tmp_path / "harm").exists()


def test_the_pickle_would_do_harm(pickled: Path, tmp_path: Path) -> None:
    """Else the other tests would show nothing."""
    torch.save({"lm_head.weight": Harm(tmp_path / "harm")}, pickled / "pytorch_model.bin")
    torch.load(pickled / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / "harm").is_dir()
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        AutoModelForCausalLM.from_pretrained(pickled)
