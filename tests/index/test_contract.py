"""The contract of every index (proof 8): the same tests for FAISS exact, FAISS approximate and whatever joins them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from cosup.errors import CosupError, InputError, UsageError
from cosup.index import segment
from cosup.index.filters import Filter
from cosup.records import Hit, Passage
from tests.index.makers import (
    MINE,
    OTHER,
    D,
    Maker,
    N,
    Shelf,
    all_makers,
    brute_force,
    corpus,
    ids,
    small_integers,
    unit,
    vectors,
)

LEAST_RECALL = 0.9


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("shelf"))


def assert_nearest(maker: Maker, found: Sequence[Sequence[Hit]], expected: Sequence[Sequence[str]]) -> None:
    """Hold an exact index to the very nearest, another to nearly all of them; the number of hits is the same."""
    assert [len(hits) for hits in found] == [len(names) for names in expected]
    if maker.exact:
        assert [ids(hits) for hits in found] == [list(names) for names in expected]
    wanted = [(number, name) for number, names in enumerate(expected) for name in names]
    came = {(number, hit.passage_id) for number, hits in enumerate(found) for hit in hits}
    assert len(came.intersection(wanted)) >= LEAST_RECALL * len(wanted)


def assert_true_scores(maker: Maker, found: Sequence[Sequence[Hit]], queries: np.ndarray, values: np.ndarray) -> None:
    """A hit's score is its inner product; hits come best first, equal ones in the order of the corpus."""
    for hits, query in zip(found, queries, strict=True):
        rows = [int(hit.passage_id[1:]) for hit in hits]
        scores = [hit.score for hit in hits]
        np.testing.assert_allclose(scores, maker.stored(values)[rows] @ query, rtol=1e-4, atol=1e-4)
        assert sorted(zip([-s for s in scores], rows, strict=True)) == list(
            zip([-s for s in scores], rows, strict=True)
        )
        assert all(type(score) is float for score in scores)


# -- searching ---------------------------------------------------------------------------------------------------------


@all_makers()
@pytest.mark.parametrize("k", [1, 5, N, 1000])
def test_search_finds_the_nearest(maker: Maker, shelf: Shelf, k: int) -> None:
    index, queries = shelf.read(maker), vectors(40, seed=1)
    found = index.search(queries, k)
    assert_nearest(maker, found, [brute_force(maker.stored(vectors()), query, k) for query in queries])
    assert_true_scores(maker, found, queries, vectors())
    assert len(found[0]) == min(k, N)


@all_makers()
@pytest.mark.parametrize("k", [1, 2, 10, 299])
def test_equal_scores_come_in_the_order_of_the_corpus(maker: Maker, shelf: Shelf, k: int) -> None:
    values, queries = small_integers(N, seed=2), small_integers(25, seed=3)
    found = shelf.read(maker, values).search(queries, k)
    assert_true_scores(maker, found, queries, values)
    if maker.exact:
        assert [ids(hits) for hits in found] == [brute_force(values, query, k) for query in queries]


@all_makers()
def test_all_passages_equal(maker: Maker, shelf: Shelf) -> None:
    index = shelf.read(maker, np.ones((N, D), dtype=np.float32))
    found = ids(index.search(np.ones((1, D), dtype=np.float32), 4)[0])
    assert len(found) == 4
    if maker.exact:
        assert found == ["p0", "p1", "p2", "p3"]


@all_makers()
def test_a_batch_of_queries_gives_what_each_gives_alone(maker: Maker, shelf: Shelf) -> None:
    index, queries = shelf.read(maker), vectors(64, seed=1)
    together = index.search(queries, 5)
    assert together == [index.search(query[None], 5)[0] for query in queries]
    everything = index.search(queries, 5, candidates=[[f"p{i}" for i in range(N)]] * 64)
    scores = [{hit.passage_id: hit.score for hit in hits} for hits in everything]
    for own, known in zip(together, scores, strict=True):
        assert all(known.get(hit.passage_id, hit.score) == hit.score for hit in own)


