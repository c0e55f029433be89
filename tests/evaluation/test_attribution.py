"""Citation measures: each verdict, its reason, and the two averages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosup.evaluation.attribution import Verdict, citation_scores, has_gold_sentences, judge_citations
from cosup.records import Answer, Citation, Evidence, Passage, Question

PASSAGES = {
    "ada": Passage("ada", "Ada Moor", "Ada Moor was  born in Oslo. She wrote songs. She died in Rome."),
    "sea": Passage("sea", "The Sea", "The Sea is a novel by Ada Moor."),
    "other": Passage("other", "Oslo", "Ada Moor was born in Oslo."),
}
TWO_HOPS = Question(
    "q",
    "Where was the author of The Sea born?",
    evidence=(Evidence("sea", "The Sea is a novel by Ada Moor."), Evidence("ada", "Ada Moor was  born in Oslo.")),
)


def citing(*pairs: tuple[str, str]) -> Answer:
    citations = tuple(Citation(n, p, claim, 0, 0, 1.0) for n, (p, claim) in enumerate(pairs, start=1))
    return Answer("q", "", "", "", citations=citations)


def judged(passage_id: str, claim: str, question: Question = TWO_HOPS) -> Verdict:
    (verdict,) = judge_citations(citing((passage_id, claim)), question, PASSAGES)
    return verdict


@pytest.mark.parametrize(
    ("passage_id", "claim", "right", "reason"),
    [
        ("ada", "born in Oslo", True, "the claim stands in the passage"),
        ("ada", "She died in Rome.", True, "the claim stands in the passage"),  # need not be the gold sentence
        ("ada", " Ada Moor was born\nin Oslo. She wrote ", True, "the claim stands in the passage"),
        ("other", "Ada Moor was born in Oslo.", False, "the passage is not gold"),
        ("ada", "", False, "the claim has no words"),
        ("ada", ".", False, "the claim has no words"),
        # ada moor ada, against ada moor was born in oslo: 2 in common of 3 and 6, F1 4/9
        ("ada", "Ada Moor :: Ada", False, "token F1 0.444 with the nearest gold sentence is below 0.5"),
    ],
)
def test_verdicts(passage_id: str, claim: str, right: bool, reason: str) -> None:
    verdict = judged(passage_id, claim)
    assert (verdict.passage_id, verdict.claim, verdict.right, verdict.reason) == (passage_id, claim, right, reason)


def test_f1_of_exactly_one_half_is_right() -> None:
    """`moor oslo` against six tokens: 2 in common of 2 and 6, F1 4/8."""
    verdict = judged("ada", "Moor, Oslo")
    assert verdict.right
    assert verdict.reason == "token F1 0.500 with the nearest gold sentence reaches 0.5"


def test_the_gold_sentence_must_be_of_the_cited_passage() -> None:
    """A claim that copies the gold sentence of the other gold passage is wrong."""
    assert not judged("sea", "Ada Moor was born in Oslo, she wrote songs and died").right
    assert judged("ada", "Moor was a native of Oslo, born there").right


def test_joined_gold_sentences_count_as_one() -> None:
    """The `claims` template joins the marked sentences of a passage; four far-apart ones match none alone."""
    sentences = [f"{letter}1 {letter}2 {letter}3 {letter}4." for letter in "kmpr"]
    passage = {"p": Passage("p", "", " Between. ".join(sentences))}
    question = Question("q", "?", evidence=tuple(Evidence("p", s) for s in sentences))
    (verdict,) = judge_citations(citing(("p", " ".join(sentences))), question, passage)
    assert verdict.right
    assert "1.000" in verdict.reason


def test_gold_passage_without_gold_sentence_needs_the_claim_word_for_word() -> None:
    question = Question("q", "?", evidence=(Evidence("sea", "The Sea is a novel by Ada Moor."), Evidence("ada")))
    assert judged("ada", "She wrote songs", question).right
    verdict = judged("ada", "She wrote many songs", question)
    assert not verdict.right
    assert verdict.reason == "the claim does not stand in the passage, which has no gold sentence"


@pytest.mark.parametrize(
    ("pairs", "precision", "recall"),
    [
        ([("sea", "a novel by Ada Moor"), ("ada", "born in Oslo")], 1, 1),
        ([("sea", "a novel by Ada Moor"), ("other", "born in Oslo")], 1 / 2, 1 / 2),
        ([("ada", "born in Oslo"), ("ada", "She wrote songs"), ("ada", "nonsense")], 2 / 3, 1 / 2),
        ([("other", "born in Oslo")], 0, 0),
        ([], 0, 0),
    ],
)
def test_precision_and_recall_by_hand(pairs: list[tuple[str, str]], precision: float, recall: float) -> None:
    scores = citation_scores(judge_citations(citing(*pairs), TWO_HOPS, PASSAGES), TWO_HOPS)
    assert scores == {"citation_precision": pytest.approx(precision), "citation_recall": pytest.approx(recall)}


@pytest.mark.parametrize("evidence", [(), (Evidence("ada"),), (Evidence("ada", ""), Evidence("sea", " "))])
def test_questions_without_gold_sentences_are_not_judged(evidence: tuple[Evidence, ...]) -> None:
    question = Question("q", "?", evidence=evidence)
    answer = citing(("ada", "born in Oslo"))
    assert not has_gold_sentences(question)
    assert judge_citations(answer, question, PASSAGES) == ()
    assert citation_scores((), question) == {}


claims = st.tuples(st.sampled_from(sorted(PASSAGES)), st.text(alphabet="Ada Moorbniswl.", max_size=25))


@given(st.lists(claims, max_size=4))
def test_scores_are_bounded_and_every_citation_has_a_reason(pairs: list[tuple[str, str]]) -> None:
    verdicts = judge_citations(citing(*pairs), TWO_HOPS, PASSAGES)
    assert [v.n for v in verdicts] == list(range(1, len(pairs) + 1))
    assert all(v.reason for v in verdicts)
    scores = citation_scores(verdicts, TWO_HOPS)
    assert all(0 <= value <= 1 for value in scores.values())
    assert (scores["citation_precision"] > 0) == (scores["citation_recall"] > 0)
