"""Readers say file, line, what was found and what was expected; what is right is read whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosup.data import jsonl
from cosup.data.jsonl import iter_jsonl
from cosup.data.reading import check_references, evenly, read_answers, read_examples, read_passages, read_questions
from cosup.data.writing import write_jsonl
from cosup.errors import InputError
from cosup.records import Evidence, Example, Passage, Question, RetrievalSegment, TextSegment

PASSAGE = {"id": "p", "title": "T", "text": "Some text."}
QUESTION = {"id": "q", "question": "Why?", "answers": ["so"], "evidence": [{"passage_id": "p", "sentence": None}]}
EXAMPLE = {"id": "e", "prompt": "Why?", "output": [{"passage_id": "p", "claim": "Some text."}, {"text": "so"}]}
ANSWER = {"id": "q", "question": "Why?", "text": "Some text [1]. so", "answer": "so"}
READERS: list[tuple[Callable[[Path], Any], dict[str, Any]]] = [
    (read_passages, PASSAGE),
    (read_questions, QUESTION),
    (read_examples, EXAMPLE),
    (read_answers, ANSWER),
]
each_reader = pytest.mark.parametrize(("read", "good"), READERS, ids=["passages", "questions", "examples", "answers"])


def _write(folder: Path, *lines: str | bytes) -> Path:
    path = folder / "data.jsonl"
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return path


@each_reader
@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"id": 1,', "wrong JSON at column 10"),
        ("{'id': 1}", "near \"{'id': 1}\""),
        ("[1, 2]", "found a list; expected one JSON object a line"),
        ('"text"', "found a text; expected one JSON object"),
        ("12", "found a number; expected one JSON object"),
        ("true", "found true or false; expected one JSON object"),
        ("null", "found null; expected one JSON object"),
        ("{}", "field"),
        ('{"id": "x"}', "field"),
        ('{"id": "x", "score": NaN}', "found NaN, which is not JSON"),
        ('{"id": "x", "score": -Infinity}', "found -Infinity, which is not JSON"),
        ('{"id": "x", "score": 1e999}', "found the number 1e999, which is too large"),
        ('{"id": ' + "1" * 5000 + "}", "expected one JSON object a line"),
        ('{"id": "\\ud800"}', "found the escape \\ud800, half of a surrogate pair"),
        ('{"\\udfff": "x"}', "found the escape \\udfff"),
        ("[" * 100_000, "nested too deeply"),
        (b'{"id": "caf\xe9"}', "found byte 0xe9 at byte 12 of the line; expected UTF-8 text"),
        (b'{"id": "\xed\xa0\x80"}', "found byte 0xed at byte 9 of the line"),
    ],
)
def test_a_wrong_line_is_named(
    read: Callable[[Path], Any], good: dict[str, Any], line: str | bytes, found: str, tmp_path: Path
) -> None:
    """Good line, blank line, wrong line: the error says `file:3:` and what was found."""
    path = _write(tmp_path, json.dumps(good), "", line, json.dumps(good))
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert found in str(caught.value)
    assert (caught.value.path, caught.value.line, caught.value.exit_code) == (str(path), 3, 2)
    assert len(str(caught.value)) < 400 + len(str(path))


@each_reader
@pytest.mark.parametrize(
    ("value", "found"),
    [("", "expected text that is not empty"), (["x"], "field 'id' is list ['x']; expected text"), (None, "'id'")],
)
def test_a_wrong_id_is_named(
    read: Callable[[Path], Any], good: dict[str, Any], value: Any, found: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        read(_write(tmp_path, json.dumps({**good, "id": value})))
    assert caught.value.line == 1
    assert found in str(caught.value)


@each_reader
def test_a_repeated_id_names_both_lines(read: Callable[[Path], Any], good: dict[str, Any], tmp_path: Path) -> None:
    path = _write(tmp_path, json.dumps(good), "", json.dumps(good))
    with pytest.raises(InputError, match=rf"data.jsonl:3: id '{good['id']}' again, after line 1"):
        read(path)


@each_reader
@pytest.mark.parametrize("content", [b"", b"\n\r\n  \n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(
    read: Callable[[Path], Any], good: dict[str, Any], content: bytes, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="found no records; expected at least one line"):
        read(_write(tmp_path, content))


@each_reader
def test_a_missing_file_and_a_folder_are_refused(
    read: Callable[[Path], Any], good: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="folder" if read is not read_passages else "no Markdown or text file"):
        read(tmp_path)


@each_reader
def test_byte_order_mark_windows_line_ends_and_blank_lines_are_accepted(
    read: Callable[[Path], Any], good: dict[str, Any], tmp_path: Path
) -> None:
    lines = [json.dumps({**good, "id": name}) for name in "ab"]
    plain = read(_write(tmp_path, *lines))
    assert [record.id for record in plain] == ["a", "b"]
    assert read(_write(tmp_path, b"\xef\xbb\xbf\r\n" + "\r\n\r\n".join(lines).encode() + b"\r\n")) == plain


@pytest.mark.parametrize(
    ("read", "record", "found"),
    [
        (read_passages, {"id": "x", "text": 3}, "field 'text' is int 3; expected text"),
        (read_passages, {"id": "x", "text": " "}, "expected text that is not empty"),
        (read_passages, {"id": "x", "texts": "y"}, "no field 'text' (did you mean 'texts'?); found 'id', 'texts'"),
        (read_questions, {"id": "x", "question": "y", "answers": "z"}, "field 'answers' is str 'z'; expected a list"),
        (read_questions, {"id": "x", "question": "y", "answers": [1]}, "expected a list of texts"),
        (read_questions, {"id": "x", "question": "y", "evidence": [{}]}, "no field 'passage_id'"),
        (read_questions, {"id": "x", "question": "y", "candidates": [None]}, "expected a list of texts"),
        (read_examples, {"id": "x", "prompt": "y", "output": []}, "field 'output' is empty"),
        (read_examples, {"id": "x", "prompt": "y", "output": [{"claim": "z"}]}, "expected 'text' or 'passage_id'"),
        (read_answers, {"id": "x", "text": "y", "citations": [{"n": "1"}]}, "field 'n' is str '1'; expected a number"),
    ],
)
def test_a_wrong_field_is_named(
    read: Callable[[Path], Any], record: dict[str, Any], found: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        read(_write(tmp_path, json.dumps(record)))
    assert str(caught.value).startswith(f"{tmp_path}/data.jsonl:1: ")
    assert found in str(caught.value)


def test_a_gigantic_line_is_refused_without_reading_it_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sparse file of 8 GiB in one line fails at once, in a few MiB."""
    path = _write(tmp_path, json.dumps(PASSAGE), "")
    with path.open("r+b") as stream:
        stream.truncate(8 * 2**30)
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 2**20)
    with pytest.raises(InputError, match=r"data.jsonl:2: found a longer line; expected at most 1,048,576 bytes a line"):
        read_passages(path)


