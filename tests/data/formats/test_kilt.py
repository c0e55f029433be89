"""KILT: pages become passages that know their paragraphs, provenance becomes evidence, predictions a submission."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from cosup.data.convert import convert
from cosup.data.jsonl import iter_jsonl
from cosup.data.reading import check_references, read_passages, read_questions
from cosup.data.writing import write_jsonl
from cosup.errors import InputError, UsageError
from cosup.evaluation import evaluate
from cosup.evaluation.kilt import score_kilt
from cosup.records import Answer, Citation, Evidence, Hit, Passage, Question, Retrieval

SENTENCE = "One two three four five six seven eight nine ten."  # ten words, 49 characters


def _page(page: str | int, *paragraphs: str, title: str = "Elm", **more: Any) -> dict[str, Any]:
    return {"_id": str(page), "wikipedia_id": page, "wikipedia_title": title, "text": list(paragraphs)} | more


def _passages(folder: Path, *pages: dict[str, Any]) -> list[Passage]:
    write_jsonl(folder / "source.json", pages)
    convert("kilt-knowledge", folder / "source.json", folder)
    return read_passages(folder)


def _where(page: str, start: tuple[int, int], end: tuple[int, int]) -> dict[str, Any]:
    metadata = {"wikipedia_id": page, "start_paragraph_id": start[0], "start_character": start[1]}
    return metadata | {"end_paragraph_id": end[0], "end_character": end[1]}


def test_neighbouring_paragraphs_of_a_section_are_one_passage(tmp_path: Path) -> None:
    """Titles and names of sections are no text, bullets lose their mark, and offsets count in the source."""
    page = _page(
        7,
        "Elm\n",
        "Elm is small.\n",
        " It lies low.\n",
        "Section::::Name.\n",
        "BULLET::::- An elm is a tree.\n",
        "\n",
        "Section::::Notes.:Empty.\n",
        "-\n",
        anchors=[],
    )
    assert _passages(tmp_path, page) == [
        Passage("7:1", "Elm", "Elm is small. It lies low.", _where("7", (1, 0), (2, 13))),
        Passage("7:2", "Elm", "- An elm is a tree.", _where("7", (4, 0), (4, 29))),
    ]


def test_passages_have_at_most_a_hundred_words(tmp_path: Path) -> None:
    """A paragraph that does not fit begins a passage; a long one is cut between sentences, else between words."""
    words = " ".join(f"w{i}" for i in range(230))
    long = " ".join([SENTENCE] * 12)
    page = _page("8", "Elm", " ".join([SENTENCE] * 6), " ".join([SENTENCE] * 5), long, words)
    passages = _passages(tmp_path, page)
    assert [len(p.text.split()) for p in passages] == [60, 50, 100, 20, 100, 100, 30]
    assert [(p.metadata["start_paragraph_id"], p.metadata["end_paragraph_id"]) for p in passages] == [
        (1, 1),
        (2, 2),
        (3, 3),
        (3, 3),
        (4, 4),
        (4, 4),
        (4, 4),
    ]
    assert [p.metadata["start_character"] for p in passages[2:4]] == [0, 500]
    paragraphs = page["text"]
    for passage in passages:
        m = passage.metadata
        assert passage.text == paragraphs[m["start_paragraph_id"]][m["start_character"] : m["end_character"]]  # type: ignore[misc]


def test_a_first_paragraph_that_is_no_title_is_text(tmp_path: Path) -> None:
    assert _passages(tmp_path, _page("1", "Elm is a village.", title="Elm (village)"))[0].text == "Elm is a village."


def test_pages_without_text_are_counted(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "source.json", [_page("1", "Elm\n"), _page("2", "Elm", "x")])
    assert convert("kilt-knowledge", tmp_path / "source.json", tmp_path).skipped == {"pages without text": 1}


def test_a_compressed_source_reads_the_same(tmp_path: Path) -> None:
    _passages(tmp_path, _page("1", "Elm", "x"), _page("2", "Ash", "y"))
    data = (tmp_path / "source.json").read_bytes()
    (tmp_path / "source.jsonl.gz").write_bytes(gzip.compress(data))
    convert("kilt-knowledge", tmp_path / "source.jsonl.gz", tmp_path / "two")
    assert (tmp_path / "two/passages.jsonl").read_bytes() == (tmp_path / "passages.jsonl").read_bytes()
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(data)[:-12])
    with pytest.raises(InputError, match=r"cut.jsonl.gz:\d: cannot be decompressed: .*; expected a whole .gz file"):
        convert("kilt-knowledge", tmp_path / "cut.jsonl.gz", tmp_path / "two")
    (tmp_path / "no.jsonl.gz").write_bytes(data)
    with pytest.raises(InputError, match=r"no.jsonl.gz:1: cannot be decompressed: Not a gzipped file"):
        convert("kilt-knowledge", tmp_path / "no.jsonl.gz", tmp_path / "two")


@pytest.mark.parametrize("page", ["7", 7, "0007", "b", "134217728", "²"])
def test_a_page_that_comes_twice_is_refused(page: str | int, tmp_path: Path) -> None:
    pages = [_page(page, "Elm", "x"), _page(8, "Elm", "x"), _page(page, "Elm", "y")]
    with pytest.raises(InputError, match=rf"source.json:3: page '{page}' again; expected distinct pages"):
        _passages(tmp_path, *pages)
    assert not (tmp_path / "passages.jsonl").exists(), "what was written before the error goes with it"


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ({"wikipedia_id": "1", "text": []}, "no field 'wikipedia_title'"),
        (_page(" ", "Elm"), "wikipedia_id: found no id; expected that of a page"),
        (_page("1", "Elm") | {"wikipedia_id": 1.5}, "wikipedia_id: found float 1.5; expected text"),
        (_page("1") | {"text": ["Elm", 3]}, "text: found int 3; expected text"),
    ],
)
def test_a_wrong_page_names_the_line(page: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        _passages(tmp_path, _page("5", "Elm", "x"), page)
    assert str(caught.value).startswith(f"{tmp_path}/source.json:2: {message}")


def test_memory_does_not_grow_with_the_knowledge_source(tmp_path: Path) -> None:
    """6,000 pages take as little memory as 500, well below the 0.8 MB of the file."""
    lines = [json.dumps(_page(page, "Elm\n", SENTENCE)) + "\n" for page in range(6_000)]
    (tmp_path / "small.json").write_text("".join(lines[:500]))
    (tmp_path / "source.json").write_text("".join(lines))
    del lines
    assert (tmp_path / "source.json").stat().st_size > 800_000
    peaks = []
    for name, pages in (("small.json", 500), ("source.json", 6_000)):
        tracemalloc.start()
        done = convert("kilt-knowledge", tmp_path / name, tmp_path / "passages.jsonl")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert list(done.written.values()) == [pages]
    assert peaks[1] < peaks[0] + 100_000
    assert max(peaks) < 300_000


def _provenance(page: str, *where: int | None, **more: Any) -> dict[str, Any]:
    names = ("start_paragraph_id", "start_character", "end_paragraph_id", "end_character")
    return {"wikipedia_id": page, "title": "T"} | dict(zip(names, where, strict=False)) | more


def _task(name: str | int, *outputs: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": name, "input": f" {name}?\n", "output": list(outputs), "meta": {}} | more


def _questions(folder: Path, *tasks: dict[str, Any]) -> list[Question]:
    write_jsonl(folder / "nq-dev-kilt.jsonl", tasks)
    convert("kilt", folder / "nq-dev-kilt.jsonl", folder)
    return read_questions(folder / "questions.jsonl")


def test_without_passages_the_evidence_is_pages(tmp_path: Path) -> None:
    """Answers are kept once in their order; entries may hold an answer, provenance, both or neither."""
    questions = _questions(
        tmp_path,
        _task(
            1,
            {"answer": "Elm", "provenance": [_provenance("7", 1, 0, 1, 3), _provenance("8")]},
            {"answer": " elm "},
            {"answer": "Elm"},
            {"answer": ""},
            {"provenance": [_provenance("7", 2)], "answer": None},
            {"meta": {}},
        ),
        _task("f", {"answer": "SUPPORTS", "provenance": [_provenance("9")]}, {"answer": "SUPPORTS"}),
        {"id": "blind", "input": "a [SEP] b"},
    )
    assert questions == [
        Question(
            "1", "1?", ("Elm", "elm"), evidence=(Evidence("7"), Evidence("8")), evidence_sets=(("7", "8"), ("7",))
        ),
        Question("f", "f?", ("SUPPORTS",), evidence=(Evidence("9"),), label="SUPPORTS"),
        Question("blind", "a [SEP] b"),
    ]


def test_long_answers_are_known_by_the_task_or_their_length(tmp_path: Path) -> None:
    long = "It is so because one two three four five six."
    assert [q.long_answer for q in _questions(tmp_path, _task(1, {"answer": "Elm"}), _task(2, {"answer": long}))] == [
        None,
        long,
    ]
    write_jsonl(tmp_path / "wow-dev-kilt.jsonl", [_task(1, {"answer": "Elm"})])
    convert("kilt", tmp_path / "wow-dev-kilt.jsonl", tmp_path / "wow.jsonl")
    assert read_questions(tmp_path / "wow.jsonl")[0].long_answer == "Elm"


def test_one_of_several_provenances_is_enough_as_in_the_official_scores(tmp_path: Path) -> None:
    """The same prediction by `--format kilt` and by our own measures on the converted questions."""
    outputs = [{"answer": "Elm", "provenance": [_provenance(page)]} for page in ("7", "8")]
    (question,) = _questions(tmp_path, _task("1", *outputs))
    guess = {"id": "1", "input": "1?", "output": [{"answer": "elm", "provenance": [{"wikipedia_id": "7"}]}]}
    write_jsonl(tmp_path / "guess.jsonl", [guess])
    official = score_kilt(tmp_path / "nq-dev-kilt.jsonl", tmp_path / "guess.jsonl", rouge=False)
    answer = Answer("1", "1?", "elm", "elm", retrievals=(Retrieval(0, (Hit("7", 1.0),)),))
    report = evaluate([answer], [question], [Passage(page, page, "x") for page in ("7", "8")])
    assert official["retrieval"]["Rprec"] == 1
    assert report.metrics["page_r_precision"] == 100
    assert official["kilt"]["KILT-em"] == 1
    assert report.metrics["kilt_exact_match"] == 100


def test_provenance_becomes_the_passages_that_it_overlaps(tmp_path: Path) -> None:
    passages = _passages(
        tmp_path,
        _page("7", "Elm", "Elm is small. It lies low.", "Section::::Name.", " ".join([SENTENCE] * 12), title="Elm"),
        _page("8", "Ash", "x", "y", title="Ash"),
    )
    assert [p.id for p in passages] == ["7:1", "7:2", "7:3", "8:1"]
    expected: dict[str, tuple[dict[str, Any], list[Evidence]]] = {
        "sentence": (_provenance("7", 1, 17, 1, 21), [Evidence("7:1", "It lies low.")]),
        "line end": (_provenance("7", 1, 14, 1, 27), [Evidence("7:1", "It lies low.")]),
        "whole": (_provenance("7", 1, 0, 1, 26), [Evidence("7:1")]),
        "whole and line end": (_provenance("7", 1, 0, 1, 27), [Evidence("7:1")]),
        "paragraph": (_provenance("7", 3), [Evidence("7:2"), Evidence("7:3")]),
        "first part": (_provenance("7", 3, 0, 3, 49), [Evidence("7:2", SENTENCE)]),
        "second part": (_provenance("7", 3, 510, 3, 520), [Evidence("7:3", SENTENCE)]),
        "across": (_provenance("7", 3, 480, 3, 520), [Evidence("7:2"), Evidence("7:3")]),
        "paragraphs": (_provenance("7", 1, 20, 3, 5), [Evidence("7:1"), Evidence("7:2")]),
        "no length": (_provenance("7", 1, 17, 1, 17), [Evidence("7:1", "It lies low.")]),
        "negative": (_provenance("7", 1, -1, -1, -1), [Evidence("7:1")]),
        "heading": (_provenance("7", 2, 0, 2, 16), [Evidence("7:2")]),
        "title": (_provenance("7", 0, 0, 0, 3), [Evidence("7:1")]),
        "page": (_provenance("8"), [Evidence("8:1")]),
        "beyond": (_provenance("7", 99), []),
        "elsewhere": (_provenance("6", 1), []),
    }
    write_jsonl(tmp_path / "in.jsonl", [_task(n, {"answer": "x", "provenance": [p]}) for n, (p, _) in expected.items()])
    done = convert("kilt", tmp_path / "in.jsonl", tmp_path)
    questions = read_questions(tmp_path / "questions.jsonl")
    assert {q.id: list(q.evidence) for q in questions} == {name: evidence for name, (_, evidence) in expected.items()}
    assert done.skipped == {"provenances that are not in passages.jsonl": 2}
    check_references(questions, passages, "x")


def test_a_passage_found_twice_is_named_once(tmp_path: Path) -> None:
    """Without a sentence only where no other provenance has one."""
    _passages(tmp_path, _page("7", "Elm", "Elm is small. It lies low."))
    whole, part = _provenance("7", 1), _provenance("7", 1, 0, 1, 3)
    [question] = _questions(tmp_path, _task("a", {"provenance": [whole, part, whole]}))
    assert question.evidence == (Evidence("7:1", "Elm is small."),)


def test_a_folder_of_tasks_and_passages_elsewhere(tmp_path: Path) -> None:
    _passages(tmp_path / "wiki", _page("7", "Elm", "x"))
    task = _task("a", {"answer": "x", "provenance": [_provenance("7")]})
    write_jsonl(tmp_path / "tasks" / "nq-dev-kilt.jsonl", [task])
    (tmp_path / "tasks" / "fever-dev-kilt.jsonl.gz").write_bytes(gzip.compress(json.dumps(task).encode()))
    convert("kilt", tmp_path / "tasks", tmp_path / "out", passages=tmp_path / "wiki")
    for name in ("questions.nq-dev.jsonl", "questions.fever-dev.jsonl"):
        assert read_questions(tmp_path / "out" / name)[0].evidence == (Evidence("7:1"),)
    with pytest.raises(InputError, match=r"found no file <task>-kilt\.jsonl there"):
        convert("kilt", tmp_path / "wiki", tmp_path / "out")
    with pytest.raises(UsageError, match="squad takes no passages; only kilt, kilt-submission, alce-output do"):
        convert("squad", tmp_path / "x", tmp_path / "out", passages=tmp_path)


def test_what_is_dropped_is_counted(tmp_path: Path) -> None:
    tasks = [_task("a", {"provenance": [_provenance("7"), {"wikipedia_id": None}]}), _task("b", input=" ")]
    write_jsonl(tmp_path / "in.jsonl", tasks)
    done = convert("kilt", tmp_path / "in.jsonl", tmp_path)
    assert done.skipped == {"provenances without a page": 1, "questions without text": 1}


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (_task("a"), "id 'a' again; expected distinct ids"),
        ({"input": "x"}, "no field 'id'; found 'input'"),
        (_task(""), "field 'id' is str ''; expected text that is not empty"),
        (_task("b", {"answer": 3}), "output[0].answer: found int 3; expected text"),
        (_task("b", {"provenance": ["7"]}), "output[0].provenance[0]: found str '7'; expected an object"),
        (_task("b", {"provenance": [_provenance("7", "1")]}), "output[0].provenance[0].start_paragraph_id: found str"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_task_names_the_line(task: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        _questions(tmp_path, _task("a"), task)
    assert str(caught.value).startswith(f"{tmp_path}/nq-dev-kilt.jsonl:2: {message}")


def test_passages_of_something_else_are_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "passages.jsonl", [Passage("x", "", "y")])
    with pytest.raises(InputError, match=r"passages.jsonl: found no passage of a page that the tasks name"):
        _questions(tmp_path, _task("a", {"provenance": [_provenance("7")]}))


def _answer(name: str, *hits: str, text: str = "Elm", cited: str = "") -> Answer:
    retrieval = Retrieval(0, tuple(Hit(hit, 1 / rank) for rank, hit in enumerate(hits, start=1)))
    citations = (Citation(1, cited, text, 0, 3, 0.5),) if cited else ()
    return Answer(name, f"{name}?", f"{text} [1].", text, citations=citations, retrievals=(retrieval,))


def test_a_submission_has_the_distinct_pages_best_first(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "predictions.jsonl", [_answer("a", "7:2", "8:1", "7:1"), _answer("b", "x", text=" ")])
    done = convert("kilt-submission", tmp_path, tmp_path / "guess.jsonl")
    guesses = [record for _, record in iter_jsonl(tmp_path / "guess.jsonl")]
    pages = [{"wikipedia_id": "7"}, {"wikipedia_id": "8"}]
    assert guesses[0] == {"id": "a", "input": "a?", "output": [{"answer": "Elm", "provenance": pages}]}
    assert guesses[1]["output"] == [{"answer": "", "provenance": [{"wikipedia_id": "x"}]}]
    assert sorted(done.noted.values()) == [1, 1]
    assert done.skipped == {}


def test_pages_come_from_the_metadata_where_there_is_some(tmp_path: Path) -> None:
    passage = Passage("mine-3", "Elm", "x", {"wikipedia_id": "7", "start_paragraph_id": 1, "end_paragraph_id": 2})
    write_jsonl(tmp_path / "passages.jsonl", [passage, Passage("8:1", "Ash", "y")])
    write_jsonl(tmp_path / "run" / "predictions.jsonl", [_answer("a", "mine-3", cited="8:1")])
    source = tmp_path / "run" / "predictions.jsonl"
    convert("kilt-submission", source, tmp_path / "run" / "guess.jsonl", passages=tmp_path)
    [(_, guess)] = iter_jsonl(tmp_path / "run" / "guess.jsonl")
    assert guess["output"][0]["provenance"] == [
        {"wikipedia_id": "7", "title": "Elm", "start_paragraph_id": 1, "end_paragraph_id": 2},
        {"wikipedia_id": "8", "title": "Ash"},
    ]
    write_jsonl(source, [_answer("a", "mine-3"), _answer("b", "9:1")])
    with pytest.raises(InputError, match=r"predictions.jsonl:2: 'b' names the passage '9:1'; expected one of those in"):
        convert("kilt-submission", source, tmp_path / "run", passages=tmp_path)


def test_gold_passages_make_a_submission_that_names_the_gold_pages(tmp_path: Path) -> None:
    """There and back: the tasks' own evidence, predicted, is the provenance of the tasks."""
    _passages(tmp_path, _page("7", "Elm", "Elm is small. It lies low."), _page("8", "Ash", "x", title="Ash"))
    golds = {"a": ["7"], "b": ["8", "7"], "c": []}
    tasks = [_task(n, {"answer": n, "provenance": [_provenance(p, 1) for p in pages]}) for n, pages in golds.items()]
    questions = _questions(tmp_path, *tasks)
    write_jsonl(tmp_path / "predictions.jsonl", [_answer(q.id, *q.gold_ids, text=q.answers[0]) for q in questions])
    convert("kilt-submission", tmp_path, tmp_path / "guess.jsonl")
    guesses = {g["id"]: g["output"][0] for _, g in iter_jsonl(tmp_path / "guess.jsonl")}
    assert {name: [p["wikipedia_id"] for p in guess["provenance"]] for name, guess in guesses.items()} == golds
    assert {name: guess["answer"] for name, guess in guesses.items()} == {name: name for name in golds}