@all_makers()
@pytest.mark.parametrize("k", [1, 40, N - 1])
def test_a_filtered_batch_gives_what_each_gives_alone(
    maker: Maker, shelf: Shelf, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where structures search under the filter as well, and some queries of a batch come upon too few."""
    monkeypatch.setattr(segment, "EXACT_UP_TO", 0)
    index, queries, where = shelf.read(maker), vectors(40, seed=1), Filter.parse({"odd": True})
    for filtered in (None, where):
        alone = [index.search(query[None], k, filter=filtered)[0] for query in queries]
        assert index.search(queries, k, filter=filtered) == alone


@all_makers()
def test_candidates_limit_each_search_and_are_searched_exactly(maker: Maker, shelf: Shelf) -> None:
    index, queries = shelf.read(maker), vectors(5, seed=1)
    chosen: list[list[str] | None] = [["p7", "p3", "p3"], [f"p{i}" for i in range(0, N, 2)], [], None, ["p299"]]
    found = index.search(queries, 3, chosen)
    rows = [None if c is None else [int(i[1:]) for i in c] for c in chosen]
    values = maker.stored(vectors())
    expected = [brute_force(values, q, 3, r) for q, r in zip(queries, rows, strict=True)]
    for number in (0, 1, 2, 4):
        assert ids(found[number]) == expected[number]
    assert [len(hits) for hits in found] == [2, 3, 0, 3, 1]
    assert_true_scores(maker, found, queries, vectors())


@all_makers()
def test_equal_scores_among_candidates_come_in_the_order_of_the_corpus(maker: Maker, shelf: Shelf) -> None:
    index = shelf.read(maker, np.ones((N, D), dtype=np.float32))
    found = index.search(np.ones((1, D), dtype=np.float32), 2, [["p9", "p200", "p4"]])
    assert ids(found[0]) == ["p4", "p9"]


FILTERS = [
    {"lang": "en"},
    {"lang": ["en", "de"]},
    {"lang": {"ne": "en"}},
    {"odd": True, "number": {"gte": 100, "lt": 140}},
    {"number": 7},
    {"number": {"gt": 1000}},
    {"nothing": {"ne": 1}},
    {"number": "7"},
]


@all_makers()
@pytest.mark.parametrize("few_are_exact", [True, False])
@pytest.mark.parametrize("record", FILTERS, ids=str)
def test_a_filter_gives_k_hits_where_k_match(
    maker: Maker, shelf: Shelf, record: dict[str, object], few_are_exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without the short cut for few matches, so that structures search under a filter as well."""
    if not few_are_exact:
        monkeypatch.setattr(segment, "EXACT_UP_TO", 0)
    index, queries, where = shelf.read(maker), vectors(20, seed=1), Filter.parse(record)
    rows = [i for i, p in enumerate(corpus()) if where.holds(p.metadata)]
    found = index.search(queries, 10, filter=where)
    assert_nearest(maker, found, [brute_force(maker.stored(vectors()), q, 10, rows) for q in queries])
    assert_true_scores(maker, found, queries, vectors())
    assert {int(i[1:]) for hits in found for i in ids(hits)} <= set(rows)
    assert all(len(hits) == min(10, len(rows)) for hits in found)


@all_makers()
def test_a_number_and_a_truth_value_are_different_filters(maker: Maker, shelf: Shelf) -> None:
    """Asked one after the other, since an index may know the last filters' passages still."""
    index, query = shelf.read(maker), vectors(1, seed=1)
    number, truth = Filter.parse({"odd": 1}), Filter.parse({"odd": True})
    for where, hits in ((number, 0), (truth, 5), (number, 0)):
        assert len(index.search(query, 5, filter=where)[0]) == hits


@all_makers()
def test_a_filter_and_candidates_go_together(maker: Maker, shelf: Shelf) -> None:
    index, where = shelf.read(maker), Filter.parse({"odd": True})
    found = index.search(vectors(2, seed=1), 5, [["p2", "p3", "p4", "p5"], None], where)
    assert sorted(ids(found[0])) == ["p3", "p5"]
    assert len(found[1]) == 5
    assert all(int(i[1:]) % 2 for i in ids(found[1]))


@all_makers()
def test_no_queries_give_no_results(maker: Maker, shelf: Shelf) -> None:
    assert shelf.read(maker).search(np.empty((0, D), dtype=np.float32), 3) == []


@all_makers()
def test_wrong_searches_are_refused(maker: Maker, shelf: Shelf) -> None:
    index, queries = shelf.read(maker), vectors(2)
    with pytest.raises(InputError, match="no passage 'nowhere' among the 300"):
        index.search(queries, 1, [["p1"], ["p2", "nowhere"]])
    with pytest.raises(UsageError, match="1 candidate lists for 2 queries"):
        index.search(queries, 1, [None])
    with pytest.raises(UsageError, match=r"shape \(2, 3\); expected \[Q, 7\]"):
        index.search(queries[:, :3], 1)
    with pytest.raises(UsageError, match="expected \\[Q, 7\\]"):
        index.search(queries[0], 1)
    with pytest.raises(UsageError, match="k is 0"):
        index.search(queries, 0)
    queries[1, 2] = np.nan
    with pytest.raises(CosupError, match="query 1 is not finite"):
        index.search(queries, 1)


# -- what is in it -----------------------------------------------------------------------------------------------------


@all_makers()
def test_passages_come_back_as_they_were(maker: Maker, shelf: Shelf) -> None:
    index = shelf.read(maker)
    assert list(index) == corpus()
    assert index.passage("p17") == corpus()[17]
    assert (len(index), index.dimension, index.embedder_fingerprint) == (N, D, MINE)
    with pytest.raises(InputError, match="no passage 'x'"):
        index.passage("x")


@all_makers()
def test_opened_again_it_finds_the_same(maker: Maker, tmp_path: Path) -> None:
    index, queries = maker.build(tmp_path / "index", corpus(), vectors(), "inner_product"), vectors(10, seed=4)
    again = maker.load(tmp_path / "index", MINE)
    assert again.search(queries, 5) == index.search(queries, 5)
    assert list(again) == corpus()
    assert again.identity == index.identity


@all_makers()
def test_an_index_of_another_embedder_is_refused_by_name(maker: Maker, shelf: Shelf, tmp_path: Path) -> None:
    shelf.take(maker, tmp_path / "index")
    with pytest.raises(InputError, match=f"embedder {MINE[:12]}, but the model's embedder is {OTHER[:12]}; run 'cosup"):
        maker.load(tmp_path / "index", OTHER)
    assert len(maker.load(tmp_path / "index", None)) == N


# -- changing ----------------------------------------------------------------------------------------------------------


@all_makers()
def test_added_passages_are_found_at_once_and_after_opening_again(maker: Maker, shelf: Shelf, tmp_path: Path) -> None:
    index = shelf.take(maker, tmp_path / "index", vectors()[:280])
    before = index.identity
    index.add(corpus(20, first=280), vectors()[280:])
    assert index.identity != before
    queries = vectors(30, seed=1)
    for opened in (index, maker.load(tmp_path / "index", MINE)):
        assert list(opened) == corpus()
        found = opened.search(queries, 10)
        assert_nearest(maker, found, [brute_force(maker.stored(vectors()), q, 10) for q in queries])
        assert_true_scores(maker, found, queries, vectors())


@all_makers()
def test_deleted_passages_are_never_found_again(maker: Maker, shelf: Shelf, tmp_path: Path) -> None:
    index, queries = shelf.take(maker, tmp_path / "index"), vectors(30, seed=1)
    gone = [f"p{i}" for i in range(0, N, 3)]
    index.delete(gone)
    rows = [i for i in range(N) if i % 3]
    for opened in (index, maker.load(tmp_path / "index", MINE)):
        assert len(opened) == 200
        found = opened.search(queries, 10)
        assert_nearest(maker, found, [brute_force(maker.stored(vectors()), q, 10, rows) for q in queries])
        assert len(opened.search(queries[:1], N)[0]) == 200
        with pytest.raises(InputError, match="no passage 'p3' among the 200"):
            opened.passage("p3")
        with pytest.raises(InputError, match="no passage 'p3'"):
            opened.search(queries[:1], 1, [["p3"]])


@all_makers()
def test_a_replaced_passage_has_its_new_text_vector_and_metadata(maker: Maker, shelf: Shelf, tmp_path: Path) -> None:
    index = shelf.take(maker, tmp_path / "index")
    far = np.full((1, D), 3.0, dtype=np.float32)
    index.replace(
        [Passage("p5", "New", "Now this.", {"lang": "fr"}), Passage("p900", "", "Also new.")], np.vstack([far, -far])
    )
    for opened in (index, maker.load(tmp_path / "index", MINE)):
        assert len(opened) == N + 1
        assert opened.passage("p5").text == "Now this."
        assert ids(opened.search(far, 1)[0]) == ["p5"]
        assert ids(opened.search(far, 3, filter=Filter.parse({"lang": "fr"}))[0]) == ["p5"]
        assert ids(opened.search(-far, 1)[0]) == ["p900"]
        assert opened.search(far, 1, [["p5"]])[0][0].score == pytest.approx(9 * D)
        assert "p5" not in ids(opened.search(vectors(1), N, filter=Filter.parse({"number": {"lt": 10}}))[0])


@all_makers()
def test_compacting_changes_nothing_but_the_room_it_takes(maker: Maker, shelf: Shelf, tmp_path: Path) -> None:
    index, queries = shelf.take(maker, tmp_path / "index"), vectors(30, seed=1)
    index.delete([f"p{i}" for i in range(20)])
    index.add(corpus(5, first=300), vectors(5, seed=9))
    left = list(index)
    index.compact()
    everything = np.vstack([vectors(), vectors(5, seed=9)])
    for opened in (index, maker.load(tmp_path / "index", MINE)):
        assert list(opened) == left
        found = opened.search(queries, 10)
        assert_nearest(maker, found, [brute_force(maker.stored(everything), q, 10, range(20, 305)) for q in queries])
        assert_true_scores(maker, found, queries, everything)


@all_makers()
def test_an_index_can_be_emptied_and_filled_again(maker: Maker, shelf: Shelf, tmp_path: Path) -> None:
    index = shelf.take(maker, tmp_path / "index", vectors(3))
    index.delete(["p0", "p1", "p2", "p2"])
    assert (len(index), list(index)) == (0, [])
    assert index.search(vectors(2), 3) == [[], []]
    index.compact()
    index = maker.load(tmp_path / "index", MINE)
    assert index.search(vectors(2), 3, filter=Filter.parse({"odd": True})) == [[], []]
    index.add(corpus(2), vectors(2))
    assert list(maker.load(tmp_path / "index", MINE)) == corpus(2)


@all_makers()
def test_wrong_changes_are_refused_and_change_nothing(maker: Maker, shelf: Shelf, tmp_path: Path) -> None:
    index = shelf.take(maker, tmp_path / "index")
    before = index.identity
    with pytest.raises(InputError, match="has a passage 'p7' already"):
        index.add([*corpus(1, first=500), *corpus(1, first=7)], vectors(2))
    with pytest.raises(InputError, match="two passages have the id 'p500'"):
        index.add(corpus(1, first=500) * 2, vectors(2))
    with pytest.raises(InputError, match="two passages have the id 'p7'"):
        index.replace(corpus(1, first=7) * 2, vectors(2))
    with pytest.raises(InputError, match="no passage 'p500'"):
        index.delete(["p1", "p500"])
    with pytest.raises(UsageError, match=r"expected float32 \[1, 7\]"):
        index.add(corpus(1, first=500), vectors(2))
    with pytest.raises(UsageError, match=r"expected float32 \[1, 7\]"):
        index.add(corpus(1, first=500), vectors(1)[:, :5])
    with pytest.raises(CosupError, match="not finite"):
        index.add(corpus(1, first=500), np.full((1, D), np.nan, dtype=np.float32))
    assert index.identity == maker.load(tmp_path / "index", MINE).identity == before
    assert list(index) == corpus()


@all_makers()
def test_vectors_of_a_cosine_index_have_unit_length(maker: Maker, tmp_path: Path) -> None:
    index = maker.build(tmp_path / "index", corpus(), unit(vectors()), "cosine")
    with pytest.raises(UsageError, match="unit length"):
        index.add(corpus(1, first=500), vectors(1))
    index.add(corpus(1, first=500), unit(vectors(1, seed=5)))
    assert ids(index.search(unit(vectors(1, seed=5)), 1)[0]) == ["p500"]
    with pytest.raises(UsageError, match="unit length"):
        maker.build(tmp_path / "other", corpus(), vectors(), "cosine")


# -- what others change ------------------------------------------------------------------------------------------------


@all_makers()
def test_what_others_have_changed_is_there_once_reopened(maker: Maker, shelf: Shelf, tmp_path: Path) -> None:
    """A reader that sees changes at once says that nothing changed, and is itself what is reopened."""
    index = shelf.take(maker, tmp_path / "index")
    assert not index.changed()
    index.reopened().delete(["p0"])
    assert index.changed() == (len(index) == N)
    assert len(index.reopened()) == N - 1
    assert not index.reopened().changed()
    assert not index.outgrown
    assert dict(index.rows()).get("passages") in (None, f"{N}")