def test_a_line_of_just_the_limit_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = json.dumps(PASSAGE)
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", len(line) + 1)
    assert len(read_passages(_write(tmp_path, line, ""))) == 1
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", len(line) - 1)
    with pytest.raises(InputError, match=":1: found a longer line"):
        read_passages(_write(tmp_path, line, ""))


def test_utf16_gets_a_hint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r":1: found byte 0xff at byte 1 .* looks like UTF-16; save it as UTF-8"):
        read_questions(_write(tmp_path, json.dumps(QUESTION).encode("utf-16")))


def test_line_separators_inside_a_text_end_no_line(tmp_path: Path) -> None:
    text = "a\u2028b\x85c\x0bd"
    write_jsonl(tmp_path / "p.jsonl", [Passage("1", "", text), Passage("2", "", "y")])
    assert [p.text for p in read_passages(tmp_path / "p.jsonl")] == [text, "y"]


def test_a_surrogate_pair_is_one_character(tmp_path: Path) -> None:
    assert read_passages(_write(tmp_path, '{"id": "1", "text": "\\ud83d\\ude00"}'))[0].text == "😀"


JSON_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | JSON_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(JSON_TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(JSON_TEXT, JSON_VALUES, max_size=4)))
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]]) -> None:
    path = tmp_path_factory.mktemp("round") / "x.jsonl"
    assert write_jsonl(path, records) == len(records)
    assert list(iter_jsonl(path)) == list(enumerate(records, start=1))


FILLED = JSON_TEXT.filter(str.strip)


@given(st.lists(st.builds(Passage, FILLED, JSON_TEXT, FILLED), min_size=1, unique_by=lambda p: p.id))
def test_passages_survive_the_round_trip(tmp_path_factory: pytest.TempPathFactory, passages: list[Passage]) -> None:
    path = tmp_path_factory.mktemp("round") / "passages.jsonl"
    write_jsonl(path, passages)
    assert read_passages(path) == read_passages(path.parent) == passages


