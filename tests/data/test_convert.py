"""`cosup convert`: every format becomes files that the readers accept, whole or not at all; nothing is overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from cosup.data.convert import FORMATS, convert
from cosup.data.reading import read_examples, read_passages
from cosup.data.writing import write_jsonl
from cosup.errors import InputError, UsageError
from cosup.records import Evidence, Passage, Question, RetrievalSegment, TextSegment
from tests.data.formats import published


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
    folder = published.beir(tmp_path / "in")
    write_jsonl(folder / "corpus.jsonl", [{"_id": "d1", "title": "", "text": "x"}] * 2)
    with pytest.raises(InputError, match=r"corpus.jsonl:2: id 'd1' again; expected distinct ids"):
        convert("beir", folder, tmp_path / "out")


def test_old_output_stays_until_all_of_the_new_is_there(tmp_path: Path) -> None:
    good = published.json_file(tmp_path / "good.json", published.squad(published.qa("a", ("Elm", 1))))
    bad = published.json_file(
        tmp_path / "bad.json", published.squad(published.qa("a", ("Elm", 1)), published.qa("a", ("Elm", 1)))
    )
    out = tmp_path / "out"
    convert("squad", good, out)
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(InputError):
        convert("squad", bad, out)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    convert("squad", good, out)
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_an_output_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    source = published.json_file(tmp_path / "in.json", published.squad(published.qa("a", ("Elm", 1))))
    with pytest.raises(UsageError, match="expected a folder to put them in"):
        convert("squad", source, tmp_path / "out.jsonl")
    with pytest.raises(UsageError, match=r"cannot write into .*in.json: it is a file; expected a folder"):
        convert("squad", source, source)
    for name in ("run.csv", "out.parquet"):
        with pytest.raises(UsageError, match=f"{name} is named like a file of another kind; expected a folder, or"):
            convert("squad", source, tmp_path / name)
    assert list(tmp_path.iterdir()) == [source]


def test_files_that_were_there_before_are_named(tmp_path: Path) -> None:
    source = published.json_file(tmp_path / "in.json", published.squad(published.qa("a", ("Elm", 1))))
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
