"""Metadata in columns: a mask says of every passage what the filter says of it alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosup.index.filters import Filter
from cosup.index.metadata import Metadata, MetadataWriter
from cosup.records import Passage, Scalar

KEYS = st.sampled_from(["a", "b", "c"])
VALUES: st.SearchStrategy[Scalar] = st.one_of(
    st.sampled_from([0, 1, True, False, 1.0, 0.5, "1", "", "Æ"]), st.integers(-3, 3), st.text(max_size=2)
)
CONDITIONS = st.one_of(
    VALUES,
    st.lists(VALUES, min_size=1, max_size=3),
    st.dictionaries(st.sampled_from(["eq", "ne", "gt", "gte", "lt", "lte"]), VALUES, min_size=1, max_size=2),
)


def columns(folder: Path, records: list[dict[str, Scalar]]) -> Metadata:
    writer = MetadataWriter()
    passages = [Passage(str(i), "", "x", record) for i, record in enumerate(records)]
    assert list(writer.follow(passages)) == passages
    writer.write(folder)
    return Metadata(folder, len(records))


@given(
    records=st.lists(st.dictionaries(KEYS, VALUES), min_size=1, max_size=8),
    wanted=st.dictionaries(KEYS, CONDITIONS, min_size=1, max_size=3),
)
def test_a_mask_equals_the_filter_on_each_passage(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Scalar]], wanted: dict[str, object]
) -> None:
    where = Filter.parse(wanted)
    found = columns(tmp_path_factory.mktemp("columns"), records).mask(where)
    assert found.tolist() == [where.holds(record) for record in records]


def test_a_corpus_without_metadata_has_no_columns(tmp_path: Path) -> None:
    found = columns(tmp_path, [{}, {}])
    assert not list(tmp_path.iterdir())
    assert found.mask(Filter.parse({"a": {"ne": 1}})).tolist() == [True, True]
    assert found.mask(Filter.parse({"a": 1})).tolist() == [False, False]
