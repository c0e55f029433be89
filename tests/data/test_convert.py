"""Each published format becomes passages and questions that the readers accept; what is left out is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cosup.data.convert import FORMATS, convert
from cosup.data.reading import check_references, read_examples, read_passages, read_questions
from cosup.data.writing import write_jsonl
from cosup.errors import InputError, UsageError
from cosup.records import Evidence, Passage, Question, RetrievalSegment, TextSegment

CONTEXT = "Mr. Fox was born in Oakdale. He moved to Elm in 1820. Elm is small."


def _json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def _qa(name: str, *answers: tuple[str, int], **more: Any) -> dict[str, Any]:
    shaped = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": name, "question": f" What about {name}?", "answers": shaped, **more}


def _squad(*qas: dict[str, Any], title: str = "Red_Fox", context: str = CONTEXT) -> dict[str, Any]:
    return {"version": "1.1", "data": [{"title": title, "paragraphs": [{"context": context, "qas": list(qas)}]}]}


def test_squad_gives_the_sentence_at_the_offset(tmp_path: Path) -> None:
    """The sentence is that of the offset, not of the answer's first occurrence; the commonest answer comes first."""
    elm = CONTEXT.rindex("Elm")
    source = _json(tmp_path / "in.json", _squad(_qa("a", ("Elm is", elm), ("Elm", elm), ("Elm", elm))))
    done = convert("squad", source, tmp_path / "out")
    assert dict(done.written) == {tmp_path / "out/passages.jsonl": 1, tmp_path / "out/questions.jsonl": 1}
    assert read_passages(tmp_path / "out") == [Passage("Red Fox", "Red Fox", CONTEXT)]
    evidence = (Evidence("Red Fox", "Elm is small."),)
    question = Question("a", "What about a?", ("Elm", "Elm is"), evidence=evidence)
    assert read_questions(tmp_path / "out/questions.jsonl") == [question]


@pytest.mark.parametrize(
    ("answer", "start", "sentence"),
    [
        ("Oakdale", 20, "Mr. Fox was born in Oakdale."),
        (" Oakdale", 19, "Mr. Fox was born in Oakdale."),
        ("Elm", 43, "He moved to Elm in 1820."),  # a wrong offset: the nearest occurrence
        ("Elm", 9999, "Elm is small."),
        ("Elm", -5, "He moved to Elm in 1820."),
        ("1820. Elm", CONTEXT.index("1820"), "He moved to Elm in 1820. Elm is small."),
    ],
)
def test_squad_offsets(answer: str, start: int, sentence: str, tmp_path: Path) -> None:
    convert("squad", _json(tmp_path / "in.json", _squad(_qa("a", (answer, start)))), tmp_path)
    [question] = read_questions(tmp_path / "questions.jsonl")
    assert question.answers == (answer.strip(),)
    assert question.evidence[0].sentence == sentence


def test_squad_counts_what_it_skips(tmp_path: Path) -> None:
    data = _squad(
        _qa("a", ("Oakdale", 20)),
        _qa("b", is_impossible=True, plausible_answers=[]),
        _qa("c", is_impossible=True),
        _qa("d"),
        _qa("e", ("Paris", 3)),
    )
    data["data"] += _squad(_qa("f", ("1820", 0)), context="It was 1820.")["data"]
    done = convert("squad", _json(tmp_path / "in.json", data), tmp_path)
    assert sorted(done.skipped.values()) == [1, 1, 2]
    assert done.skipped["questions that the passage does not answer (SQuAD 2.0)"] == 2
    assert [q.id for q in read_questions(tmp_path / "questions.jsonl")] == ["a", "f"]
    assert [p.id for p in read_passages(tmp_path)] == ["Red Fox", "Red Fox#2"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "found list []; expected an object"),
        ({"dat": []}, "no field 'data' (did you mean 'dat'?); found 'dat'"),
        ({"data": [3]}, "data[0]: found int 3; expected an object"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, "data[0].paragraphs[0]: no field 'context'; found 'qas'"),
        (_squad(context=" "), "data[0].paragraphs[0].context: found no text"),
        (_squad(_qa("a", ("x", 1)), _qa("b", ("x", None))), "qas[1].answers[0].answer_start: found NoneType None"),  # type: ignore[arg-type]
        (_squad(_qa("a", ("Elm", 1)), _qa("a", ("Elm", 1))), "data[0].paragraphs[0].qas[1]: id 'a' again"),
        (_squad(_qa(" ", ("Elm", 1))), "qas[0]: the id is empty; expected one that no other question has"),
        (_squad(_qa("a", is_impossible=True)), "nothing there for questions.jsonl (skipped 1 questions that"),
    ],
)
def test_wrong_squad_names_the_place(data: Any, message: str, tmp_path: Path) -> None:
    source = _json(tmp_path / "in.json", data)
    with pytest.raises(InputError) as caught:
        convert("squad", source, tmp_path / "out")
    assert str(caught.value).startswith(f"{source}: ")
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_wrong_json_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text('{\n "data": [\n  oops\n ]}')
    with pytest.raises(InputError, match=r"in.json:3: wrong JSON at column 3 .*near .*oops.*; expected a JSON file"):
        convert("squad", tmp_path / "in.json", tmp_path)
    (tmp_path / "in.json").write_bytes(b'{"data":\n "\xff"}')
    with pytest.raises(InputError, match=r"in.json:2: found byte 0xff at byte 3 of the line"):
        convert("squad", tmp_path / "in.json", tmp_path)
    (tmp_path / "in.json").write_text("")
    with pytest.raises(InputError, match="the file is empty; expected JSON"):
        convert("squad", tmp_path / "in.json", tmp_path)


