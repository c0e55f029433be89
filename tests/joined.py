"""The authors' pair, joined, and vectors of the toy corpus."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from cosup.joining import Joined, join
from cosup.modeling import CoSupervisedModel
from tests import foreign, pairs

TEXTS = [p.rendered for p in pairs.PASSAGES]


def vectors(pair: CoSupervisedModel, texts: list[str] = TEXTS) -> NDArray[np.float32]:
    rows: NDArray[np.float32] = pair.embed_ids([pair.encode_passage(text) for text in texts]).numpy()
    return rows


@dataclass(frozen=True)
class Authors:
    """The authors' form, joined."""

    generator: str
    embedder: str
    joined: Joined
    pair: CoSupervisedModel


@pytest.fixture(scope="module")
def authors(tmp_path_factory: pytest.TempPathFactory) -> Authors:
    folder = tmp_path_factory.mktemp("authors")
    generator, embedder = foreign.authors_pair(folder)
    joined = join(generator, embedder, folder / "model")
    return Authors(generator, embedder, joined, CoSupervisedModel.from_pretrained(folder / "model"))


@pytest.fixture
def generator(authors: Authors) -> str:
    return authors.generator
