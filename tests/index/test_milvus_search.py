"""Searches of approximate types in Milvus Lite: candidates and few matches are compared exactly, and k is k."""

from __future__ import annotations

import numpy as np
import pytest

from cosup.index import milvus_client, milvus_search
from cosup.index.filters import Filter
from cosup.index.milvus_index import MilvusIndex
from tests.index.makers import MINE, brute_force, corpus, ids, vectors
from tests.index.toy_milvus import servers_stopped

__all__ = ["servers_stopped"]
pytestmark = pytest.mark.milvus

N = 600
QUERIES = vectors(20, seed=1)


@pytest.fixture(scope="module", params=["flat", "hnsw", "ivf-flat", "ivf-sq"])
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MilvusIndex:
    """An index whose searches look into few of many lists, as those of a large one do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(milvus_client, "_PASSAGES_A_LIST", 6)
        place = tmp_path_factory.mktemp("search") / "x.db"
        return MilvusIndex.build(place, corpus(N), vectors(N), MINE, "inner_product", request.param)


@pytest.fixture(autouse=True)
def _few_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(milvus_client, "_LISTS_PROBED", 2)


def matching(where: Filter) -> list[int]:
    return [row for row, passage in enumerate(corpus(N)) if where.holds(passage.metadata)]


def test_the_searches_here_are_approximate(index: MilvusIndex) -> None:
    """Else the tests below would show nothing of the lists."""
    found = [ids(hits) for hits in index.search(QUERIES, 10)]
    exact = [brute_force(vectors(N), query, 10) for query in QUERIES]
    assert (found == exact) is not index.state.search.type.startswith("IVF")


def test_candidates_are_searched_exactly(index: MilvusIndex) -> None:
    rows = [np.random.default_rng(number).choice(N, 30, replace=False).tolist() for number in range(len(QUERIES))]
    found = index.search(QUERIES, 10, [[f"p{row}" for row in own] for own in rows])
    assert [ids(hits) for hits in found] == [
        brute_force(vectors(N), query, 10, own) for query, own in zip(QUERIES, rows, strict=True)
    ]


def test_few_matches_of_a_filter_are_searched_exactly(index: MilvusIndex) -> None:
    where = Filter.parse({"number": {"lt": 60}})
    found = index.search(QUERIES, 10, filter=where)
    assert [ids(hits) for hits in found] == [brute_force(vectors(N), query, 10, matching(where)) for query in QUERIES]


def test_many_matches_of_a_filter_give_k_hits(index: MilvusIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(milvus_search, "COMPARED_UP_TO", 10)
    where = Filter.parse({"number": {"lt": 60}})
    for k, count in ((20, 20), (100, 60)):
        found = index.search(QUERIES, k, filter=where)
        assert [len(hits) for hits in found] == [count] * len(QUERIES)
        assert {int(name[1:]) for hits in found for name in ids(hits)} <= set(matching(where))


def test_k_hits_are_found_though_the_lists_of_a_search_hold_fewer(index: MilvusIndex) -> None:
    assert [len(hits) for hits in index.search(QUERIES, 400)] == [400] * len(QUERIES)


def test_the_scores_of_candidates_are_those_of_any_search(index: MilvusIndex) -> None:
    known = {hit.passage_id: hit.score for hit in index.search(QUERIES[:1], N)[0]}
    candidates = [f"p{row}" for row in range(0, N, 7)]
    assert all(hit.score == known[hit.passage_id] for hit in index.search(QUERIES[:1], 50, [candidates])[0])
