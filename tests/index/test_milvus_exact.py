"""Searches in Milvus Lite equal brute force, and a filter finds what it holds of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cosup.errors import CosupError, InputError, UsageError
from cosup.index import milvus_index, milvus_search
from cosup.index.filters import Filter
from cosup.index.milvus_index import MilvusIndex
from cosup.records import Passage
from tests.index.makers import MINE, ids
from tests.index.toy_milvus import D, N, brute_force, build, corpus, servers_stopped, vectors

__all__ = ["servers_stopped"]
pytestmark = pytest.mark.milvus


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> MilvusIndex:
    return build(tmp_path_factory.mktemp("milvus") / "x.db")


# -- searching -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 5, N, 1000])
def test_search_equals_brute_force(index: MilvusIndex, k: int) -> None:
    queries = vectors(9, seed=1)
    results = index.search(queries, k)
    assert [ids(hits) for hits in results] == [brute_force(vectors(), q, k) for q in queries]
    assert results == [index.search(q[None], k)[0] for q in queries]
    assert results[0][0].score == pytest.approx(float((vectors() @ queries[0]).max()), rel=1e-6)


@pytest.mark.parametrize("index_type", ["flat", "hnsw", "ivf-flat"])
def test_equal_scores_come_in_the_order_of_the_corpus(tmp_path: Path, index_type: str) -> None:
    """However many tie at the end of the list; the types that are not exact are so for so few passages."""
    values = np.random.default_rng(2).integers(-1, 2, size=(N, D)).astype(np.float32)
    queries = np.random.default_rng(3).integers(-1, 2, size=(12, D)).astype(np.float32)
    found = MilvusIndex.build(tmp_path / "x.db", corpus(), values, MINE, "inner_product", index_type)
    for k in (1, 2, 7, 50, N - 1):
        assert [ids(hits) for hits in found.search(queries, k)] == [brute_force(values, q, k) for q in queries]


def test_scores_are_exact_where_vectors_are_compressed(tmp_path: Path) -> None:
    found = build(tmp_path / "x.db", index_type="ivf-sq").search(vectors(9, seed=1), 10)
    for query, hits in zip(vectors(9, seed=1), found, strict=True):
        assert len({*ids(hits)} & {*brute_force(vectors(), query, 10)}) >= 9
        values = {p.id: float(v @ query) for p, v in zip(corpus(), vectors(), strict=True)}
        assert [hit.score for hit in hits] == pytest.approx([values[i] for i in ids(hits)], rel=1e-5)


def test_candidates_and_filters_together(index: MilvusIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, where = vectors(5, seed=1), Filter.parse({"year": {"lt": 2005}})
    chosen: list[list[str] | None] = [["p7", "p3", "p3"], None, [], [f"p{i}" for i in range(0, N, 2)], ["p119"]]
    assert [len(hits) for hits in index.search(queries, 3, chosen)] == [2, 3, 0, 3, 1]
    for at_once in (1000, 7):  # ids of a long list go in several expressions
        monkeypatch.setattr(milvus_search, "IDS_AT_ONCE", at_once)
        found = index.search(queries, 4, chosen, where)
        for query, own, hits in zip(queries, chosen, found, strict=True):
            allowed = {p.id for p in corpus() if where.holds(p.metadata) and (own is None or p.id in own)}
            assert ids(hits) == [i for i in brute_force(vectors(), query, N) if i in allowed][:4]


def test_wrong_searches_are_refused(index: MilvusIndex) -> None:
    queries = vectors(2)
    with pytest.raises(InputError, match=f"no passage 'nowhere' among the {N} of the index"):
        index.search(queries, 1, [["p1"], ["p2", "nowhere"]])
    with pytest.raises(UsageError, match="1 candidate lists for 2 queries"):
        index.search(queries, 1, [None])
    with pytest.raises(UsageError, match=r"shape \(2, 3\); expected \[Q, 6\]"):
        index.search(queries[:, :3], 1)
    with pytest.raises(UsageError, match="k is 0"):
        index.search(queries, 0)
    queries[1, 2] = np.nan
    with pytest.raises(CosupError, match="query 1 is not finite"):
        index.search(queries, 1)
    assert index.search(np.empty((0, D), dtype=np.float32), 3) == []


def test_more_hits_than_milvus_returns_are_refused(index: MilvusIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(milvus_index, "MOST_HITS", 50)
    with pytest.raises(UsageError, match="k is 51; Milvus returns at most 50 hits"):
        index.search(vectors(1), 51)


def test_a_large_answer_is_fetched_in_portions(index: MilvusIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = index.search(vectors(9, seed=1), 5)
    monkeypatch.setattr(milvus_search, "_ANSWER_BYTES", 4 * D * 13 * 2)  # two queries' worth
    assert index.search(vectors(9, seed=1), 5) == whole


# -- filters ---------------------------------------------------------------------------------------------------------

VALUES = [
    "en", 'a"b', "it's", "back\\slash", "and 1==1", '" or 1==1 or id in ["', "new\nline\ttab", "é漢", "%x_", "[1, 2]",
    "", "true", "2005", 2005, 2005.5, 0, 1, -3, 1e300, True, False,
]  # fmt: skip
KEYS = ["lang", "x_y", 'k"]', "a b", "k' or 1==1", "ü", "$meta", "0"]


def filtered_corpus() -> list[Passage]:
    chance = np.random.default_rng(0)
    return [
        Passage(f"p{i}", "", "t", {key: VALUES[chance.integers(len(VALUES))] for key in KEYS if chance.random() < 0.7})
        for i in range(N)
    ]


@pytest.fixture(scope="module")
def filtered(tmp_path_factory: pytest.TempPathFactory) -> MilvusIndex:
    place = tmp_path_factory.mktemp("filters") / "x.db"
    return MilvusIndex.build(place, filtered_corpus(), vectors(), MINE, "inner_product")


comparisons = st.dictionaries(
    st.sampled_from(["eq", "ne", "gt", "gte", "lt", "lte"]), st.sampled_from(VALUES), min_size=1, max_size=2
)
filters = st.dictionaries(
    st.sampled_from(KEYS),
    st.one_of(st.sampled_from(VALUES), st.lists(st.sampled_from(VALUES), max_size=3), comparisons),
    min_size=1,
    max_size=3,
)


@given(record=filters)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_filter_finds_what_it_holds_of(filtered: MilvusIndex, record: dict[str, Any]) -> None:
    """Whatever the values and keys spell, and whichever kinds meet."""
    where = Filter.parse(record)
    found = filtered.search(np.ones((1, D), dtype=np.float32), N, filter=where)[0]
    assert sorted(ids(found)) == sorted(p.id for p in filtered_corpus() if where.holds(p.metadata))


def test_passages_come_back_as_they_were(filtered: MilvusIndex) -> None:
    assert list(filtered) == filtered_corpus()


WEIRD = ["and 1==1", 'x"] or 1==1 or id in ["', "it's", "back\\slash", "new\nline", "é漢", "a, b", "[1]", " ", "1"]


def test_an_id_stays_an_id_whatever_it_spells(tmp_path: Path) -> None:
    passages = [Passage(spelled, "", "t") for spelled in WEIRD]
    index = MilvusIndex.build(tmp_path / "x.db", passages, vectors(len(WEIRD)), MINE, "inner_product")
    for passage in passages:
        assert index.passage(passage.id) == passage
        assert ids(index.search(vectors(1), 5, [[passage.id]])[0]) == [passage.id]
    index.delete(WEIRD[:2])
    assert list(index) == passages[2:]
