"""ALCE's files: in, and out again with predictions; no list of wanted answers is lost on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cosup.data.convert import Conversion, convert
from cosup.data.jsonl import iter_jsonl
from cosup.data.reading import check_references, read_passages, read_questions
from cosup.data.writing import write_jsonl
from cosup.errors import InputError, UsageError
from cosup.records import Answer, Citation, Passage, Question

ELM = {"id": "100", "title": "Elm", "text": "Elm is small.", "score": 0.9}
ASH = {"id": "200", "title": "Ash", "text": "Ash is big.", "summary": "big"}
ASQA = {
    "sample_id": "-12",
    "question": "Where?",
    "docs": [ELM, ASH],
    "qa_pairs": [
        {"context": "No context", "question": "Where first?", "short_answers": ["Elm", "the elm"], "wikipage": None},
        {"context": "No context", "question": "Where then?", "short_answers": ["Ash"], "wikipage": None},
    ],
    "annotations": [{"knowledge": [], "long_answer": "In Elm, then Ash."}, {"knowledge": [], "long_answer": "Elm."}],
    "answer": "In Elm, then Ash.",
}
QAMPARI = {
    "id": "3_q",
    "question": "Which?",
    "docs": [ASH],
    "answers": [["Ash", "an ash"], ["Elm"]],
    "answer": "Ash, Elm",
}
ELI5 = {
    "question": "Why?",
    "question_ctx": "",
    "docs": [],
    "claims": ["Elm is small.", "It is."],
    "answer": "As it is.",
}


def _write(path: Path, value: Any) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps(value))
    return path


def _read(folder: Path, *entries: dict[str, Any]) -> Conversion:
    return convert("alce", _write(folder / "in.json", list(entries)), folder)


def _answer(name: str, text: str, *cited: str, question: str = "?") -> Answer:
    citations = tuple(Citation(n, passage, "x", 0, 1, 0.5) for n, passage in enumerate(cited, start=1))
    return Answer(name, question, text, text, citations=citations)


def _output(folder: Path, *answers: Answer, **more: Any) -> tuple[list[dict[str, Any]], Conversion]:
    write_jsonl(folder / "predictions.jsonl", answers)
    done = convert("alce-output", folder, folder / "result.json", **more)
    document = json.loads((folder / "result.json").read_text())
    assert list(document) == ["data"]
    assert list(done.written.values()) == [len(document["data"])]
    return document["data"], done


def test_entries_become_passages_questions_and_gold(tmp_path: Path) -> None:
    done = _read(tmp_path, ASQA, QAMPARI, ELI5)
    passages, questions = read_passages(tmp_path), read_questions(tmp_path / "questions.jsonl")
    assert passages == [Passage("100", "Elm", "Elm is small."), Passage("200", "Ash", "Ash is big.")]
    assert questions == [
        Question(
            "-12",
            "Where?",
            long_answer="In Elm, then Ash.",
            candidates=("100", "200"),
            answer_sets=(("Elm", "the elm"), ("Ash",)),
        ),
        Question("3_q", "Which?", candidates=("200",), answer_sets=(("Ash", "an ash"), ("Elm",))),
        Question("3", "Why?", long_answer="As it is.", claims=("Elm is small.", "It is.")),
    ]
    check_references(questions, passages, "x")
    gold = [entry for _, entry in iter_jsonl(tmp_path / "gold.jsonl")]
    assert gold[0] == {"id": "-12"} | {name: value for name, value in ASQA.items() if name != "docs"}
    assert done.skipped == {"lists of candidates that are empty (those questions search the whole corpus)": 1}


def test_docs_without_ids_and_texts(tmp_path: Path) -> None:
    """A doc without an id is named by its title; an id that stands for two texts is numbered."""
    docs = [
        {"title": "Elm", "text": "a"},
        {"id": 5, "text": "b"},
        {"id": "5", "text": "c"},
        {"title": "x", "text": " "},
    ]
    done = _read(tmp_path, ELI5 | {"docs": [*docs, docs[0]]})
    assert read_passages(tmp_path) == [Passage("Elm", "Elm", "a"), Passage("5", "", "b"), Passage("5#2", "", "c")]
    assert read_questions(tmp_path / "questions.jsonl")[0].candidates == ("Elm", "5", "5#2")
    assert done.skipped == {"docs without text": 1}


def test_a_file_without_docs_has_no_passages(tmp_path: Path) -> None:
    _read(tmp_path, ELI5)
    assert {path.name for path in tmp_path.iterdir()} == {"in.json", "questions.jsonl", "gold.jsonl"}


def test_a_scored_file_reads_as_its_data_does(tmp_path: Path) -> None:
    _read(tmp_path / "one", ASQA)
    source = _write(tmp_path / "in.json", {"args": {}, "data": [ASQA | {"output": "Elm [1]."}]})
    convert("alce", source, tmp_path / "two")
    for name in ("passages.jsonl", "questions.jsonl", "gold.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (ASQA, "[1]: id '-12' again; expected distinct ids"),
        ({"docs": []}, "[1]: no field 'question'; found 'docs'"),
        (ELI5 | {"docs": [{"title": "x"}]}, "[1].docs[0]: no field 'text'; found 'title'"),
        (ELI5 | {"claims": "x"}, "[1].claims: found str 'x'; expected a list"),
        (QAMPARI | {"answers": [["Elm"], "Ash"]}, "[1].answers: found str 'Ash'; expected a list"),
        (ASQA | {"sample_id": []}, "[1]: field 'id' is list []; expected text"),
        (ASQA | {"sample_id": "b", "annotations": [{}]}, "[1].annotations[0]: no field 'long_answer'; found none"),
    ],
)
def test_a_wrong_entry_names_the_place(entry: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        _read(tmp_path, ASQA, entry)
    assert str(caught.value).startswith(f"{tmp_path}/in.json: {message}")


def test_what_was_read_is_written_with_outputs(tmp_path: Path) -> None:
    """Marks count the docs from 1, in the order of first citation; every other field is that of the file."""
    _read(tmp_path, ASQA, QAMPARI)
    data, done = _output(tmp_path, _answer("3_q", "Ash [1]."), _answer("-12", "Ash [1]. Elm\n [2][1].", "200", "100"))
    elm, ash = ({name: doc[name] for name in ("id", "title", "text")} for doc in (ELM, ASH))
    assert data[0] == ASQA | {"id": "-12", "docs": [ash, elm], "output": "Ash [1]. Elm [2][1]."}
    assert data[1] == QAMPARI | {"docs": [], "output": "Ash [1]."}
    assert done.skipped == {}
    assert done.noted == {
        "line ends in outputs are written as spaces": 1,
        "marks in outputs are no citation (the scorer counts their sentence as unsupported)": 1,
    }


def test_the_published_file_may_be_the_gold(tmp_path: Path) -> None:
    """Its entries are known by their ids, or by their numbers where they have none."""
    gold = _write(tmp_path / "elsewhere" / "eli5.json", [ELI5, ELI5 | {"question": "How?"}, ELI5])
    write_jsonl(tmp_path / "p" / "passages.jsonl", [Passage("100", "Elm", "Elm is small.")])
    answers = [_answer("2", "Elm [1].", "100"), _answer("9", "x")]
    data, done = _output(tmp_path / "out", *answers, gold=gold, passages=tmp_path / "p")
    assert [(entry["question"], entry["output"], len(entry["docs"])) for entry in data] == [
        ("Why?", "", 0),
        ("How?", "Elm [1].", 1),
        ("Why?", "", 0),
    ]
    assert data[1]["claims"] == ELI5["claims"]
    assert done.noted == {"questions of the gold file have no prediction (written with an empty output)": 2}
    assert done.skipped == {"predictions of questions that the gold file lacks": 1}


def test_without_gold_questions_and_outputs_are_written(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "passages.jsonl", [Passage("100", "Elm", "Elm is small.")])
    data, done = _output(tmp_path, _answer("a", "Elm [1].", "100", question="Where?"))
    docs = [{"id": "100", "title": "Elm", "text": "Elm is small."}]
    assert data == [{"id": "a", "question": "Where?", "docs": docs, "output": "Elm [1]."}]
    assert list(done.skipped.values()) == [1]


def test_an_output_reads_as_an_alce_file_again(tmp_path: Path) -> None:
    """In, out, in: the same questions, now with the cited docs as candidates."""
    _read(tmp_path, ASQA)
    before = read_questions(tmp_path / "questions.jsonl")[0]
    _output(tmp_path, _answer("-12", "Ash [1].", "200"))
    convert("alce", tmp_path / "result.json", tmp_path / "again")
    [after] = read_questions(tmp_path / "again/questions.jsonl")
    assert (after.id, after.answer_sets, after.long_answer) == (before.id, before.answer_sets, before.long_answer)
    assert after.candidates == ("200",)


@pytest.mark.parametrize(
    ("citations", "message"),
    [
        ([(1, "nowhere")], "'-12' cites 'nowhere', which is not in passages.jsonl"),
        ([(1, "100"), (1, "200")], "'-12' has the mark [1] for two passages; expected one"),
        ([(2, "100")], "'-12' has the marks [2]; expected 1, 2, .. without a gap"),
    ],
)
def test_wrong_citations_name_the_line(citations: list[tuple[int, str]], message: str, tmp_path: Path) -> None:
    _read(tmp_path, ASQA, QAMPARI)
    wrong = Answer("-12", "", "x", "x", citations=tuple(Citation(n, p, "x", 0, 1, 0.5) for n, p in citations))
    with pytest.raises(InputError) as caught:
        _output(tmp_path, _answer("3_q", "x"), wrong)
    assert str(caught.value) == f"{tmp_path}/predictions.jsonl:2: {message}"
    assert not (tmp_path / "result.json").exists()


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"found no passages.jsonl in or beside IN or OUT"):
        _output(tmp_path, _answer("a", "x"))
    _read(tmp_path, ASQA)
    with pytest.raises(InputError, match=r"gold.jsonl: has none of the questions that were predicted \('a', ..\)"):
        _output(tmp_path, _answer("a", "x"))
    with pytest.raises(UsageError, match="alce takes no gold; only alce-output do"):
        convert("alce", tmp_path / "in.json", tmp_path, gold=tmp_path / "in.json")
