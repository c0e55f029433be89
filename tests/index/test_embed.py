"""Embedding a corpus: order, batches, and picking up after an interruption."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cosup.errors import CosupError, InputError, UsageError
from cosup.index.base import PARTIAL
from cosup.index.embed import batches_by_length, embed_corpus, embed_passages
from cosup.records import Passage


class FakeEmbedder:
    """Embeds by hashing the ids; keeps the batches it saw, and fails when told to."""

    dimension = 6

    def __init__(self, fingerprint: str | None = "f" * 64, fail_after: int | None = None) -> None:
        self.fingerprint = fingerprint
        self.fail_after = fail_after
        self.batches: list[list[list[int]]] = []

    def encode_passage(self, text: str) -> list[int]:
        return list(text.encode())

    def embed_ids(self, batch: list[list[int]]) -> torch.Tensor:
        if self.fail_after is not None and len(self.batches) >= self.fail_after:
            raise KeyboardInterrupt
        self.batches.append(batch)
        return torch.tensor([self.vector(ids) for ids in batch])

    def vector(self, ids: list[int]) -> list[float]:
        return [byte / 255 for byte in hashlib.sha256(bytes(ids)).digest()[: self.dimension]]

    @property
    def embedded(self) -> int:
        return sum(map(len, self.batches))


def corpus(count: int = 40) -> list[Passage]:
    return [Passage(f"p{i}", f"Title {i}", "word " * (1 + i * 7 % 13)) for i in range(count)]


def expected(embedder: FakeEmbedder, passages: list[Passage]) -> np.ndarray:
    return np.array([embedder.vector(list(p.rendered.encode())) for p in passages], dtype=np.float32)


def test_vectors_come_in_the_order_of_the_passages() -> None:
    embedder, passages = FakeEmbedder(), corpus()
    vectors = embed_passages(embedder, passages, tokens_per_batch=200)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, expected(embedder, passages))
    assert len(embedder.batches) > 3


def test_what_is_embedded_is_the_title_and_the_text() -> None:
    embedder = FakeEmbedder()
    embed_passages(embedder, [Passage("a", "Oslo", "A city."), Passage("b", "", "No title.")])
    assert sorted(bytes(ids).decode() for ids in embedder.batches[0]) == ["No title.", "Oslo :: A city."]


def test_an_embedding_does_not_depend_on_its_place_or_on_the_batch_size(tmp_path: Path) -> None:
    passages = corpus()
    one = embed_corpus(FakeEmbedder(), passages, tmp_path / "a", tokens_per_batch=100, shard_size=7)
    other = embed_corpus(FakeEmbedder(), passages[::-1], tmp_path / "b", tokens_per_batch=3000, shard_size=100)
    np.testing.assert_array_equal(one, other[::-1])


@given(lengths=st.lists(st.integers(0, 50), max_size=60), budget=st.integers(1, 200))
def test_every_row_is_batched_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = list(batches_by_length(lengths, budget))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= max(budget, len(batch))
    assert [max(lengths[r] for r in b) for b in batches] == sorted(max(lengths[r] for r in b) for b in batches)[::-1]


@pytest.mark.parametrize("fail_after", [0, 1, 5, 9])
def test_after_an_interruption_only_missing_shards_are_embedded(tmp_path: Path, fail_after: int) -> None:
    passages = corpus(40)
    settings = {"tokens_per_batch": 10**6, "shard_size": 4}  # ten shards, a batch each
    with pytest.raises(KeyboardInterrupt):
        embed_corpus(FakeEmbedder(fail_after=fail_after), passages, tmp_path, **settings)
    second = FakeEmbedder()
    vectors = embed_corpus(second, passages, tmp_path, **settings)
    assert len(second.batches) == 10 - fail_after
    np.testing.assert_array_equal(vectors, expected(second, passages))


@pytest.mark.parametrize("change", ["embedder", "text", "order", "id"])
def test_shards_of_another_embedder_or_corpus_are_not_used(tmp_path: Path, change: str) -> None:
    passages = corpus(8)
    embed_corpus(FakeEmbedder(), passages, tmp_path, shard_size=4)
    embedder = FakeEmbedder("e" * 64 if change == "embedder" else "f" * 64)
    first = passages[0]
    changed = {
        "embedder": passages,
        "text": [Passage(first.id, first.title, "else"), *passages[1:]],
        "order": passages[::-1],
        "id": [Passage("other", first.title, first.text), *passages[1:]],
    }[change]
    vectors = embed_corpus(embedder, changed, tmp_path, shard_size=4)
    assert embedder.embedded == 8
    np.testing.assert_array_equal(vectors, expected(embedder, changed))


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY rubbish", b"PK\x03\x04"])
def test_a_damaged_shard_is_embedded_again(tmp_path: Path, content: bytes) -> None:
    passages = corpus(8)
    embed_corpus(FakeEmbedder(), passages, tmp_path, shard_size=4)
    (tmp_path / PARTIAL / "0000000004.npy").write_bytes(content)
    embedder = FakeEmbedder()
    vectors = embed_corpus(embedder, passages, tmp_path, shard_size=4)
    assert embedder.embedded == 4
    np.testing.assert_array_equal(vectors, expected(embedder, passages))


def test_progress_counts_every_passage_once_found_shards_included(tmp_path: Path) -> None:
    passages = corpus(10)
    with pytest.raises(KeyboardInterrupt):
        embed_corpus(FakeEmbedder(fail_after=1), passages, tmp_path, shard_size=4)
    told: list[tuple[int, int]] = []
    embed_corpus(FakeEmbedder(), passages, tmp_path, shard_size=4, progress=lambda *p: told.append(p))
    assert told == [(4, 10), (8, 10), (10, 10)]


def test_duplicate_ids_are_refused_before_anything_is_embedded(tmp_path: Path) -> None:
    embedder = FakeEmbedder()
    with pytest.raises(InputError, match=r"two passages have the id 'p3', numbers 4 and 9"):
        embed_corpus(embedder, [*corpus(8), Passage("p3", "", "again")], tmp_path)
    assert not embedder.batches
    with pytest.raises(InputError, match="no passages"):
        embed_corpus(embedder, [], tmp_path)


def test_an_embedder_that_was_never_saved_makes_no_index(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="save the model"):
        embed_corpus(FakeEmbedder(fingerprint=None), corpus(2), tmp_path)


def test_a_vector_that_is_not_finite_names_its_passage(tmp_path: Path) -> None:
    class Diverged(FakeEmbedder):
        def vector(self, ids: list[int]) -> list[float]:
            return [float("nan") if b"Title 2" in bytes(ids) else 1.0] * self.dimension

    with pytest.raises(CosupError, match=r"1 of 4 passages, first 'p2'"):
        embed_corpus(Diverged(), corpus(4), tmp_path)
    assert not list((tmp_path / PARTIAL).glob("*.npy"))


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UsageError, match=f"cannot write to {tmp_path}/file"):
        embed_corpus(FakeEmbedder(), corpus(2), tmp_path / "file")
