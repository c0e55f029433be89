"""Retrieval measures, against values worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosup.evaluation import retrieval
from cosup.records import Answer, Citation, Evidence, Hit, Passage, Question, Retrieval


def searched(*searches: str, text: str = "", position: int = 0, cited: str = "") -> Answer:
    """Return an answer with one search per string, each letter a hit, best first."""
    retrievals = tuple(Retrieval(position, tuple(Hit(p, 1.0) for p in hits)) for hits in searches)
    citations = tuple(Citation(n, p, "claim", 0, 0, 1.0) for n, p in enumerate(cited, start=1))
    return Answer("q", "?", text, "", citations=citations, retrievals=retrievals)


def asked(gold: str, *answers: str) -> Question:
    return Question("q", "?", answers=answers, evidence=tuple(Evidence(p) for p in gold))


@pytest.mark.parametrize(
    ("searches", "gold", "recall", "mrr"),
    [
        (["abcdef"], "a", (1, 1, 1), 1),
        (["xabcde"], "a", (0, 1, 1), 1 / 2),
        (["bcdefa"], "a", (0, 0, 1), 1 / 6),
        (["bcdefghijka"], "a", (0, 0, 0), 1 / 11),
        (["xyz"], "a", (0, 0, 0), 0),
        (["xb", "a"], "ab", (0, 1, 1), 1 / 2),  # only the first [Ret] counts; any gold passage will do
        (["b"], "ab", (1, 1, 1), 1),
        (["", "a"], "a", (0, 0, 0), 0),
        ([], "a", (0, 0, 0), 0),
    ],
)
def test_recall_and_reciprocal_rank_of_the_first_search(
    searches: list[str], gold: str, recall: tuple[int, int, int], mrr: float
) -> None:
    scores = retrieval.rank_scores(searched(*searches), asked(gold))
    assert (scores["recall@1"], scores["recall@5"], scores["recall@10"]) == recall
    assert scores["mrr"] == pytest.approx(mrr)


@pytest.mark.parametrize(
    ("hits", "gold", "expected"),
    [
        ("abcdefghij", "a", 1),
        ("xabcdefghi", "a", 1 / math.log2(3)),
        ("axbcdefghi", "ab", (1 + 1 / math.log2(4)) / (1 + 1 / math.log2(3))),
        ("aaxbcdefgh", "a", 1),  # a passage counts once
        ("xyzuvwopqr", "a", 0),
    ],
)
def test_discounted_gain_of_the_first_search(hits: str, gold: str, expected: float) -> None:
    assert retrieval.rank_scores(searched(hits), asked(gold))["ndcg@10"] == pytest.approx(expected)
    assert "ndcg@10" not in retrieval.rank_scores(searched(hits), asked(gold), (1, 5))


def test_gold_recall_is_over_all_searches() -> None:
    """The first search finds `a` second, the second finds `b` sixth, nothing finds `c`."""
    scores = retrieval.rank_scores(searched("xa", "uvwxyb"), asked("abc"))
    assert scores["gold_recall@5"] == pytest.approx(1 / 3)
    assert scores["gold_recall@10"] == pytest.approx(2 / 3)


def test_a_gold_passage_named_twice_counts_once() -> None:
    assert retrieval.rank_scores(searched("a"), asked("aab"))["gold_recall@5"] == 1 / 2
    assert retrieval.passage_scores(searched("a"), asked("aab"))["passage_recall"] == 1 / 2


def test_names_match_the_scores() -> None:
    answer, question = searched("a"), asked("a", "x")
    for cutoffs in ((1,), (1, 5), (1, 5, 10)):
        assert tuple(retrieval.rank_scores(answer, question, cutoffs)) == retrieval.rank_metrics(cutoffs)
    assert tuple(retrieval.passage_scores(answer, question)) == retrieval.PASSAGE_METRICS
    assert tuple(retrieval.search_scores(answer)) == retrieval.SEARCH_METRICS
    passages = {"a": Passage("a", "", "x")}
    assert tuple(retrieval.page_scores(answer, question, passages)) == retrieval.PAGE_METRICS
    assert tuple(retrieval.answer_passage_scores(answer, question, passages)) == retrieval.ANSWER_PASSAGE_METRICS


def test_cutoffs_go_no_deeper_than_the_hits_kept() -> None:
    """A file with one hit a search cannot tell recall@10, so it is not reported at all."""
    assert retrieval.usable_cutoffs([searched("a"), searched("b")]) == (1,)
    assert retrieval.usable_cutoffs([searched("a"), searched("b", "abcde")]) == (1, 5)
    assert retrieval.usable_cutoffs([searched("abcdefghij")]) == (1, 5, 10)
    assert retrieval.usable_cutoffs([]) == (1,)


@pytest.mark.parametrize(
    ("answer", "retrieved", "first"),
    [
        (searched("a", text="claim", position=0), 1, 1),
        (searched("a", text=" claim", position=1), 1, 1),
        (searched("a", text="Well, claim", position=6), 1, 0),
        (searched(text="claim"), 0, 0),
        (searched("", text="claim"), 0, 0),
    ],
)
def test_whether_and_when_it_retrieved(answer: Answer, retrieved: int, first: int) -> None:
    assert retrieval.search_scores(answer) == {"retrieved": retrieved, "retrieved_first": first}


def test_retrieved_passages_are_top_hits_then_cited_ones_each_once() -> None:
    assert retrieval.retrieved_ids(searched("bx", "a", "by", cited="ac")) == ("b", "a", "c")


PASSAGES = {
    "a": Passage("a", "Oslo", "It lies in Norway."),
    "b": Passage("b", "Rome", "It lies north of Naples."),
    "c": Passage("c", "", "no."),
}


@pytest.mark.parametrize(
    ("searches", "answers", "precision", "hit"),
    [
        (["a", "b", "a"], ("norway",), 1 / 2, 1),  # distinct passages: a, b
        (["a", "b"], ("Oslo", "Naples"), 1, 1),  # the title counts; any alias will do
        (["b"], ("no",), 0, 0),  # not within "north"
        (["b", "c"], ("no",), 1 / 2, 1),
        (["b"], ("Norway",), 0, 0),
        ([], ("Norway",), 0, 0),
    ],
)
def test_answer_in_passage(searches: list[str], answers: tuple[str, ...], precision: float, hit: int) -> None:
    scores = retrieval.answer_passage_scores(searched(*searches), asked("", *answers), PASSAGES)
    assert scores == {"answer_passage_precision": pytest.approx(precision), "answer_passage_hit": hit}


@pytest.mark.parametrize(
    ("searches", "gold", "expected"),
    [
        (["a", "b"], "ba", (1, 1, 1, 1, 1)),
        (["a", "x"], "ab", (1, 1 / 2, 1 / 2, 1 / 2, 0)),
        (["a", "x", "y"], "a", (1, 1 / 3, 1, 1 / 2, 0)),
        (["a", "a"], "ab", (1, 1, 1 / 2, 2 / 3, 0)),
        (["xa"], "a", (0, 0, 0, 0, 0)),  # only the spliced passage counts
        ([], "a", (0, 0, 0, 0, 0)),
    ],
)
def test_passages_against_gold_ids(searches: list[str], gold: str, expected: tuple[float, ...]) -> None:
    scores = retrieval.passage_scores(searched(*searches), asked(gold))
    assert tuple(scores.values()) == pytest.approx(expected)


BOOK = {
    "a": Passage("a", "Ada", "one", {"wikipedia_id": "7"}),
    "b": Passage("b", "Bea", "two", {"wikipedia_id": "7"}),
    "c": Passage("c", "Cid", "three"),
    "d": Passage("d", "Cid", "four"),
    "e": Passage("e", "", "five"),
}


@pytest.mark.parametrize(
    ("searches", "gold", "expected"),
    [
        (["a", "c"], "ac", (1, 1, 1)),
        (["c", "a"], "a", (0, 0, 1)),  # R is 1: only the first place counts
        (["b"], "a", (0, 1, 1)),  # another passage of the gold page (by wikipedia_id)
        (["d", "e"], "ce", (1 / 2, 1, 1)),  # the same page by title; without a title a passage is its own page
        (["a", "b", "c"], "ace", (2 / 3, 2 / 3, 2 / 3)),  # pages: 7, Cid
        ([], "a", (0, 0, 0)),
    ],
)
def test_r_precision_of_passages_and_of_pages(searches: list[str], gold: str, expected: tuple[float, ...]) -> None:
    scores = retrieval.page_scores(searched(*searches), asked(gold), BOOK)
    assert tuple(scores.values()) == pytest.approx(expected)


def test_of_several_evidence_sets_one_is_enough() -> None:
    """KILT's rule: the best of the alternatives counts; precision is over all that is gold."""
    question = replace(asked("ace"), evidence_sets=(("a",), ("c", "e")))
    pages = retrieval.page_scores(searched("b"), question, BOOK)  # of the page of a
    assert pages == {"r_precision": 0, "page_r_precision": 1, "page_recall@5": 1}
    assert retrieval.page_scores(searched("c", "e"), question, BOOK)["r_precision"] == 1
    assert retrieval.page_scores(searched("c", "a"), question, BOOK)["r_precision"] == 1 / 2
    assert tuple(retrieval.passage_scores(searched("a"), question).values()) == (1, 1, 1, 1, 1)
    assert tuple(retrieval.passage_scores(searched("a", "c"), question).values()) == (1, 1, 1, 1, 0)
    assert tuple(retrieval.passage_scores(searched("c", "x"), question).values()) == (1, 1 / 2, 1 / 2, 1 / 2, 0)
    assert retrieval.rank_scores(searched("xxe"), question)["gold_recall@5"] == 1 / 2