WORK = ["The Lamp", ["The Lamp is a novel.", " Ada wrote it."]]
AUTHOR = ["Ada", ["Ada was a baker.", " She was born in Elm."]]
OTHER = ["Elm", ["Elm is small."]]


def _hotpot(name: str, **more: Any) -> dict[str, Any]:
    return {
        "_id": name,
        "question": "Where was the author of The Lamp born?",
        "answer": "Elm",
        "type": "bridge",
        "supporting_facts": [["Ada", 1], ["The Lamp", 1]],
        "context": [OTHER, AUTHOR, WORK],
        **more,
    }


def test_hotpotqa_gives_candidates_and_hops(tmp_path: Path) -> None:
    """In a bridge question the passage with the answer comes last; every context is the question's candidates."""
    source = _json(tmp_path / "in.json", [_hotpot("a"), _hotpot("b", type="comparison", context=[WORK, AUTHOR])])
    done = convert("hotpotqa", source, tmp_path)
    assert done.skipped == {}
    first, second = read_questions(tmp_path / "questions.jsonl")
    assert first.evidence == (Evidence("The Lamp", "Ada wrote it."), Evidence("Ada", "She was born in Elm."))
    assert first.candidates == ("Elm", "Ada", "The Lamp")
    assert first.answers == ("Elm",)
    assert [e.passage_id for e in second.evidence] == ["Ada", "The Lamp"]
    passages = read_passages(tmp_path)
    assert passages[1] == Passage("Ada", "Ada", "Ada was a baker. She was born in Elm.")
    assert len(passages) == 3
    check_references([first, second], passages, source)


