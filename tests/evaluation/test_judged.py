"""Our own predictions under a judge, against values worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cosup.evaluation import evaluate, notes, write_report
from cosup.evaluation.judged import judge_answers
from cosup.evaluation.judging.base import Decision, FunctionJudge
from cosup.records import Answer, Citation, Passage, Question

PASSAGES = {
    "sea": Passage("sea", "The Sea", "Ada Moor wrote The Sea."),
    "ada": Passage("ada", "Ada Moor", "She was born in Oslo."),
}


def contains(premise: str, hypothesis: str) -> bool | Decision:
    """Entail what stands in the premise; leave what speaks of Rome undecided."""
    if "Rome" in hypothesis:
        return Decision(None, "no idea")
    return hypothesis.rstrip(".") in premise


JUDGE = FunctionJudge(contains, name="contains")


def cited(question_id: str, text: str, *passages: str) -> Answer:
    citations = tuple(Citation(n, p, "c", 0, 1, 1.0) for n, p in enumerate(passages, start=1))
    return Answer(question_id, "", text, text, citations=citations)


ASKED = [
    Question("right", "?", claims=("Ada Moor wrote The Sea.", "It rains.")),
    Question("half", "?"),
    Question("none", "?"),
    Question("missing", "?"),
    Question("rome", "?"),
]
GIVEN = [
    cited("right", "Ada Moor wrote The Sea [1].", "sea"),
    cited("half", "Ada Moor wrote The Sea [1][2]. It rains [2].", "sea", "ada"),
    cited("none", "Ada Moor wrote The Sea."),
    cited("missing", ""),
    cited("rome", "Rome is a city [1].", "sea"),
]


def test_each_prediction_has_alces_recall_and_precision() -> None:
    """`half`: one of two sentences holds; of its three citations one is needed."""
    found = judge_answers(GIVEN, ASKED, PASSAGES, JUDGE)
    recall, precision = ([own.get(f"nli_citation_{name}") for own in found.scores] for name in ("recall", "precision"))
    assert recall == [1, pytest.approx(1 / 2), 0, 0, None]
    assert precision == [1, pytest.approx(1 / 3), 0, 0, None]
    assert [own.get("claim_recall") for own in found.scores] == [1 / 2, None, None, None, None]
    assert found.counts["sentences_undecided"] == 1
    assert found.sentences[4][0].reason == "no idea"
    assert [v.entailed for v in found.claims[0]] == [True, False]


def test_the_report_counts_what_the_judge_left_undecided_apart(tmp_path: Path) -> None:
    report = evaluate(GIVEN, ASKED, PASSAGES.values(), judge=JUDGE)
    assert report.metrics["nli_citation_recall"] == pytest.approx(100 * (1 + 1 / 2) / 4)
    assert report.metrics["nli_citation_precision"] == pytest.approx(100 * (1 + 1 / 3) / 4)
    assert report.metrics["claim_recall"] == 50
    assert report.apart["nli_citation_recall"] == 1
    assert notes(report)[-1] == "1 of 5 sentences left undecided by the judge, counted apart"
    written = write_report(report, tmp_path)
    assert json.loads(written.read_text())["judged"]["judge"] == JUDGE.name
    lines = [json.loads(line) for line in (tmp_path / "per_question.jsonl").read_text().splitlines()]
    assert lines[1]["sentences"][1]["sentence"] == "It rains [2]."
    assert lines[1]["sentences"][1]["supported"] is False


def test_marks_with_numbers_left_out_point_where_they_say() -> None:
    """[3] is the second passage; [2] and numbers beyond all bounds have no citation and support nothing."""
    citations = (Citation(1, "sea", "c", 0, 1, 1.0), Citation(3_000_000, "ada", "c", 0, 1, 1.0))
    text = "She was born in Oslo [3000000]. Ada Moor wrote The Sea [2]. Ada Moor wrote The Sea [1]."
    answer = Answer("half", "", text, text, citations=citations)
    found = judge_answers([answer], ASKED[1:2], PASSAGES, JUDGE)
    assert [v.supported for v in found.sentences[0]] == [True, False, True]
    assert found.counts["sentences_citing_out_of_range"] == 1
    yes = FunctionJudge(lambda premise, hypothesis: True)
    assert judge_answers([answer], ASKED[1:2], PASSAGES, yes).scores[0]["nli_citation_recall"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("said", [True, Decision(None, "no idea")])
def test_a_missing_prediction_scores_zero_whatever_the_judge_says(said: bool | Decision) -> None:
    judge = FunctionJudge(lambda premise, hypothesis: said)
    found = judge_answers([cited("right", " ")], ASKED[:1], PASSAGES, judge)
    assert found.scores[0] == {"nli_citation_recall": 0, "nli_citation_precision": 0, "claim_recall": 0}


def test_a_number_that_no_citation_has_supports_nothing() -> None:
    found = judge_answers([cited("half", "She was born in Oslo [3].", "sea")], ASKED[1:2], PASSAGES, JUDGE)
    assert found.scores[0]["nli_citation_recall"] == 0
    assert found.counts["sentences_citing_out_of_range"] == 1
