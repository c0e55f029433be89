"""Measures of lists, labels and long answers, against values worked out by hand."""

from __future__ import annotations

import pytest

from cosup.evaluation import evaluate, notes, wanted
from cosup.records import Answer, Question


def answered(text: str, final: str | None = None) -> Answer:
    return Answer("q", "?", text, text if final is None else final)


SETS = (("Oslo", "Kristiania"), ("Rome",), ("Paris",))


@pytest.mark.parametrize(
    ("text", "str_em", "str_hit"),
    [
        ("Oslo, then Rome and Paris [1].", 1, 1),
        ("From KRISTIANIA to Rome.", 2 / 3, 0),
        ("Romeo", 1 / 3, 0),  # within a word too, as the official scorer
        ("", 0, 0),
    ],
)
def test_the_share_of_the_answers_that_are_all_wanted(text: str, str_em: float, str_hit: float) -> None:
    found = wanted.set_scores(answered(text), Question("q", "?", answer_sets=SETS))
    assert found == {"str_em": pytest.approx(str_em), "str_hit": str_hit}
    assert tuple(found) == wanted.SET_METRICS


def test_a_list_is_scored_item_by_item() -> None:
    """Two of three items right, two of three answers found: 2/3 everywhere, five or all being enough."""
    question = Question("q", "?", answer_sets=SETS)
    found = wanted.list_scores(answered("Oslo [1], Romeo, Paris."), question)
    assert tuple(found) == wanted.LIST_METRICS
    assert list(found.values()) == pytest.approx([2 / 3] * 5)
    assert wanted.list_scores(answered("Oslo"), Question("q", "?", answer_sets=SETS, long_answer="Prose.")) == {}


@pytest.mark.parametrize(
    ("text", "final", "right"),
    [
        ("It never was [1]. SUPPORTS", "SUPPORTS", 1),
        ("x", "supports.", 1),
        ("x", "This SUPPORTS it", 1),
        ("The claim supports that", "Yes", 1),
        ("It SUPPORTS and REFUTES", "", 0),  # both: neither
        ("SUPPORTS", "REFUTES", 0),  # the final answer decides
        ("x", "unsupportedly", 0),
    ],
)
def test_the_label_is_what_the_answer_names(text: str, final: str, right: int) -> None:
    question = Question("q", "?", label="SUPPORTS")
    assert wanted.label_scores(answered(text, final), question, {"SUPPORTS", "REFUTES"}) == {"accuracy": right}


def test_both_labels_of_fever_are_known_where_a_file_has_one() -> None:
    question = Question("q", "?", label="SUPPORTS")
    assert wanted.label_scores(answered("SUPPORTS or REFUTES"), question, {"SUPPORTS"}) == {"accuracy": 0}


def test_long_answers() -> None:
    """Three of four words in common on either side; ROUGE-L the same: the longest common subsequence has three."""
    question = Question("q", "?", long_answer="red ships sail north")
    found = wanted.long_scores(answered("red ships sail south [1]"), question)
    assert found == {"text_f1": pytest.approx(3 / 4), "rouge_l": pytest.approx(3 / 4)}
    either = Question("q", "?", answers=("red ships sail south",), long_answer="x")
    assert wanted.long_scores(answered("red ships sail south"), either)["text_f1"] == 1


def test_without_the_package_rouge_its_measure_is_left_out_and_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wanted, "has_rouge", lambda: False)
    question = Question("q", "?", long_answer="red ships")
    assert wanted.long_scores(answered("red ships"), question) == {"text_f1": 1}
    report = evaluate([answered("red ships")], [question], [])
    assert "rouge_l" not in report.metrics
    (note,) = notes(report)
    assert note == "rouge_l is left out: it needs the extra 'eval' (rouge is not installed): pip install 'cosup[eval]'"


def test_what_cannot_be_judged_has_no_score() -> None:
    question = Question("q", "?", answers=("Oslo",))
    assert wanted.set_scores(answered("Oslo"), question) == {}
    assert wanted.list_scores(answered("Oslo"), question) == {}
    assert wanted.label_scores(answered("Oslo"), question, ()) == {}
    assert wanted.long_scores(answered("Oslo"), question) == {}
