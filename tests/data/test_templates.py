"""Templates: a question with its evidence becomes the example that the contract says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cosup.data.templates import TEMPLATES, question_to_example
from cosup.errors import InputError, UsageError
from cosup.records import Evidence, Example, Passage, Question, RetrievalSegment, TextSegment

PASSAGES = {
    "1": Passage("1", "Ada", "Ada wrote Red Tide. She was born in Elmford. Elmford is old."),
    "2": Passage("2", "Elmford", "Elmford lies by the sea. It rains a lot."),
}
QUESTION = Question(
    "q",
    "Where was the author of Red Tide born?",
    ("Elmford", "the town of Elmford"),
    "In Elmford by the sea.",
    (Evidence("1", "Ada wrote Red Tide."), Evidence("2", "Elmford lies by the sea.")),
    instruction="Answer.",
)


def claims(question: Question) -> list[tuple[str, str]]:
    output = question_to_example(question, PASSAGES).output
    return [(s.passage_id, s.claim) for s in output if isinstance(s, RetrievalSegment)]


def test_claims_then_the_first_answer() -> None:
    assert question_to_example(QUESTION, PASSAGES) == Example(
        "q",
        "Where was the author of Red Tide born?",
        (
            RetrievalSegment("1", "Ada wrote Red Tide."),
            RetrievalSegment("2", "Elmford lies by the sea."),
            TextSegment("Elmford"),
        ),
        instruction="Answer.",
    )


def test_claims_long_ends_with_the_long_answer() -> None:
    example = question_to_example(QUESTION, PASSAGES, "claims_long")
    assert example.output[:2] == question_to_example(QUESTION, PASSAGES).output[:2]
    assert example.output[2:] == (TextSegment("In Elmford by the sea."),)


@pytest.mark.parametrize(
    ("answers", "long_answer", "short", "long"),
    [
        (("A", "B"), "L", "A", "L"),
        ((), "L", "L", "L"),
        (("A",), None, "A", "A"),
        (("A",), "", "A", "A"),
        ((), None, None, None),
    ],
)
def test_the_final_text_of_each_template(
    answers: tuple[str, ...], long_answer: str | None, short: str | None, long: str | None
) -> None:
    question = replace(QUESTION, answers=answers, long_answer=long_answer)
    for template, final in (("claims", short), ("claims_long", long)):
        output = question_to_example(question, PASSAGES, template).output
        assert output[2:] == (() if final is None else (TextSegment(final),))


def test_evidence_of_one_passage_is_one_claim_where_it_first_appears() -> None:
    evidence = (
        Evidence("1", "Ada wrote Red Tide."),
        Evidence("2", "It rains a lot."),
        Evidence("1", " Elmford is old. "),
        Evidence("1", "Ada wrote Red Tide."),
    )
    assert claims(replace(QUESTION, evidence=evidence)) == [
        ("1", "Ada wrote Red Tide. Elmford is old."),
        ("2", "It rains a lot."),
    ]


def test_without_a_sentence_the_first_that_holds_an_answer_is_claimed() -> None:
    """Whatever its case; any of the aliases counts."""
    evidence = (Evidence("1"),)
    assert claims(replace(QUESTION, evidence=evidence)) == [("1", "She was born in Elmford.")]
    assert claims(replace(QUESTION, evidence=evidence, answers=("x", "eLMFORD IS"))) == [("1", "Elmford is old.")]


@pytest.mark.parametrize("answers", [(), ("Paris",), ("",)])
def test_without_a_sentence_and_an_answer_the_first_sentence_is_claimed(answers: tuple[str, ...]) -> None:
    """An empty alias is in every sentence, and says nothing."""
    assert claims(replace(QUESTION, evidence=(Evidence("2"),), answers=answers)) == [("2", "Elmford lies by the sea.")]


def test_without_evidence_the_answer_stands_alone() -> None:
    example = question_to_example(replace(QUESTION, evidence=()), PASSAGES)
    assert example.output == (TextSegment("Elmford"),)
    assert example.passage_ids == ()


def test_nothing_to_learn_is_refused() -> None:
    for template in TEMPLATES:
        with pytest.raises(InputError, match="question 'q' has neither evidence nor an answer"):
            question_to_example(Question("q", "Who?"), PASSAGES, template)


def test_a_missing_passage_is_named() -> None:
    with pytest.raises(InputError, match="evidence of 'q' names the passage '9'; expected the id of one of the"):
        question_to_example(replace(QUESTION, evidence=(Evidence("9", "x"),)), PASSAGES)


def test_an_unknown_template_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        question_to_example(QUESTION, PASSAGES, "claim")
    assert str(caught.value) == "no template 'claim' (did you mean 'claims'?); there are claims, claims_long"


def test_a_null_sentence_is_not_found_inside_a_word() -> None:
    """Europe, which holds "euro", comes first; the sentence with the word itself is the claim, in any script."""
    texts = {
        "a": "Portugal is in Europe. Its currency is the euro.",
        "b": "\u6771\u4eac\u306f\u5927\u304d\u3044. It is old.",
    }
    passages = {name: Passage(name, "", text) for name, text in texts.items()}
    for name, answer, claim in (("a", "Euro", "Its currency is the euro."), ("b", "\u6771\u4eac", texts["b"][:6])):
        question = Question("q", "?", (answer,), evidence=(Evidence(name),))
        (segment, _) = question_to_example(question, passages).output
        assert isinstance(segment, RetrievalSegment)
        assert segment.claim.startswith(claim[:5])
