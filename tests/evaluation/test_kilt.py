"""KILT's official measures on invented records; expected values are worked out from the definitions by hand."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from cosup.errors import InputError, UsageError
from cosup.evaluation import rouge
from cosup.evaluation.kilt import kilt_report, score_kilt
from cosup.evaluation.kilt_measures import answer_scores, evidence_rank, r_precision
from cosup.evaluation.kilt_records import read_golds
from cosup.evaluation.rouge import rouge_l

Output = dict[str, Any]


def pages(*ids: Any) -> list[dict[str, Any]]:
    return [{"wikipedia_id": i, "title": f"Page {i}"} for i in ids]


def record(identifier: Any, *outputs: Output) -> dict[str, Any]:
    return {"id": identifier, "input": "?", "output": list(outputs)}


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
    return path


GOLD = (
    # An article and a capital; page 10 alone is evidence, and so are 10 and 11 together.
    record(
        1, {"answer": "The Beatles", "provenance": pages("10")}, {"answer": "Beatles", "provenance": pages("10", "11")}
    ),
    record("q2", {"answer": "Zürich"}, {"answer": "Zurich", "provenance": pages("12")}),
    record("q3", {"answer": "seven", "provenance": pages("7")}),
    record("q4", {"answer": "yes", "provenance": pages("20", "21")}),
    # An empty list of provenance is a set of evidence of its own, which nothing can find.
    record("q5", {"answer": "1999", "provenance": []}, {"provenance": pages("30")}),
)
GUESSES = (
    record("q5", {"answer": 1999, "provenance": pages(30)}),
    record("q4", {"answer": "no. yes", "provenance": pages("20", "99", "21")}),
    record("nobody asked", {"answer": "x"}),
    record("q3", {"answer": "  ", "provenance": pages(" 7 ")}),
    record("q2", {"answer": " Zürich ", "provenance": []}),
    record("1", {"answer": "beatles!", "provenance": pages("10", "10", "11")}),
)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return write(tmp_path / "gold.jsonl", *GOLD), write(tmp_path / "guess.jsonl", *GUESSES)


def test_the_averages_are_those_of_the_definitions(files: tuple[Path, Path]) -> None:
    found = score_kilt(*files)
    # question      1    q2   q3   q4   q5
    # accuracy      0    1    0    0    1     "beatles!" is no gold answer as it stands; 1999 is written "1999"
    # em            1    1    0    0    1
    # f1            1    1    0   2/3   1     "no yes" and "yes": precision 1/2, recall 1
    # rougel        0    1    0   2/3   1     not normalised: "beatles!" is neither "The" nor "Beatles"
    # Rprec         1    0    1   1/2   1     q4: of the first two pages, 20 and 99, one is gold
    # recall@5      1    0    1    1   1/2    q4: 20 and 21 are one place; q5: one of two sets
    assert found["downstream"] == pytest.approx(
        {"accuracy": 2 / 5, "em": 3 / 5, "f1": 11 / 15, "rougel": 8 / 15}, abs=1e-7
    )
    assert found["kilt"] == pytest.approx(
        {"KILT-accuracy": 1 / 5, "KILT-em": 2 / 5, "KILT-f1": 2 / 5, "KILT-rougel": 1 / 5}, abs=1e-7
    )
    # precision@1: the first page of q4 is half a set, which has its place later on.
    wanted = {"Rprec": 7 / 10, "recall@5": 7 / 10, "precision@1": 3 / 5, "success_rate@5": 4 / 5}
    assert {name: found["retrieval"][name] for name in wanted} == pytest.approx(wanted)


def test_what_is_out_of_the_ordinary_is_counted(files: tuple[Path, Path]) -> None:
    found = score_kilt(*files)
    assert found["counts"] == {
        "questions": 5,
        "empty_answers": 1,
        "answers_not_text": 1,
        "without_provenance": 1,
        "provenance_without_page": 0,
        "gold_without_answer": 0,
        "gold_without_provenance": 0,
        "extra_predictions": 1,
    }
    assert found["extra"] == {"count": 1, "ids": ["nobody asked"]}


def test_each_question_keeps_its_scores_in_the_order_of_the_gold_file(files: tuple[Path, Path]) -> None:
    questions = kilt_report(*files).questions
    assert [q.id for q in questions] == ["1", "q2", "q3", "q4", "q5"]
    assert questions[0].kilt["KILT-em"] == 1
    assert questions[1].downstream["em"] == 1
    assert questions[1].kilt["KILT-em"] == 0


def test_rouge_is_left_out_where_it_is_not_wanted(files: tuple[Path, Path]) -> None:
    found = score_kilt(*files, rouge=False)
    assert list(found["downstream"]) == ["accuracy", "em", "f1"]
    assert list(found["kilt"]) == ["KILT-accuracy", "KILT-em", "KILT-f1"]


@pytest.mark.parametrize(
    ("answer", "golds", "accuracy", "em", "f1"),
    [
        ("The", ["a"], 0, 1, 0),  # nothing is left of either: the same, without a token in common
        ("cat cat dog", ["a cat, a dog"], 0, 0, 4 / 5),  # common: cat, dog; 2 * 2 / (3 + 2)
        ("New York-based", ["New York based"], 0, 0, 2 / 5),  # "yorkbased" is one token; common: new
        ("naïve", ["naive"], 0, 0, 0),
        ("“Hi”", ["Hi"], 0, 0, 0),  # only ASCII punctuation goes
        ("3.5", ["35", "x"], 0, 1, 1),
        ("北京", ["北京。", "北京"], 1, 1, 1),
        ("", ["x"], 0, 0, 0),
    ],
)
def test_answers(answer: str, golds: list[str], accuracy: float, em: float, f1: float) -> None:
    assert answer_scores(answer, golds, None) == pytest.approx({"accuracy": accuracy, "em": em, "f1": f1})


@pytest.mark.parametrize(
    ("prediction", "gold", "expected"),
    [
        ("police killed the gunman", "police kill the gunman", 3 / 4),
        ("the the cat", "the cat", 1.0),  # words are counted as a set
        ("cat the", "the cat", 1 / 2),
        ("...", "x", 0.0),  # nothing between the full stops
        ("x", ".", 0.0),
    ],
)
def test_rouge_l_is_that_of_the_package(prediction: str, gold: str, expected: float) -> None:
    assert rouge_l(prediction, gold) == pytest.approx(expected, abs=1e-7)


def test_rouge_l_reads_texts_longer_than_the_recursion_limit() -> None:
    words = " ".join(f"w{i}" for i in range(600))
    assert rouge_l(words, words + " more") == pytest.approx(2 * 600 / 1201, abs=1e-7)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rouge", None)
    rouge._rouge.cache_clear()
    with pytest.raises(
        UsageError, match=r"ROUGE-L needs the extra 'eval' \(rouge is not installed\): pip install 'cosup\[eval\]'"
    ):
        rouge_l("a", "b")
    rouge._rouge.cache_clear()


@pytest.mark.parametrize(
    ("predicted", "evidence", "expected"),
    [
        ("axb", ["ab"], [False, True]),  # the place of a closes up
        ("ab", ["ab", "a"], [True, True]),  # a completes the second set, b the first
        ("ab", ["abc"], [False]),  # incomplete: one place, which does not hold
        ("xab", ["a", "a", ""], [False, True, True, False]),  # sets as they are given; b is of none
        ("", ["a"], []),
    ],
)
def test_a_set_of_evidence_is_one_place_in_the_rank(predicted: str, evidence: list[str], expected: list[bool]) -> None:
    assert evidence_rank(list(predicted), [frozenset(e) for e in evidence]) == expected


def test_evidence_without_a_page_can_never_be_complete(tmp_path: Path) -> None:
    entry = pages("1")[0]
    gold = write(tmp_path / "g", record("q", {"answer": "x", "provenance": [entry, {"title": "no page"}, entry]}))
    guess = write(tmp_path / "u", record("q", {"answer": "x", "provenance": [*pages(1), {"title": "no page"}]}))
    found = score_kilt(gold, guess, rouge=False)
    # R-precision knows the named page alone; in the rank the set is {"1", ""}.
    assert (found["retrieval"]["Rprec"], found["retrieval"]["recall@5"]) == (1, 0)
    assert found["counts"]["provenance_without_page"] == 1


def test_repeated_sets_of_evidence_count_once(tmp_path: Path) -> None:
    outputs = [{"answer": "x", "provenance": pages("1", "1")}, {"provenance": pages(" 1 ")}, {"answer": "y"}]
    gold = write(tmp_path / "g", record("q", *outputs))
    assert read_golds(gold)["q"].evidence == (frozenset({"1"}),)
    assert r_precision(["1"], read_golds(gold)["q"]) == 1
    guess = write(tmp_path / "u", record("q", {"answer": "y", "provenance": pages("1")}))
    assert score_kilt(gold, guess, rouge=False)["retrieval"]["recall@5"] == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "u:2: wrong JSON"),
        ('{"output": []}', "u:2: there is no field 'id'"),
        ('{"id": "q2"}', "u:2: there is no field 'output'"),
        ('{"id": "q2", "output": {}}', "u:2: field 'output' is an object; expected a list of objects"),
        ('{"id": "q2", "output": []}', "u:2: the prediction of 'q2' has 0 outputs; expected exactly one"),
        ('{"id": "q2", "output": [{"answer": "a"}, {"answer": "b"}]}', "u:2: the prediction of 'q2' has 2 outputs"),
        ('{"id": "q2", "output": [{"provenance": []}]}', "u:2: the prediction of 'q2' has no 'answer'"),
        ('{"id": "q2", "output": [{"answer": "a", "provenance": null}]}', "u:2: field 'provenance' is null"),
        ('{"id": " q1 ", "output": [{"answer": "a"}]}', r"u:2: id 'q1' comes twice \(first on line 1\)"),
        ('{"id": "q7", "output": [{"answer": "a"}]}', r"u: no prediction for the question 'q2' \(.*g:2\); expected"),
    ],
)
def test_a_prediction_that_cannot_be_scored_is_refused_with_its_place(tmp_path: Path, line: str, said: str) -> None:
    gold = write(tmp_path / "g", *(record(f"q{i}", {"answer": "a"}) for i in (1, 2)))
    guess = tmp_path / "u"
    guess.write_text('{"id": "q1", "output": [{"answer": "a"}]}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=said):
        score_kilt(gold, guess)


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ([], "g:1: field 'output' is empty"),
        ([{"answer": 5}], "g:1: a gold answer is a number; expected a text"),
        ([{"answer": " "}, {"provenance": []}], "g:1: question 'q' has no gold answer"),
        ([{"answer": "a", "provenance": ["1"]}], "g:1: field 'provenance' is a list of other things"),
    ],
)
def test_a_gold_record_that_cannot_be_scored_is_refused_with_its_place(
    tmp_path: Path, outputs: list[Any], said: str
) -> None:
    gold = write(tmp_path / "g", record("q", *outputs))
    with pytest.raises(InputError, match=said):
        score_kilt(gold, write(tmp_path / "u", record("q", {"answer": "a"})))


def test_a_question_without_gold_answer_is_scored_where_nothing_was_answered(tmp_path: Path) -> None:
    gold = write(tmp_path / "g", record("q", {"provenance": pages(1)}))
    found = score_kilt(gold, write(tmp_path / "u", record("q", {"answer": "", "provenance": pages(1)})))
    assert (found["downstream"]["em"], found["retrieval"]["Rprec"]) == (0, 1)
    assert found["counts"]["gold_without_answer"] == 1


def test_an_answer_file_of_another_task_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    other = write(tmp_path / "other", record("z", {"answer": "a"}))
    with pytest.raises(InputError, match=r"other: none of its ids is one of those in .*'z' here, '1' there"):
        score_kilt(files[0], other)


def test_an_empty_file_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the file is empty"):
        score_kilt(files[0], write(tmp_path / "empty"))


def test_damaged_files_give_a_message_or_a_score(files: tuple[Path, Path], tmp_path: Path) -> None:
    """Bytes are exchanged, values replaced and lines dropped: either it is scored, or refused with the file's name."""
    rng = random.Random(5)
    odd = [None, 0, -1.5, "", "x", [], {}, [[]], [{}], True, {"a": None}]
    outcomes = {"refused": 0, "scored": 0}
    for number in range(600):
        which = rng.randrange(2)
        lines = files[which].read_text(encoding="utf-8").splitlines()
        place = rng.randrange(len(lines))
        if number % 3 == 0:
            content = json.loads(lines[place])
            target = rng.choice([content, *content["output"]])
            target[rng.choice(["id", "output", "answer", "provenance"])] = rng.choice(odd)
            lines[place] = json.dumps(content)
        elif number % 3 == 1:
            at = rng.randrange(len(lines[place]))
            lines[place] = lines[place][:at] + rng.choice('{}[]":,0x \u2028') + lines[place][at + 1 :]
        else:
            lines[place : place + rng.randrange(2)] = rng.choice([[], [""], ["null"], [lines[0]]])
        damaged = tmp_path / "damaged.jsonl"
        damaged.write_text("\n".join(lines) + "\n", encoding="utf-8")
        try:
            found = score_kilt(*((damaged, files[1]) if which == 0 else (files[0], damaged)), rouge=False)
        except InputError as error:
            outcomes["refused"] += error.path is not None
        else:
            scores = [s for part in ("downstream", "kilt", "retrieval") for s in found[part].values()]
            outcomes["scored"] += min(scores) >= 0 and max(scores) <= 1
    assert sum(outcomes.values()) == 600
    assert min(outcomes.values()) > 50
