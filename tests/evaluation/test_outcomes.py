"""What went wrong first, and failures before the rest."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cosup.evaluation.alce_citations import SentenceVerdict
from cosup.evaluation.attribution import Verdict
from cosup.evaluation.outcomes import Outcome, answer_right, failures_first, outcome_of
from cosup.evaluation.report import QuestionResult
from cosup.evaluation.retrieval import retrieval_right
from cosup.records import Answer, Citation, Question

CITED = (Citation(1, "p", "claim", 0, 0, 1.0),)
GOOD = {"contains_answer": 1.0, "passage_precision": 0.5, "citation_recall": 1.0}


def result(
    scores: dict[str, float], *rights: bool | None, missing: bool = False, cited: bool = True, name: str = "q"
) -> QuestionResult:
    verdicts = tuple(Verdict(1, "p", "claim", right, "why") for right in rights)  # type: ignore[arg-type]
    answer = Answer(name, "", "text", "text", citations=CITED if cited else ())
    return QuestionResult(Question(name, "?"), answer, None, missing, scores, verdicts)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (result(GOOD, True), Outcome.GOOD),
        (result({}), Outcome.GOOD),  # nothing was judged
        (result(GOOD, True, None), Outcome.UNDECIDED),
        (result(GOOD, None, False), Outcome.CITATION),
        (result(GOOD, cited=False), Outcome.CITATION),
        (result({"contains_answer": 1.0}, cited=False), Outcome.GOOD),  # citations are not judged
        (result(GOOD | {"passage_precision": 0.0}, False), Outcome.RETRIEVAL),
        (result(GOOD | {"contains_answer": 0.0, "passage_precision": 0.0}, False), Outcome.ANSWER),
        (result(GOOD | {"contains_answer": 0.0}, missing=True), Outcome.MISSING),
    ],
)
def test_the_first_thing_that_went_wrong_counts(found: QuestionResult, expected: Outcome) -> None:
    assert outcome_of(found) is expected


SUPPORTED = SentenceVerdict(0, "A [1].", "A.", (1,), True, True, "entailed")
REFUSED = replace(SUPPORTED, supported=False)
UNKNOWN = replace(SUPPORTED, supported=None)
BEYOND = replace(SUPPORTED, citations=(7,), is_judged=False, supported=False, reason="cites [7], but ..")
UNCITED = replace(SUPPORTED, sentence="A.", citations=(), is_judged=False, supported=False, reason="cites nothing")
JUDGED = {"contains_answer": 1.0, "nli_citation_recall": 0.0}  # a judge, and no gold sentence


@pytest.mark.parametrize(
    ("sentences", "expected"),
    [
        ((SUPPORTED,), Outcome.GOOD),
        ((SUPPORTED, UNCITED), Outcome.GOOD),  # not every sentence needs a citation
        ((SUPPORTED, REFUSED), Outcome.CITATION),
        ((SUPPORTED, BEYOND), Outcome.CITATION),
        ((UNCITED,), Outcome.CITATION),
        ((), Outcome.CITATION),  # an output without a sentence cites nothing
        ((UNKNOWN,), Outcome.UNDECIDED),
    ],
)
def test_a_judges_verdict_on_a_sentence_counts_where_it_cites(
    sentences: tuple[SentenceVerdict, ...], expected: Outcome
) -> None:
    for cited in (True, False):
        assert outcome_of(replace(result(JUDGED, cited=cited), sentences=sentences)) is expected
    if sentences:
        assert outcome_of(replace(result({"contains_answer": 1.0}), sentences=sentences)) is expected
        assert outcome_of(replace(result(GOOD, True), sentences=sentences)) is expected


def test_failures_come_first_and_keep_their_order() -> None:
    results = [
        result(GOOD, True, name="good"),
        result(GOOD | {"contains_answer": 0.0}, name="wrong-1"),
        result(GOOD, None, name="undecided"),
        result({}, missing=True, name="missing"),
        result(GOOD | {"contains_answer": 0.0}, name="wrong-2"),
    ]
    ranked = [(r.question.id, outcome.failed) for r, outcome in failures_first(results)]
    failed = [("missing", True), ("wrong-1", True), ("wrong-2", True)]
    assert ranked == [*failed, ("undecided", False), ("good", False)]


@pytest.mark.parametrize(
    ("scores", "right"),
    [
        ({"contains_answer": 1.0, "exact_match": 0.0}, True),
        ({"str_hit": 0.0, "contains_answer": 1.0}, False),  # all answers are wanted
        ({"accuracy": 0.0}, False),
        ({"rouge_l": 0.2}, True),  # graded: only 0 is wrong
        ({"text_f1": 0.0, "rouge_l": 0.2}, False),
        ({"claim_recall": 0.0, "text_f1": 0.2}, False),
        ({"recall@1": 0.0}, None),
    ],
)
def test_whether_an_answer_is_right(scores: dict[str, float], right: bool | None) -> None:
    assert answer_right(scores) is right


@pytest.mark.parametrize(
    ("scores", "right"),
    [
        ({"passage_precision": 0.2, "answer_passage_precision": 0.0}, True),
        ({"passage_precision": 0.0, "answer_passage_precision": 1.0}, False),
        ({"answer_passage_precision": 0.5}, True),
        ({"retrieved": 1.0}, None),
    ],
)
def test_whether_the_retrieval_is_right(scores: dict[str, float], right: bool | None) -> None:
    assert retrieval_right(scores) is right
