"""Places in Milvus, and expressions in which a value stays a value; nothing here needs Milvus."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosup.errors import InputError, UsageError
from cosup.index.filters import Filter
from cosup.index.milvus_client import search_settings
from cosup.index.milvus_expressions import (
    filter_expression,
    ids_expression,
    in_batches,
    passage_of,
    row_of,
    text_literal,
)
from cosup.index.milvus_place import MilvusPlace, is_milvus_place
from cosup.records import Passage

VECTOR = np.zeros(2, dtype=np.float32)


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("corpus.db", True),
        (Path("data/corpus.db"), True),
        ("corpus.db:recipes", True),
        ("milvus://host/recipes", True),
        (Path("milvus://host/recipes"), True),
        ("index", False),
        ("corpus.db/index", False),
        ("http://host/recipes", False),
        (".db", False),
    ],
)
def test_what_is_a_place_in_milvus(place: str | Path, expected: bool) -> None:
    assert is_milvus_place(place) is expected


@pytest.mark.parametrize(
    ("place", "uri", "name"),
    [
        ("corpus.db", "corpus.db", "cosup"),
        (Path("a/corpus.db:recipes"), "a/corpus.db", "recipes"),
        ("milvus://host/recipes", "http://host:19530", "recipes"),
        (Path("milvus://host:1234/recipes"), "http://host:1234", "recipes"),
        ("milvus://host/recipes/?secure=true&db=x&index_type=hnsw", "https://host:19530", "recipes"),
    ],
)
def test_where_a_place_is(place: str | Path, uri: str, name: str) -> None:
    found = MilvusPlace.parse(place)
    assert (found.uri, found.name, found.lite) == (uri, name, uri.endswith(".db"))


def test_credentials_come_from_the_place_or_the_environment_and_are_never_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = MilvusPlace.parse("milvus://ann:s%3Acret@host/recipes")
    assert (found.user, found.password) == ("ann", "s:cret")
    monkeypatch.setenv("MILVUS_USER", "bob")
    monkeypatch.setenv("MILVUS_PASSWORD", "hidden")
    monkeypatch.setenv("MILVUS_TOKEN", "t0ken")
    other = MilvusPlace.parse("milvus://host/recipes")
    assert (other.user, other.password, other.token) == ("bob", "hidden", "t0ken")
    for place in (found, other):
        assert not any(secret in f"{place!r} {place.shown}" for secret in ("s:cret", "s%3Acret", "hidden", "t0ken"))
    assert (found.database, found.index_type) == ("", "auto")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("corpus.db:two words", "named 'two words'; expected at most 200 letters"),
        ("corpus.db:", "named ''"),
        ("milvus://host", "expected milvus://HOST:PORT/NAME"),
        ("milvus:///recipes", "expected milvus://HOST:PORT/NAME"),
        ("milvus://host:port/recipes", "milvus://host:port: .*port"),
        ("milvus://ann:secret@host:port/recipes", "^milvus://host:port: "),
        ("milvus://host/a/b", "named 'a/b'"),
        ("milvus://host/recipes?indextype=hnsw", "no option 'indextype' .did you mean 'index_type'"),
        ("milvus://host/recipes?index_type=hsnw", "index type is 'hsnw' .did you mean 'hnsw'"),
        ("milvus://host/recipes?secure=yes", "secure is 'yes'; expected true or false"),
    ],
)
def test_places_that_are_refused(place: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MilvusPlace.parse(place)


def test_unfinished_work_lies_apart_for_every_index() -> None:
    places = ("a/x.db", "a/x.db:b", "milvus://h/b", "milvus://h:1/b", "milvus://h/b?db=c", "milvus://h/c")
    folders = [MilvusPlace.parse(place).work_folder for place in places]
    assert len(set(folders)) == len(places)
    assert folders[0].parent == Path("a")
    assert all(folder.name.startswith(".") for folder in folders)


def test_the_type_of_index_is_exact_in_lite_and_milvus_s_own_choice_on_a_server() -> None:
    assert search_settings("auto", 10**6, lite=True).type == "FLAT"
    assert search_settings("auto", 10**6, lite=False).type == "AUTOINDEX"
    ivf = search_settings("ivf-sq", 10**6, lite=False)
    assert (ivf.type, ivf.build, ivf.search(10)) == ("IVF_SQ8", {"nlist": 4000}, {"nprobe": 250})
    assert ivf.search(10, thorough=True) == {"nprobe": 4000}
    assert search_settings("hnsw", 10, lite=True).search(500) == {"ef": 1000}


@given(text=st.text())
def test_a_text_is_one_literal(text: str) -> None:
    """No character ends it early, and it reads as the text again."""
    literal = text_literal(text)
    inside, read, i = literal[1:-1], [], 0
    while i < len(inside):
        assert inside[i] not in '"\n\r'
        escaped = inside[i] == "\\"
        read.append({"n": "\n", "r": "\r", "t": "\t"}.get(inside[i + 1], inside[i + 1]) if escaped else inside[i])
        i += 1 + escaped
    assert literal[0] == literal[-1] == '"'
    assert "".join(read) == text


def test_expressions() -> None:
    assert ids_expression(['a"b', "c"]) == 'id in ["a\\"b", "c"]'
    where = Filter.parse({"lang": ["en", 5], "year": {"gte": 2000, "lt": 2010.5}, "ok": True, "a b": {"ne": "x"}})
    assert filter_expression(where) == (
        '(metadata["text"]["lang"] == "en" or metadata["number"]["lang"] == 5) and '
        '(metadata["number"]["year"] >= 2000) and (metadata["number"]["year"] < 2010.5) and '
        '(metadata["flag"]["ok"] == true) and '
        '((not (exists metadata["text"]["x_612062"])) or metadata["text"]["x_612062"] != "x")'
    )
    with pytest.raises(UsageError, match="compares 'year' with a number that is not finite"):
        filter_expression(Filter.parse({"year": {"lt": float("inf")}}))


def test_a_passage_is_the_same_after_its_way_through_a_row() -> None:
    metadata = {"lang": "en", "year": 2000, "f": 0.5, "ok": False, "x_y": "z", 'k"]': 1, "": "empty", "ü": "ü"}
    passage = Passage("a", "Title", "Text", metadata)
    assert passage_of(row_of(passage, 3, VECTOR)) == passage
    assert passage_of(row_of(Passage("b", "", "t"), 0, VECTOR)) == Passage("b", "", "t")


@pytest.mark.parametrize(
    ("passage", "message"),
    [
        (Passage("long", "", "é" * 33_000), "'long': its text has 66,000 bytes, and Milvus holds 65,535"),
        (Passage("x" * 70_000, "", "t"), "its id has 70,000 bytes"),
        (Passage("big", "", "t", {"n": 2**63}), r"'big': metadata.n is 9223372036854775808"),
    ],
)
def test_what_milvus_cannot_hold_is_refused(passage: Passage, message: str) -> None:
    with pytest.raises(InputError, match=message):
        row_of(passage, 0, VECTOR)


def test_batches_keep_within_rows_and_bytes() -> None:
    rows = [row_of(Passage(f"p{i}", "", "t" * (100 * i)), i, VECTOR) for i in range(40)]
    for most_rows, most_bytes in ((7, 10**9), (1000, 10_000), (1000, 1)):
        batches = list(in_batches(rows, most_rows, most_bytes))
        assert [row for batch in batches for row in batch] == rows
        assert max(map(len, batches)) <= most_rows
    assert all(len(batch) == 1 for batch in batches)
    assert not list(in_batches([], 5, 5))