def test_a_parquet_file_is_read(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"id": [7, 8], "title": ["T", None], "text": ["x", "y"], "other": [1, 2]}), path)
    assert read_passages(path) == [Passage("7", "T", "x"), Passage("8", "", "y")]
    pq.write_table(pa.table({"id": [7, 7], "text": ["x", "y"]}), path)
    with pytest.raises(InputError, match=r"p.parquet: row 2: id '7' again, after row 1"):
        read_passages(path)
    pq.write_table(pa.table({"id": [7], "body": ["x"]}), path)
    with pytest.raises(InputError, match="found the columns id, body; expected id, title and text"):
        read_passages(path)
    path.write_bytes(b"PAR1 this is not one")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        read_passages(path)
    with pytest.raises(InputError, match="no such file"):
        read_passages(tmp_path / "none.parquet")


def test_a_saved_dataset_is_read(tmp_path: Path) -> None:
    import datasets

    data = datasets.Dataset.from_list([PASSAGE, {**PASSAGE, "id": "r"}])
    data.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict(train=data, test=data.select([1])).save_to_disk(str(tmp_path / "many"))
    datasets.DatasetDict(a=data, b=data).save_to_disk(str(tmp_path / "unclear"))
    assert [p.id for p in read_passages(tmp_path / "one")] == ["p", "r"]
    assert [p.id for p in read_passages(tmp_path / "many")] == ["p", "r"]
    with pytest.raises(InputError, match="no split 'train'; found a, b"):
        read_passages(tmp_path / "unclear")


def test_a_hub_id_is_loaded_and_its_failure_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`owner/name:split` asks the hub; a path whose folder is here never does."""
    import datasets

    def load(name: str) -> Any:
        if name != "some/corpus":
            raise ConnectionError("offline\nmore")
        return datasets.DatasetDict({"a": datasets.Dataset.from_list([PASSAGE]), "b": datasets.Dataset.from_list([])})

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.chdir(tmp_path)
    assert [p.id for p in read_passages("some/corpus:a")] == ["p"]
    with pytest.raises(InputError, match=r"no such file or folder, and the hub gave no such dataset: offline$"):
        read_passages("some/other")
    (tmp_path / "some").mkdir()
    with pytest.raises(InputError, match=r"some/corpus: no such file; expected a JSONL file"):
        read_passages("some/corpus")


def test_a_beir_corpus_is_read(tmp_path: Path) -> None:
    """Its ids are called `_id`; a document without text has its title as text."""
    records = [{"_id": "1", "title": "T", "text": "x", "metadata": {}}, {"_id": "2", "title": "Only", "text": ""}]
    write_jsonl(tmp_path / "corpus.jsonl", records)
    assert read_passages(tmp_path) == [Passage("1", "T", "x"), Passage("2", "", "Only")]


KNOWN = [Passage("p", "", "x")]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (Question("b", "?", evidence=(Evidence("p"), Evidence("z"))), "evidence of 'b' names the passage 'z'"),
        (Question("b", "?", candidates=("p", "z")), "candidates of 'b' names the passage 'z'"),
        (Example("b", "?", (TextSegment("x"), RetrievalSegment("z", "c"))), "output of 'b' names the passage 'z'"),
        (Example("b", "?", (TextSegment("x"),), negatives=("z",)), "negatives of 'b' names the passage 'z'"),
    ],
)
def test_an_unknown_passage_id_is_named_with_its_line(record: Question | Example, message: str, tmp_path: Path) -> None:
    path = _write(tmp_path, '{"id": "a"}', "", '{"id": "b"}')
    for passages in (KNOWN, {"p": KNOWN[0]}):
        with pytest.raises(InputError) as caught:
            check_references([record], passages, path)
        assert str(caught.value) == f"{path}:3: {message}; expected the id of one of the 1 passages"


def test_known_passage_ids_pass() -> None:
    question = Question("b", "?", evidence=(Evidence("p"),), candidates=("p",))
    check_references([question, Example("e", "?", (RetrievalSegment("p", "c"),), negatives=("p",))], KNOWN, "x")


@given(st.lists(st.integers()), st.integers(0, 30))
def test_a_sample_is_spread_evenly(items: list[int], most: int) -> None:
    places = evenly(range(len(items)), most)
    assert [items[place] for place in places] == evenly(items, most)
    assert len(places) == min(most, len(items))
    assert places[:1] in ([], [0]), "the first is always among them"
    steps = [later - place for place, later in pairwise([*places, len(items)])]
    assert not steps or 0 < min(steps) <= max(steps) <= min(steps) + 1