def test_hotpotqa_in_columns_reads_the_same(tmp_path: Path) -> None:
    record = _hotpot("a")
    columns = record | {
        "context": {"title": [c[0] for c in record["context"]], "sentences": [c[1] for c in record["context"]]},
        "supporting_facts": {"title": ["Ada", "The Lamp"], "sent_id": [1, 1]},
    }
    columns["id"] = columns.pop("_id")
    convert("hotpotqa", _json(tmp_path / "in.json", [record]), tmp_path / "one")
    write_jsonl(tmp_path / "in.jsonl", [columns])
    convert("hotpotqa", tmp_path / "in.jsonl", tmp_path / "two")
    for name in ("passages.jsonl", "questions.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_hotpotqa_counts_what_it_skips(tmp_path: Path) -> None:
    blind = {k: v for k, v in _hotpot("blind").items() if k not in ("answer", "supporting_facts")}
    lost, beyond = _hotpot("lost", context=[OTHER, WORK]), _hotpot("beyond", supporting_facts=[["Ada", 9], ["Elm", 0]])
    retold = _hotpot("retold", context=[["Ada", ["Another Ada,", "from Elm."]], WORK], supporting_facts=[["Ada", 0]])
    done = convert("hotpotqa", _json(tmp_path / "in.json", [blind, lost, beyond, retold]), tmp_path)
    assert sorted(done.skipped.values()) == [1, 1, 1]
    questions = {q.id: q for q in read_questions(tmp_path / "questions.jsonl")}
    assert questions["beyond"].evidence == (Evidence("Ada", None), Evidence("Elm", "Elm is small."))
    assert questions["retold"].candidates == ("Ada#2", "The Lamp")
    assert read_passages(tmp_path)[-1] == Passage("Ada#2", "Ada", "Another Ada, from Elm.")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            _hotpot("a", context=[["Ada"]]),
            "[0].context[0]: found \"['Ada']\"; expected a pair of a title and sentences",
        ),
        (_hotpot("a", context=[["Ada", [3]]]), "[0].context['Ada']: found int 3; expected text"),
        (_hotpot("a", supporting_facts=[["Ada", "1"]]), "[0].supporting_facts[0][1]: found str '1'; expected a whole"),
        (_hotpot("a", supporting_facts={"title": ["Ada"], "sent_id": []}), "found 1 titles and 0 sent_id"),
        (_hotpot("a", question=" "), "[0]: field 'question' is empty"),
        (_hotpot("a", answer=None), "[0].answer: found NoneType None; expected text"),
    ],
)
def test_wrong_hotpotqa_names_the_place(record: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        convert("hotpotqa", _json(tmp_path / "in.json", [record]), tmp_path)
    assert message in str(caught.value)


def _beir(folder: Path, qrels: str = "query-id\tcorpus-id\tscore\nq1\td2\t1\nq1\td1\t2\nq2\td1\t0\n") -> Path:
    write_jsonl(
        folder / "corpus.jsonl",
        [
            {"_id": "d1", "title": "One", "text": "First."},
            {"_id": "d2", "title": "Two", "text": ""},
            {"_id": "d3", "title": "", "text": ""},
        ],
    )
    write_jsonl(folder / "queries.jsonl", [{"_id": "q1", "text": "one?", "metadata": {}}, {"_id": "q2", "text": "2?"}])
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text(qrels)
    return folder


def test_beir_gives_evidence_above_zero_best_first(tmp_path: Path) -> None:
    done = convert("beir", _beir(tmp_path / "in"), tmp_path / "out")
    assert read_passages(tmp_path / "out") == [Passage("d1", "One", "First."), Passage("d2", "", "Two")]
    [question] = read_questions(tmp_path / "out" / "questions.test.jsonl")
    assert question == Question("q1", "one?", evidence=(Evidence("d1"), Evidence("d2")))
    assert sorted(done.skipped.values()) == [1, 1]  # the empty document, the judgement of 0


def test_beir_counts_judgements_of_what_is_not_there(tmp_path: Path) -> None:
    """And a file of judgements needs no header."""
    done = convert("beir", _beir(tmp_path / "in", "q1\td1\t1\r\nq1\td9\t1\nq9\td1\t1\n\nq1\td3\t1"), tmp_path / "out")
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
        convert("beir", _beir(tmp_path / "in", qrels), tmp_path / "out")
    assert message in str(caught.value)


def test_an_incomplete_beir_folder_is_named(tmp_path: Path) -> None:
    folder = _beir(tmp_path / "in")
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


def _tevatron(name: str | int, positives: list[str], negatives: list[str], **more: Any) -> dict[str, Any]:
    def passages(ids: list[str]) -> list[dict[str, str]]:
        return [{"docid": i, "title": f"T{i}", "text": f"First of doc-{i}. Second of doc-{i}."} for i in ids]

    shaped = {"positive_passages": passages(positives), "negative_passages": passages(negatives)}
    return {"query_id": name, "query": f"{name}?", **shaped, **more}


def test_tevatron_gives_candidates_and_negatives(tmp_path: Path) -> None:
    """Every positive is evidence; an example retrieves the first and must not pick the negatives."""
    records = [
        _tevatron(1, ["a", "b"], ["c", "c", "b"], answers=["Second of doc-a"]),
        _tevatron("2", ["c"], []),
        _tevatron("3", [], ["d"]),
    ]
    write_jsonl(tmp_path / "in.jsonl", records)
    done = convert("tevatron", tmp_path / "in.jsonl", tmp_path / "out")
    assert done.skipped == {"queries without a positive passage": 1}
    passages = read_passages(tmp_path / "out")
    assert [p.id for p in passages] == ["a", "b", "c", "d"]
    questions = read_questions(tmp_path / "out/questions.jsonl")
    assert questions[0].gold_ids == ("a", "b")
    assert questions[0].candidates == ("a", "b", "c")
    examples = read_examples(tmp_path / "out/examples.jsonl")
    assert examples[0].output == (RetrievalSegment("a", "Second of doc-a."), TextSegment("Second of doc-a"))
    assert examples[0].negatives == ("c",)
    assert examples[1].output == (RetrievalSegment("c", "First of doc-c."),)
    check_references([*questions, *examples], passages, "x")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"query_id": "1"}, "no field 'positive_passages'; found 'query_id'"),
        (_tevatron("1", ["a"], []) | {"query": 3}, "query: found int 3; expected text"),
        (_tevatron("1", ["a"], [], answers="x"), "field 'answers' is str 'x'; expected a list"),
        (
            _tevatron("1", ["a"], []) | {"negative_passages": [{"docid": "z", "text": ""}]},
            "negative_passages[0]: field",
        ),
        (_tevatron("1", ["a"], []) | {"negative_passages": [{"text": "x"}]}, "negative_passages[0]: no field 'docid'"),
        (_tevatron("1", ["a"], []) | {"negative_passages": [{"docid": "a", "text": "x"}]}, "docid 'a' again with"),
        (_tevatron("0", ["a"], []), "query_id '0' again"),
    ],
)
def test_wrong_tevatron_names_the_line(record: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", [_tevatron("0", ["a"], []), record])
    with pytest.raises(InputError) as caught:
        convert("tevatron", tmp_path / "in.jsonl", tmp_path / "out")
    assert str(caught.value).startswith(f"{tmp_path}/in.jsonl:2: ")
    assert message in str(caught.value)


def test_beir_comes_back_as_it_was(tmp_path: Path) -> None:
    """BEIR, ours, BEIR, ours: the same passages, questions and order of evidence, for every split."""
    _beir(tmp_path / "in")
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


def test_tevatron_comes_back_as_it_was(tmp_path: Path) -> None:
    records = [_tevatron("1", ["a", "b"], ["c"], answers=["Second of doc-a"]), _tevatron("2", ["c"], [])]
    write_jsonl(tmp_path / "in.jsonl", records)
    convert("tevatron", tmp_path / "in.jsonl", tmp_path / "out")
    convert("tevatron-output", tmp_path / "out", tmp_path / "back.jsonl")
    assert [json.loads(line) for line in (tmp_path / "back.jsonl").read_text().splitlines()] == records
    write_jsonl(tmp_path / "out/questions.jsonl", [Question("1", "?")])
    with pytest.raises(InputError, match=r"nothing there for tevatron.jsonl \(skipped 1 queries without a positive"):
        convert("tevatron-output", tmp_path / "out", tmp_path / "back.jsonl")


def test_parquet_files_become_passages(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "parts").mkdir()
    for name in "ab":
        table = pa.table({"id": [name], "title": ["T"], "text": ["x"]})
        pq.write_table(table, tmp_path / "parts" / f"{name}.parquet")
    convert("parquet", tmp_path / "parts" / "a.parquet", tmp_path / "one.jsonl")
    assert read_passages(tmp_path / "one.jsonl") == [Passage("a", "T", "x")]
    convert("parquet", tmp_path / "parts", tmp_path)
    assert [p.id for p in read_passages(tmp_path)] == ["a", "b"]
    pq.write_table(table, tmp_path / "parts" / "c.parquet")
    with pytest.raises(InputError, match=r"c.parquet: id 'b' again, after another file"):
        convert("parquet", tmp_path / "parts", tmp_path)
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"found no .parquet file there"):
        convert("parquet", empty, tmp_path)


