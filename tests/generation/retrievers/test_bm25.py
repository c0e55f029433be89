"""Retrieval by words: the scores of bm25s, and an index on disk that is whole, current and read as it is needed."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosup.data.store import PassageStore
from cosup.errors import InputError, UsageError
from cosup.generation.retrievers import bm25
from cosup.generation.retrievers.bm25 import BM25Retriever, is_current
from cosup.records import Hit, Passage
from tests.generation.retrievers.corpus import CORPUS, ids, request


def test_scores_are_those_of_bm25s(words: BM25Retriever) -> None:
    plain = bm25s.BM25()
    plain.index(bm25s.tokenize([p.rendered for p in CORPUS], show_progress=False), show_progress=False)
    asked = "Green Door, written by Di Lark"
    rows, scores = plain.retrieve(bm25s.tokenize([asked], show_progress=False), k=2, show_progress=False)
    hits = words.search([request(asked)], 2)[0]
    assert ids(hits) == [CORPUS[row].id for row in rows[0]] == ["w3", "p3"]
    assert [h.score for h in hits] == pytest.approx(scores[0].tolist())


def test_words_that_nobody_has_leave_the_order_of_the_corpus(words: BM25Retriever) -> None:
    for text in ("xylophone quartz", "", "the of", "\x00"):
        hits = words.search([request(text)], 3)[0]
        assert hits == [Hit("w0", 0.0), Hit("w1", 0.0), Hit("w2", 0.0)]


def test_scores_are_memory_mapped_and_the_folder_may_move(words: BM25Retriever, tmp_path: Path) -> None:
    shutil.copytree(words.folder, tmp_path / "moved")
    moved = BM25Retriever(tmp_path / "moved", "question")
    assert isinstance(moved._scores.scores["data"], np.memmap)
    asked = [request("Blue Hour")]
    assert moved.search(asked, 4) == words.search(asked, 4)
    assert moved._store.folder == tmp_path / "moved" / "store"


def test_a_damaged_or_stale_folder_is_seen(words: BM25Retriever, tmp_path: Path) -> None:
    assert is_current(words.folder, "corpus")
    assert not is_current(words.folder, "another corpus")
    for name in ("bm25.json", "passages.jsonl", "bm25/data.csc.index.npy"):
        copied = shutil.copytree(words.folder, tmp_path / name.replace("/", "-"))
        (copied / name).write_bytes((copied / name).read_bytes()[:-1] if name != "bm25.json" else b"{")
        assert not is_current(copied, "corpus")
        with pytest.raises(InputError, match="no whole BM25 index; build it again"):
            BM25Retriever(copied)


def test_a_build_that_fails_leaves_the_older_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "index"
    BM25Retriever.build(CORPUS, folder, "old")

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bm25, "_write_scores", full)
    with pytest.raises(UsageError, match="No space left on device"):
        BM25Retriever.build(CORPUS[:3], folder, "new")
    monkeypatch.undo()
    assert is_current(folder, "old")
    assert [p.name for p in tmp_path.iterdir()] == ["index"]
    BM25Retriever.build(CORPUS[:3], folder, "new")
    assert len(BM25Retriever(folder)) == 3


def test_texts_are_indexed_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their words are in memory, as bm25s needs them, but never all the texts."""
    read, ahead, at, tokenize = 0, [], PassageStore.at, bm25s.tokenize

    def counted(self: PassageStore, row: int) -> Passage:
        nonlocal read
        read += 1
        return at(self, row)

    def watched(texts: Iterable[str], **more: Any) -> Any:
        def each() -> Iterator[str]:
            for number, text in enumerate(texts):
                ahead.append(read - number)
                yield text

        return tokenize(each(), **more)

    monkeypatch.setattr(PassageStore, "at", counted)
    monkeypatch.setattr(bm25s, "tokenize", watched)
    BM25Retriever.build(CORPUS, tmp_path / "index")
    assert ahead == [1] * len(CORPUS)


def test_what_cannot_be_indexed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no records"):
        BM25Retriever.build([], tmp_path / "a")
    with pytest.raises(InputError, match="no words of two letters"):
        BM25Retriever.build([Passage("a", "", "?")], tmp_path / "a")
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match=r"holds 'mine\.txt'"):
        BM25Retriever.build(CORPUS, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@given(st.lists(st.sampled_from([0.0, 1.0, 2.5, -1.0]), min_size=1, max_size=12), st.integers(1, 14))
def test_the_best_are_those_of_a_stable_sort(scores: list[float], k: int) -> None:
    wanted = sorted(range(len(scores)), key=lambda i: -scores[i])[:k]
    assert bm25._best(np.array(scores, np.float32), k).tolist() == wanted
