"""BEIR becomes passages and questions with graded evidence, and comes back as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from cosup.data.convert import convert
from cosup.data.reading import read_passages, read_questions
from cosup.data.writing import write_jsonl
from cosup.errors import InputError
from cosup.records import Evidence, Passage, Question
from tests.data.formats import published


def test_beir_gives_evidence_above_zero_best_first(tmp_path: Path) -> None:
    done = convert("beir", published.beir(tmp_path / "in"), tmp_path / "out")
    assert read_passages(tmp_path / "out") == [Passage("d1", "One", "First."), Passage("d2", "", "Two")]
    [question] = read_questions(tmp_path / "out" / "questions.test.jsonl")
    assert question == Question("q1", "one?", evidence=(Evidence("d1"), Evidence("d2")))
    assert sorted(done.skipped.values()) == [1, 1]  # the empty document, the judgement of 0


def test_beir_counts_judgements_of_what_is_not_there(tmp_path: Path) -> None:
    """And a file of judgements needs no header."""
    done = convert(
        "beir", published.beir(tmp_path / "in", "q1\td1\t1\r\nq1\td9\t1\nq9\td1\t1\n\nq1\td3\t1"), tmp_path / "out"
    )
    assert sorted(done.skipped.values()) == [1, 1, 2]
    assert done.skipped["judgements of documents that the corpus lacks or that are empty"] == 2
    assert read_questions(tmp_path / "out" / "questions.test.jsonl")[0].evidence == (Evidence("d1"),)


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        (
            "query-id\tcorpus-id\tscore\nq1 d1 1\n",
            "test.tsv:2: found 1 columns; expected query-id, corpus-id and score",
        ),
        ("q1\t0\td1\t1\n", "test.tsv:1: found 4 columns"),
        ("q1\td1\thigh\n", "test.tsv:1: found the score 'high'; expected a number"),
        ("q1\td1\tnan\n", "test.tsv:1: found the score 'nan'; expected a number"),
        ("q9\td1\t1\n", "nothing there for questions.test.jsonl (skipped"),
    ],
)
def test_wrong_beir_judgements_are_named(qrels: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        convert("beir", published.beir(tmp_path / "in", qrels), tmp_path / "out")
    assert message in str(caught.value)


def test_an_incomplete_beir_folder_is_named(tmp_path: Path) -> None:
    folder = published.beir(tmp_path / "in")
    write_jsonl(folder / "queries.jsonl", [{"id": "q1", "text": "one?"}])
    with pytest.raises(InputError, match=r"queries.jsonl:1: no field '_id'; found 'id', 'text'"):
        convert("beir", folder, tmp_path / "out")
    (folder / "queries.jsonl").unlink()
    with pytest.raises(InputError, match=r"queries.jsonl: no such file"):
        convert("beir", folder, tmp_path / "out")
    write_jsonl(folder / "queries.jsonl", [{"_id": "q1", "text": "one?"}])
    (folder / "qrels" / "test.tsv").unlink()
    with pytest.raises(InputError, match=r"qrels: found no .tsv file there"):
        convert("beir", folder, tmp_path / "out")


def test_beir_comes_back_as_it_was(tmp_path: Path) -> None:
    """BEIR, ours, BEIR, ours: the same passages, questions and order of evidence, for every split."""
    published.beir(tmp_path / "in")
    (tmp_path / "in" / "qrels" / "train.tsv").write_text("q2\td1\t1\nq2\td2\t1\n")
    convert("beir", tmp_path / "in", tmp_path / "one")
    done = convert("beir-output", tmp_path / "one", tmp_path / "back")
    assert (tmp_path / "back/qrels/test.tsv").read_text() == "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t1\n"
    assert {path.name: count for path, count in done.written.items()} == {
        "corpus.jsonl": 2,
        "queries.jsonl": 2,
        "test.tsv": 2,
        "train.tsv": 2,
    }
    convert("beir", tmp_path / "back", tmp_path / "two")
    for name in ("passages.jsonl", "questions.test.jsonl", "questions.train.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (Question("a", "other?"), "question 'a' has another text in another file; expected one"),
        (Question("b\tc", "?", evidence=(Evidence("p"),)), r"id 'b\\tc' has white space that a table cannot hold"),
        (Question("b", "?"), r"nothing there for qrels/test.tsv"),
    ],
)
def test_what_beir_cannot_hold_is_refused(question: Question, message: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "passages.jsonl", [Passage("p", "T", "x")])
    write_jsonl(tmp_path / "questions.dev.jsonl", [Question("a", "?", evidence=(Evidence("p"),))])
    write_jsonl(tmp_path / "questions.test.jsonl", [question])
    with pytest.raises(InputError, match=message):
        convert("beir-output", tmp_path, tmp_path / "out")
