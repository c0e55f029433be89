"""Pairs that know the toy corpus, one a family, trained once."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

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
    folder = tmp_path_factory.mktemp(str(request.param))
    model = pairs.pair(request.param)
    pairs.overfit(model, str(folder / "run"))
    model.save_pretrained(folder / "model")
    return Known(model.eval(), build_index(model, pairs.PASSAGES, folder / "index", model.settings.similarity))
