"""The report: known averages, what is counted apart or missing, and its files."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosup.data.jsonl import iter_jsonl
from cosup.errors import InputError, UsageError
from cosup.evaluation import Report, evaluate, markdown, notes, table_rows, write_report
from cosup.records import Answer, Citation, Evidence, Hit, Passage, Question, Retrieval

PASSAGES = [
    Passage("sea", "The Sea", "The Sea is a novel by Ada Moor."),
    Passage("ada", "Ada Moor", "Ada Moor was born in Oslo."),
    Passage("rome", "Rome", "Rome is a city."),
]
SEA = Evidence("sea", "The Sea is a novel by Ada Moor.")
ADA = Evidence("ada", "Ada Moor was born in Oslo.")
QUESTIONS = [
    Question("one-1", "Who wrote The Sea?", answers=("Ada Moor", "Moor"), evidence=(SEA,)),
    Question("one-2", "Where was Ada Moor born?", answers=("Oslo",), evidence=(ADA,)),
    Question("two-1", "Where was the author of The Sea born?", answers=("Oslo",), evidence=(SEA, ADA)),
    Question("two-2", "Why Rome?", long_answer="It is a city.", evidence=(Evidence("rome"),)),
]


def answered(question_id: str, final: str, *found: str) -> Answer:
    """Return an answer that searched once per string (each comma-separated id a hit) and cites each top hit."""
    retrievals = tuple(Retrieval(0, tuple(Hit(p, 1.0) for p in hits.split(","))) for hits in found)
    texts = {p.id: p.text for p in PASSAGES} | {"unknown": "?"}
    tops = [r.hits[0].passage_id for r in retrievals]
    citations = tuple(Citation(n, p, texts[p], 0, 0, 1.0) for n, p in enumerate(tops, start=1))
    return Answer(question_id, "", f"Claim [1]. {final}", final, citations=citations, retrievals=retrievals)


ANSWERS = [
    answered("one-1", "The Moor", "sea,ada"),
    answered("one-2", "in Oslo", "rome,ada"),
    answered("two-1", "Oslo", "sea,rome", "ada,rome"),
    answered("two-2", "Who knows", "rome,ada"),
]


def hops(question: Question) -> str:
    return "two_hop" if question.id.startswith("two") else "single_hop"


def test_known_batch_known_value() -> None:
    """Four predictions, every average worked out by hand; Why Rome? has neither answers nor a gold sentence."""
    report = evaluate(ANSWERS, QUESTIONS, PASSAGES, {"seed": 1})
    correctness = {
        "exact_match": 2,
        "f1": 1 + 2 / 3 + 1,  # "in Oslo": 1 token in common of 2 and 1
        "contains_answer": 3,
        "contains_answer_raw": 3,
        "answer_correct": 3,
        "answers_found": 1 / 2 + 1 + 1,  # of "Ada Moor" and "Moor" the text has only the second
    }
    # Retrieval missed for one-2 alone, which has 0 in exact_match; the first R pages of the other two are gold.
    missed = {"exact_match": 0, "f1": 2 / 3, "contains_answer": 1, "contains_answer_raw": 1, "answers_found": 1}
    missed["answer_correct"] = 1
    thirds = correctness | {
        "answer_passage_precision": 1 + 0 + 1 / 2,  # of The Sea and Ada Moor, only the second holds "Oslo"
        "answer_passage_hit": 2,
        "citation_precision": 1 + 0 + 1,
        "citation_recall": 1 + 0 + 1,
    }
    quarters = {
        "retrieved": 4,
        "retrieved_first": 4,
        "recall@1": 3,
        "mrr": 1 + 1 / 2 + 1 + 1,
        "passage_hit": 3,
        "passage_precision": 3,
        "passage_recall": 3,
        "passage_f1": 3,
        "passage_set_match": 3,
        "r_precision": 3,
        "page_r_precision": 3,
        "page_recall@5": 3,
    }
    for name, lost in missed.items():
        thirds |= {f"kilt_{name}": correctness[name] - lost, f"{name}_if_retrieved": correctness[name] - lost}
    # Why Rome? has a long answer, which shares no word and no subsequence with "Claim. Who knows".
    ones = {"text_f1": 0, "rouge_l": 0}
    ones |= {name.format(base): 0 for base in tuple(ones) for name in ("kilt_{}", "{}_if_retrieved")}
    expected = {name: 100 * total / 3 for name, total in thirds.items()}
    expected |= {name: 100 * total / 4 for name, total in quarters.items()} | ones
    assert report.metrics == pytest.approx(expected)
    assert report.apart == dict.fromkeys(thirds, 1) | dict.fromkeys(ones, 3)
    assert report.intervals.keys() == report.metrics.keys()
    assert all(low <= report.metrics[name] <= high for name, (low, high) in report.intervals.items())
    assert (report.count, report.settings, report.per_task) == (4, {"seed": 1}, {})
    assert (report.missing, report.extra, report.duplicate) == ((), (), ())


def test_tasks_have_their_own_averages_beside_the_global_ones() -> None:
    report = evaluate(ANSWERS, QUESTIONS, PASSAGES, task_of=hops)
    assert list(report.per_task) == ["single_hop", "two_hop"]
    assert report.metrics["exact_match"] == pytest.approx(200 / 3)
    assert report.metrics["single_hop.exact_match"] == 50
    assert report.metrics["two_hop.exact_match"] == 100  # of the one question that has answers
    assert report.metrics["two_hop.citation_recall"] == 100
    assert report.per_task["two_hop"].apart["exact_match"] == 1
    assert report.per_task["two_hop"].count == 2
    assert "exact_match" not in report.per_task["single_hop"].apart
    assert report.intervals.keys() == report.metrics.keys()
    assert report.metrics == evaluate(ANSWERS, QUESTIONS, PASSAGES).metrics | {
        f"{task}.{name}": value for task, part in report.per_task.items() for name, value in part.metrics.items()
    }


def test_a_task_has_the_intervals_that_it_has_alone() -> None:
    report = evaluate(ANSWERS, QUESTIONS, PASSAGES, task_of=hops)
    alone = evaluate(ANSWERS[:2], QUESTIONS[:2], PASSAGES)
    task = "single_hop."
    own = {name.removeprefix(task): ends for name, ends in report.intervals.items() if name.startswith(task)}
    assert own == alone.intervals
    assert own["exact_match"] == (0.0, 100.0)
    assert report.intervals["two_hop.exact_match"] == (100.0, 100.0)
    assert report.to_dict()["intervals"]["two_hop.exact_match"] == [100.0, 100.0]


def test_a_measure_that_can_judge_no_question_is_absent_not_zero() -> None:
    report = evaluate(ANSWERS[3:], QUESTIONS[3:], PASSAGES)
    assert "exact_match" not in report.metrics
    assert "citation_recall" not in report.metrics
    assert report.metrics["recall@1"] == 100
    assert report.apart["exact_match"] == 1


def test_missing_predictions_score_zero_everywhere() -> None:
    report = evaluate(ANSWERS[:1], QUESTIONS[:2], PASSAGES)
    full = evaluate(ANSWERS[:1], QUESTIONS[:1], PASSAGES)
    assert report.missing == ("one-2",)
    assert report.count == 2
    assert report.metrics == {name: value / 2 for name, value in full.metrics.items()}
    assert set(report.results[1].scores.values()) == {0.0}


def test_extra_and_duplicate_predictions_are_listed_and_the_first_one_scored() -> None:
    wrong = answered("one-1", "nobody", "rome,sea")
    stray = [answered("x", "?", "unknown"), answered("x", "?", "unknown")]
    report = evaluate([*ANSWERS, wrong, wrong, *stray], QUESTIONS, PASSAGES)
    assert report.duplicate == ("one-1", "x")
    assert report.extra == ("x",)
    assert report.metrics == evaluate(ANSWERS, QUESTIONS, PASSAGES).metrics


def test_blank_texts_are_listed_and_scored_as_they_are() -> None:
    """A blank text is no missing prediction: what it retrieved counts, and it is told."""
    blank = replace(ANSWERS[0], text=" \n", answer="", citations=())
    report = evaluate([blank, *ANSWERS[1:], Answer("x", "", "", "")], QUESTIONS, PASSAGES)
    assert (report.empty, report.missing, report.extra) == (("one-1",), (), ("x",))
    assert report.results[0].scores["passage_hit"] == 1
    assert report.results[0].scores["contains_answer"] == 0
    assert report.to_dict()["empty"] == {"count": 1, "ids": ["one-1"]}
    assert notes(report)[0] == "1 answered with an empty text, scored as it is: 'one-1'"


def test_what_the_other_predictions_lack_is_told_too() -> None:
    blank = replace(ANSWERS[1], text="")
    others = [ANSWERS[0], ANSWERS[0], blank, ANSWERS[2], answered("x", "?", "unknown")]
    report = evaluate(ANSWERS, QUESTIONS, PASSAGES, against=others)
    one = {name: {"count": 1, "ids": [i]} for name, i in (("missing", "two-2"), ("extra", "x"))}
    one |= {name: {"count": 1, "ids": [i]} for name, i in (("duplicate", "one-1"), ("empty", "one-2"))}
    assert report.to_dict()["against"] == one
    assert (report.missing, report.extra, report.duplicate, report.empty) == ((), (), (), ())
    assert notes(report) == [
        "of the other predictions, 1 without a prediction, scored 0: 'two-2'",
        "of the other predictions, 1 answered with an empty text, scored as it is: 'one-2'",
        "of the other predictions, 1 predicted but not asked, not scored: 'x'",
        "of the other predictions, 1 predicted more than once, the first one scored: 'one-1'",
    ]
    assert notes(report)[0] in markdown(report)
    assert "against" not in evaluate(ANSWERS, QUESTIONS, PASSAGES).to_dict()


def test_recall_deeper_than_the_hits_kept_is_not_reported() -> None:
    """All searches keep two hits, so recall@5 cannot be told; with one that keeps five it can."""
    assert not {"recall@5", "gold_recall@5"} & evaluate(ANSWERS, QUESTIONS, PASSAGES).metrics.keys()
    deep = answered("one-2", "Oslo", "rome,a,b,c,ada")
    metrics = evaluate([ANSWERS[0], deep, *ANSWERS[2:]], QUESTIONS, PASSAGES).metrics
    assert metrics["recall@5"] == 100
    assert "recall@10" not in metrics


@pytest.mark.parametrize(
    ("answers", "questions", "passages", "message"),
    [
        (ANSWERS, [], PASSAGES, "no questions"),
        ([], QUESTIONS, PASSAGES, "found no predictions, none for the 4 questions ('one-1', 'one-2', 'two-1', ...)"),
        ([answered("x", "")], QUESTIONS, PASSAGES, "found 1 predictions ('x'), none for the 4 questions"),
        (ANSWERS, [*QUESTIONS, QUESTIONS[0]], PASSAGES, "question id 'one-1' comes twice"),
        (ANSWERS, QUESTIONS, [*PASSAGES, PASSAGES[0]], "passage id 'sea' comes twice"),
        (
            ANSWERS,
            QUESTIONS,
            PASSAGES[1:],
            "question 'one-1' has evidence in passage 'sea', which is not in the corpus",
        ),
        (
            [answered("one-1", "", "unknown")],
            QUESTIONS,
            PASSAGES,
            "prediction 'one-1' retrieved or cites passage 'unknown', which is not in the corpus",
        ),
    ],
)
def test_input_that_cannot_be_measured_is_refused(
    answers: list[Answer], questions: list[Question], passages: list[Passage], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        evaluate(answers, questions, passages)
    assert message in str(caught.value)


def test_report_files(tmp_path: Path) -> None:
    report = evaluate(ANSWERS[:3], QUESTIONS, PASSAGES, {"model": "tiny"}, task_of=hops)
    path = write_report(report, tmp_path / "new" / "out")
    assert path == tmp_path / "new" / "out" / "report.json"
    assert sorted(p.name for p in path.parent.iterdir()) == ["per_question.jsonl", "report.json", "report.md"]
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored == json.loads(json.dumps(report.to_dict()))
    assert stored["metrics"] == report.metrics  # not rounded
    assert stored["settings"] == {"model": "tiny"}
    assert stored["missing"] == {"count": 1, "ids": ["two-2"]}
    assert stored["per_task"]["two_hop"]["count"] == 2
    lines = [record for _, record in iter_jsonl(path.parent / "per_question.jsonl")]
    assert [line["id"] for line in lines] == [q.id for q in QUESTIONS]
    assert [line["missing"] for line in lines] == [False, False, False, True]
    assert lines[1]["citations"][0]["reason"] == "the passage is not gold"
    assert lines[1]["retrieved_ids"] == ["rome"]
    assert "exact_match" not in lines[3]["scores"]
    assert (path.parent / "report.md").read_text(encoding="utf-8") == markdown(report)


def test_markdown_table_rounds_and_names_what_was_left_out() -> None:
    text = markdown(evaluate(ANSWERS[:3], QUESTIONS, PASSAGES, task_of=lambda q: hops(q).replace("_", "|")))
    lines = text.splitlines()
    assert lines[2] == r"| measure | all | 95% interval | single\|hop | two\|hop | counted apart |"
    assert lines[3] == "| --- | ---: | ---: | ---: | ---: | ---: |"
    assert "| exact_match | 66.7 | 0.0 to 100.0 | 50.0 | 100.0 | 1 |" in lines
    assert "| recall@1 | 50.0 | 0.0 to 100.0 | 50.0 | 50.0 | 0 |" in lines
    assert "| questions | 4 |  | 2 | 2 |  |" in lines
    recounted = "66.7 [0.0, 100.0]"  # where retrieval was right, and by KILT's rule
    assert f"| exact_match | {recounted} | {recounted} | {recounted} |" in lines
    assert lines[-1] == "- 1 without a prediction, scored 0: 'two-2'"


def test_table_shows_a_dash_where_nothing_could_be_judged() -> None:
    report = evaluate(ANSWERS, QUESTIONS, PASSAGES, task_of=lambda q: q.id)
    row = next(row for row in table_rows(report) if row[0] == "exact_match")
    assert row == ["exact_match", "66.7", "0.0 to 100.0", "100.0", "0.0", "100.0", "-", "1"]
    assert notes(report) == []


def test_two_systems_are_compared_question_by_question(tmp_path: Path) -> None:
    """The others answer one question more wrongly; what both lack (two-2 has no answer) is compared by no measure."""
    worse = [replace(ANSWERS[0], answer="nobody"), *ANSWERS[1:3]]
    report = evaluate(ANSWERS, QUESTIONS, PASSAGES, against=worse)
    found = {own.name: own for own in report.comparison}
    assert (found["exact_match"].ours, found["exact_match"].theirs) == pytest.approx((200 / 3, 100 / 3))
    assert found["exact_match"].difference == pytest.approx(100 / 3)
    assert found["exact_match"].count == 3
    assert found["exact_match"].p_value == pytest.approx(1, abs=1e-3)  # one pair that differs tells nothing
    assert found["recall@1"].theirs == 50  # two-2 was not answered
    written = json.loads(write_report(report, tmp_path / "out").read_text())
    assert {own["name"] for own in written["comparison"]} == found.keys()
    assert "## Against the other predictions" in markdown(report)
    with pytest.raises(InputError, match="none for the 4 questions"):
        evaluate(ANSWERS, QUESTIONS, PASSAGES, against=[answered("other", "x")])


def test_each_file_is_as_deep_as_its_own_hits() -> None:
    """One file keeps five hits a search, the other two: only depths that both can tell are compared."""
    deep = [ANSWERS[0], answered("one-2", "in Oslo", "rome,a,b,c,ada"), *ANSWERS[2:]]
    alone = evaluate(ANSWERS, QUESTIONS, PASSAGES)
    ours = evaluate(ANSWERS, QUESTIONS, PASSAGES, against=deep)
    assert (ours.metrics, ours.intervals) == (alone.metrics, alone.intervals)
    theirs = evaluate(deep, QUESTIONS, PASSAGES, against=ANSWERS)
    assert theirs.metrics["recall@5"] == 100
    for report in (ours, theirs):
        compared = {own.name for own in report.comparison}
        assert "recall@1" in compared
        assert not {"recall@5", "gold_recall@5", "mrr"} & compared
    same = evaluate(deep, QUESTIONS, PASSAGES, against=deep)
    assert {"recall@5", "mrr"} <= {own.name for own in same.comparison}


def test_settings_that_json_cannot_hold_leave_no_file(tmp_path: Path) -> None:
    report = evaluate(ANSWERS, QUESTIONS, PASSAGES, {"loss": float("nan")})
    with pytest.raises(InputError, match="settings"):
        write_report(report, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("kept")
    with pytest.raises(UsageError, match="expected a folder"):
        write_report(evaluate(ANSWERS, QUESTIONS, PASSAGES), tmp_path / "out")
    assert (tmp_path / "out").read_text() == "kept"


def test_settings_can_be_completed_after_the_measuring() -> None:
    """The demo knows its total time only once it has evaluated."""
    report = evaluate(ANSWERS, QUESTIONS, PASSAGES, {"seed": 1})
    later = replace(report, settings=report.settings | {"total_seconds": 2.5})
    assert later.to_dict()["settings"] == {"seed": 1, "total_seconds": 2.5}


finals = st.sampled_from(["Oslo", "Ada Moor", "the", "", "in Oslo or Rome", "é?"])
founds = st.lists(st.sampled_from(["sea", "ada", "rome", "sea,ada", "rome,ada,sea"]), max_size=3)


@st.composite
def batches(draw: st.DrawFn) -> list[Answer]:
    ids = draw(st.lists(st.sampled_from([q.id for q in QUESTIONS]), unique=True, min_size=1))
    return [answered(i, draw(finals), *draw(founds)) for i in ids]


def report_of(answers: list[Answer], questions: list[Question]) -> Report:
    return evaluate(answers, questions, PASSAGES, task_of=hops)


@given(answers=batches(), seed=st.integers(0, 99))
def test_percentages_are_bounded_and_order_never_matters(answers: list[Answer], seed: int) -> None:
    report = report_of(answers, QUESTIONS)
    assert all(0 <= value <= 100 for value in report.metrics.values())
    mixed = random.Random(seed)
    again = report_of(mixed.sample(answers, len(answers)), mixed.sample(QUESTIONS, len(QUESTIONS)))
    assert again.metrics == report.metrics
    assert again.apart == report.apart
    assert set(again.missing) == set(report.missing)