def test_a_folder_becomes_passages(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# A\nx")
    done = convert("folder", tmp_path / "docs", tmp_path / "out")
    assert dict(done.written) == {tmp_path / "out" / "passages.jsonl": 1}
    assert read_passages(tmp_path / "out") == [Passage("a.md#1", "A", "x")]


def test_questions_become_examples_split_by_split(tmp_path: Path) -> None:
    """Splits stay apart, so that test questions never slip into training."""
    write_jsonl(tmp_path / "passages.jsonl", [Passage("p", "T", "One. Two.")])
    write_jsonl(tmp_path / "questions.train.jsonl", [Question("a", "?", ("Two",), evidence=(Evidence("p"),))])
    write_jsonl(tmp_path / "questions.test.jsonl", [Question("b", "?", ("x",)), Question("c", "?")])
    done = convert("examples", tmp_path, tmp_path / "out")
    assert {path.name: count for path, count in done.written.items()} == {
        "examples.train.jsonl": 1,
        "examples.test.jsonl": 1,
    }
    assert done.skipped == {"questions with neither evidence nor an answer": 1}
    [example] = read_examples(tmp_path / "out/examples.train.jsonl")
    assert example.output == (RetrievalSegment("p", "Two."), TextSegment("Two"))


def test_examples_from_one_file_may_go_into_a_file(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "passages.jsonl", [Passage("p", "T", "One. Two.")])
    write_jsonl(tmp_path / "questions.jsonl", [Question("a", "?", ("x",))])
    convert("examples", tmp_path, tmp_path / "deep" / "mine.jsonl")
    assert [e.id for e in read_examples(tmp_path / "deep" / "mine.jsonl")] == ["a"]


def test_examples_need_their_passages(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"found no questions.jsonl or questions"):
        convert("examples", tmp_path, tmp_path)
    write_jsonl(tmp_path / "questions.jsonl", [Question("a", "?"), Question("b", "?", evidence=(Evidence("z"),))])
    with pytest.raises(InputError, match=r"passages.jsonl: no such file"):
        convert("examples", tmp_path, tmp_path)
    write_jsonl(tmp_path / "passages.jsonl", [Passage("p", "T", "One. Two.")])
    with pytest.raises(InputError, match=r"questions.jsonl:2: evidence of 'b' names the passage 'z'"):
        convert("examples", tmp_path, tmp_path)
    with pytest.raises(InputError, match=r"expected a folder with passages.jsonl"):
        convert("examples", tmp_path / "questions.jsonl", tmp_path)


def test_an_unknown_format_gets_the_nearest_name() -> None:
    with pytest.raises(UsageError, match=r"no format 'squda' \(did you mean 'squad'\?\); there are folder, squad, "):
        convert("squda", "x", "y")


@pytest.mark.parametrize("name", FORMATS)
def test_a_missing_source_is_refused_by_every_format(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none"):
        convert(name, tmp_path / "none", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_corpus_streams_and_its_ids_stay_distinct(tmp_path: Path) -> None:
    folder = _beir(tmp_path / "in")
    write_jsonl(folder / "corpus.jsonl", [{"_id": "d1", "title": "", "text": "x"}] * 2)
    with pytest.raises(InputError, match=r"corpus.jsonl:2: id 'd1' again; expected distinct ids"):
        convert("beir", folder, tmp_path / "out")


def test_old_output_stays_until_all_of_the_new_is_there(tmp_path: Path) -> None:
    good = _json(tmp_path / "good.json", _squad(_qa("a", ("Elm", 1))))
    bad = _json(tmp_path / "bad.json", _squad(_qa("a", ("Elm", 1)), _qa("a", ("Elm", 1))))
    out = tmp_path / "out"
    convert("squad", good, out)
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(InputError):
        convert("squad", bad, out)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    convert("squad", good, out)
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_an_output_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    source = _json(tmp_path / "in.json", _squad(_qa("a", ("Elm", 1))))
    with pytest.raises(UsageError, match="expected a folder to put them in"):
        convert("squad", source, tmp_path / "out.jsonl")
    with pytest.raises(UsageError, match=r"cannot write into .*in.json: it is a file; expected a folder"):
        convert("squad", source, source)
    for name in ("run.csv", "out.parquet"):
        with pytest.raises(UsageError, match=f"{name} is named like a file of another kind; expected a folder, or"):
            convert("squad", source, tmp_path / name)
    assert list(tmp_path.iterdir()) == [source]


def test_files_that_were_there_before_are_named(tmp_path: Path) -> None:
    source = _json(tmp_path / "in.json", _squad(_qa("a", ("Elm", 1))))
    assert convert("squad", source, tmp_path / "out").replaced == []
    again = convert("squad", source, tmp_path / "out")
    assert sorted(again.replaced) == sorted(tmp_path / "out" / name for name in ("passages.jsonl", "questions.jsonl"))


def test_a_file_of_the_folder_that_is_read_is_never_replaced_by_something_else(tmp_path: Path) -> None:
    """An example that is made again is; the passages that it was made from stay."""
    (tmp_path / "passages.jsonl").write_text('{"id": "p", "title": "", "text": "A b."}\n')
    (tmp_path / "questions.jsonl").write_text('{"id": "q", "question": "?", "answers": ["b"]}\n')
    before = (tmp_path / "passages.jsonl").read_bytes()
    with pytest.raises(UsageError, match="which is read, and would be overwritten"):
        convert("examples", tmp_path, tmp_path / "passages.jsonl")
    assert (tmp_path / "passages.jsonl").read_bytes() == before
    for _ in range(2):
        assert convert("examples", tmp_path, tmp_path).written == {tmp_path / "examples.jsonl": 1}
