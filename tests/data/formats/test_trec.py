"""TREC runs: one ranking a question, whatever the number of searches, in the order that trec_eval will see."""

from __future__ import annotations

from pathlib import Path

import pytest

from cosup.data.convert import convert
from cosup.data.formats.trec import ranking
from cosup.data.writing import write_jsonl
from cosup.errors import InputError
from cosup.records import Answer, Citation, Hit, Retrieval


def _search(*hits: tuple[str, float], read: int = 1) -> Retrieval:
    return Retrieval(0, tuple(Hit(passage, score) for passage, score in hits), read)


def _answer(name: str, *searches: Retrieval, cited: tuple[str, ...] = ()) -> Answer:
    citations = tuple(Citation(n, passage, "x", 0, 1, 0.25) for n, passage in enumerate(cited, start=1))
    return Answer(name, "?", "x", "x", citations=citations, retrievals=searches)


def _run(folder: Path, *answers: Answer) -> list[str]:
    write_jsonl(folder / "predictions.jsonl", answers)
    convert("trec", folder, folder / "run.trec")
    return (folder / "run.trec").read_text().splitlines()


def test_one_search_is_written_as_it_was(tmp_path: Path) -> None:
    lines = _run(tmp_path, _answer("q1", _search(("b", 0.9), ("a", 0.5), ("c", -1.25)), cited=("b",)))
    assert lines == ["q1 Q0 b 1 0.9 cosup", "q1 Q0 a 2 0.5 cosup", "q1 Q0 c 3 -1.25 cosup"]


def test_what_was_read_comes_before_what_was_only_found() -> None:
    first = _search(("a", 0.9), ("b", 0.8), ("c", 0.7))
    second = _search(("d", 0.6), ("e", 0.5), ("b", 0.4), ("f", 0.3), read=2)
    assert [passage for passage, _ in ranking(_answer("q", first, second))] == ["a", "d", "e", "b", "c", "f"]


def test_what_was_cited_without_being_found_comes_after_what_was_read() -> None:
    answer = _answer("q", _search(("a", 0.9), ("b", 0.8)), cited=("b", "z"))
    assert ranking(answer) == [("a", 0.9), ("z", 0.25), ("b", 0.8)]
    assert ranking(_answer("q", cited=("z",))) == [("z", 0.25)]


@pytest.mark.parametrize("second", [0.5, 0.6])
def test_scores_that_do_not_fall_become_those_of_ranks(second: float, tmp_path: Path) -> None:
    """Sorted by its scores, as trec_eval does, a run keeps its order."""
    lines = _run(tmp_path, _answer("q", _search(("a", 0.5)), _search(("b", second))))
    assert lines == ["q Q0 a 1 1.0 cosup", "q Q0 b 2 0.5 cosup"]


def test_white_space_in_ids_does_not_break_lines(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "p.jsonl", [_answer("q 1", _search(("Red Fox 5%", 0.5), ("5%", 0.25))), _answer("q2")])
    done = convert("trec", tmp_path / "p.jsonl", tmp_path)
    assert (tmp_path / "run.trec").read_text() == "q%201 Q0 Red%20Fox%205%25 1 0.5 cosup\nq%201 Q0 5% 2 0.25 cosup\n"
    assert done.noted == {"ids have white space (written as in an address, %20)": 3}
    assert done.skipped == {"predictions that retrieved nothing": 1}
    assert dict(done.written) == {tmp_path / "run.trec": 2}


def test_predictions_that_retrieved_nothing_make_no_run(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"nothing there for run.trec \(skipped 1 predictions that retrieved nothing\)"
    ):
        _run(tmp_path, _answer("q"))
