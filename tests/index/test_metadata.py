"""Metadata in columns: a mask says of every passage what the filter says of it alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosup.fields import Scalar
from cosup.index.faiss_index import FaissIndex
from cosup.index.filters import Filter
from cosup.index.metadata import Metadata, MetadataWriter
from cosup.records import Passage

KEYS = st.sampled_from(["a", "b", "c"])
VALUES: st.SearchStrategy[Scalar] = st.one_of(
    st.sampled_from([0, 1, True, False, 1.0, 0.5, "1", "", "Æ"]), st.integers(-3, 3), st.text(max_size=2)
)
CONDITIONS = st.one_of(
    VALUES,
    st.lists(VALUES, min_size=1, max_size=3),
    st.dictionaries(st.sampled_from(["eq", "ne", "gt", "gte", "lt", "lte"]), VALUES, min_size=1, max_size=2),
)


def written(folder: Path, records: list[dict[str, Scalar]]) -> None:
    writer = MetadataWriter()
    passages = [Passage(str(i), "", "x", record) for i, record in enumerate(records)]
    assert list(writer.follow(passages)) == passages
    writer.write(folder)


@given(
    records=st.lists(st.dictionaries(KEYS, VALUES), min_size=1, max_size=8).filter(any),
    wanted=st.dictionaries(KEYS, CONDITIONS, min_size=1, max_size=3),
)
def test_a_mask_equals_the_filter_on_each_passage(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Scalar]], wanted: dict[str, object]
) -> None:
    where = Filter.parse(wanted)
    folder = tmp_path_factory.mktemp("columns")
    written(folder, records)
    found = Metadata(folder, len(records)).mask(where)
    assert found.tolist() == [where.holds(record) for record in records]


def test_a_corpus_without_metadata_has_no_columns(tmp_path: Path) -> None:
    written(tmp_path, [{}, {}])
    assert not list(tmp_path.iterdir())


def test_a_segment_without_metadata_is_filtered_all_the_same(tmp_path: Path) -> None:
    passages, vectors = [Passage("a", "", "x"), Passage("b", "", "y")], np.eye(2, dtype=np.float32)
    index = FaissIndex.build(tmp_path / "index", passages, vectors, "f" * 64, "cosine")
    for where, found in (({"a": {"ne": 1}}, 2), ({"a": 1}, 0)):
        assert len(index.search(vectors[:1], 5, filter=Filter.parse(where))[0]) == found


def test_columns_that_are_gone_are_an_error_not_absent(tmp_path: Path) -> None:
    """A reader may open a segment just when a writer removes it: it must not take it for one without metadata."""
    with pytest.raises(OSError, match="metadata"):
        Metadata(tmp_path, 2)
