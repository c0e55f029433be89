"""One door to every index."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from cosup.errors import InputError
from cosup.index.faiss_index import FaissIndex
from cosup.index.open import open_index
from tests.index.makers import MINE, OTHER, corpus, vectors


def test_a_folder_is_opened(tmp_path: Path) -> None:
    FaissIndex.build(tmp_path / "index", corpus(5), vectors(5), MINE, "inner_product")
    assert list(open_index(str(tmp_path / "index"), MINE)) == corpus(5)
    with pytest.raises(InputError, match="was made by embedder"):
        open_index(tmp_path / "index", OTHER)


@pytest.mark.parametrize("place", ["milvus://localhost:19530/wiki", "wiki.db"])
def test_a_place_of_milvus_is_handed_on_as_it_is(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class MilvusIndex:
        @classmethod
        def load(cls, place: str, expected_fingerprint: str | None) -> tuple[str, str | None]:
            return place, expected_fingerprint

    module = ModuleType("cosup.index.milvus_index")
    module.MilvusIndex = MilvusIndex  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cosup.index.milvus_index", module)
    assert open_index(place, MINE) == (place, MINE)
