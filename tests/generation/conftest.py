"""Pairs that know the toy corpus, one a family, trained once for all processes that run tests."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from cosup.index.build import build_index
from cosup.index.faiss_index import FaissIndex
from cosup.modeling import CoSupervisedModel
from tests import pairs


@dataclass(frozen=True)
class Known:
    """A trained pair and the index of its passages."""

    model: CoSupervisedModel
    index: FaissIndex


@pytest.fixture(scope="session", params=pairs.FAMILIES)
def known(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Known:
    """Return a pair that retrieves twice and answers each toy question."""
    folder = known_folder(str(request.param), tmp_path_factory)
    model = CoSupervisedModel.from_pretrained(folder / "model")
    return Known(model.eval(), FaissIndex.load(folder / "index", model.fingerprint))


def known_folder(family: str, factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `model/`, a pair that knows the toy corpus, and `index/`; made once for all processes."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"known-{family}"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / "done").exists():
            train(family, folder)
            (folder / "done").touch()
    return folder


def train(family: str, folder: Path) -> None:
    """Train a pair until it knows its questions; write it and the index of its passages."""
    model = pairs.pair(family)
    pairs.overfit(model, str(folder / "run"))
    model.save_pretrained(folder / "model")
    build_index(model, pairs.PASSAGES, folder / "index")