def test_the_fifth_page_is_the_last_that_counts() -> None:
    passages = {i: Passage(i, "", "x") for i in "abcdef"}
    assert retrieval.page_scores(searched(*"bcdefa"), asked("a"), passages)["page_recall@5"] == 0
    assert retrieval.page_scores(searched(*"bcdeaf"), asked("a"), passages)["page_recall@5"] == 1


def test_when_retrieval_was_right() -> None:
    """By gold passages where there are any, else by the answer's being there."""

    def right(answer: Answer, question: Question) -> bool | None:
        held = retrieval.answer_passage_scores(answer, question, PASSAGES)
        return retrieval.retrieval_right(held | retrieval.passage_scores(answer, question))

    assert right(searched("b", "a"), asked("a", "Rome")) is True
    assert right(searched("b"), asked("a", "Rome")) is False
    assert right(searched("b"), asked("", "Naples")) is True
    assert right(searched("a"), asked("", "Naples")) is False
    assert right(searched("a"), asked("")) is None


def test_questions_that_cannot_be_judged_have_no_scores() -> None:
    assert retrieval.page_scores(searched("a"), asked(""), PASSAGES) == {}
    assert retrieval.rank_scores(searched("a"), asked("")) == {}
    assert retrieval.passage_scores(searched("a"), asked("")) == {}
    assert retrieval.answer_passage_scores(searched("a"), asked("a"), PASSAGES) == {}


ids = st.text(alphabet="abcd", max_size=12)


@given(searches=st.lists(ids, max_size=3), gold=st.text(alphabet="abcd", min_size=1, max_size=5))
def test_scores_are_bounded_and_grow_with_k(searches: list[str], gold: str) -> None:
    answer, question = searched(*searches), asked(gold)
    ranks, sets = retrieval.rank_scores(answer, question), retrieval.passage_scores(answer, question)
    assert all(0 <= value <= 1 for value in (ranks | sets).values())
    assert ranks["recall@1"] <= ranks["recall@5"] <= ranks["recall@10"]
    assert ranks["recall@1"] <= ranks["mrr"]
    assert ranks["gold_recall@5"] <= ranks["gold_recall@10"]
    assert sets["passage_recall"] <= ranks["gold_recall@5"]
