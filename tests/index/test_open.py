"""One door to every index."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from cosup.errors import InputError, UsageError
from cosup.index.faiss_index import FaissIndex
from cosup.index.open import is_milvus, open_index
from tests.index.makers import MINE, OTHER, corpus, vectors


def test_a_folder_is_opened(tmp_path: Path) -> None:
    FaissIndex.build(tmp_path / "index", corpus(5), vectors(5), MINE, "inner_product")
    assert list(open_index(str(tmp_path / "index"), MINE)) == corpus(5)
    with pytest.raises(InputError, match="was made by embedder"):
        open_index(tmp_path / "index", OTHER)


def test_places_of_milvus_are_told_from_folders(tmp_path: Path) -> None:
    (tmp_path / "folder.db").mkdir()
    assert is_milvus("milvus://localhost:19530/wiki")
    assert is_milvus(tmp_path / "wiki.db")
    assert not is_milvus(tmp_path / "folder.db")
    assert not is_milvus("index")


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


def test_without_milvus_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cosup.index.milvus_index", None)
    with pytest.raises(UsageError, match=r"needs the extra 'milvus' .*pip install 'cosup\[milvus\]'"):
        open_index("wiki.db", MINE)
