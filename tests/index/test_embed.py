"""Embedding a corpus: order, batches, and picking up after an interruption."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cosup.data.store import PassageStore
from cosup.data.writing import write_jsonl
from cosup.errors import CosupError, InputError, UsageError
from cosup.index.embed import EmbedOptions, batches_by_length, embed_corpus, embed_passages
from cosup.records import Passage


class FakeEmbedder:
    """Embeds by hashing the ids; keeps the batches it saw, and fails when told to."""

    dimension = 6

    def __init__(self, fingerprint: str | None = "f" * 64, fail_after: int | None = None) -> None:
        self.fingerprint = fingerprint
        self.fail_after = fail_after
        self.batches: list[list[list[int]]] = []

    def encode_passages(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(text.encode()) for text in texts]

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


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("vectors-*/*.npy"))


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
    one = embed_corpus(FakeEmbedder(), passages, tmp_path / "a", EmbedOptions(100, 7))
    other = embed_corpus(FakeEmbedder(), passages[::-1], tmp_path / "b", EmbedOptions(3000, 100))
    np.testing.assert_array_equal(one[:], other[::-1])


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
    options = EmbedOptions(10**6, 4)  # ten shards, a batch each
    with pytest.raises(KeyboardInterrupt):
        embed_corpus(FakeEmbedder(fail_after=fail_after), passages, tmp_path, options)
    second = FakeEmbedder()
    vectors = embed_corpus(second, passages, tmp_path, options)
    assert len(second.batches) == 10 - fail_after
    np.testing.assert_array_equal(vectors, expected(second, passages))


def test_shards_of_another_embedder_are_not_used_and_cleared_away(tmp_path: Path) -> None:
    passages = corpus(8)
    embed_corpus(FakeEmbedder(), passages, tmp_path, EmbedOptions(shard_size=4))
    other = FakeEmbedder("e" * 64)
    vectors = embed_corpus(other, passages, tmp_path, EmbedOptions(shard_size=4))
    assert other.embedded == 8
    np.testing.assert_array_equal(vectors, expected(other, passages))
    assert len(list(tmp_path.glob("vectors-*"))) == 1


@pytest.mark.parametrize(
    "options",
    [EmbedOptions(shard_size=5), EmbedOptions(shard_size=4, half=True), EmbedOptions(shard_size=4, computed_in="bf16")],
)
def test_shards_that_were_made_otherwise_are_not_used(tmp_path: Path, options: EmbedOptions) -> None:
    embed_corpus(FakeEmbedder(), corpus(8), tmp_path, EmbedOptions(shard_size=4))
    again = FakeEmbedder()
    embed_corpus(again, corpus(8), tmp_path, options)
    assert again.embedded == 8


def test_only_shards_whose_texts_have_changed_are_embedded_again(tmp_path: Path) -> None:
    passages = corpus(16)
    embed_corpus(FakeEmbedder(), passages, tmp_path, EmbedOptions(shard_size=4))
    changed = [*passages[:5], Passage("p5", "", "else"), *passages[6:], Passage("new", "", "at the end")]
    embedder = FakeEmbedder()
    vectors = embed_corpus(embedder, changed, tmp_path, EmbedOptions(shard_size=4))
    assert embedder.embedded == 4 + 1
    np.testing.assert_array_equal(vectors, expected(embedder, changed))
    assert len(files(tmp_path)) == 5  # the shard of the old text is gone


def test_the_order_of_the_corpus_is_that_of_the_vectors_after_a_change_of_order(tmp_path: Path) -> None:
    passages = corpus(8)
    embed_corpus(FakeEmbedder(), passages, tmp_path, EmbedOptions(shard_size=4))
    vectors = embed_corpus(FakeEmbedder(), passages[::-1], tmp_path, EmbedOptions(shard_size=4))
    np.testing.assert_array_equal(vectors, expected(FakeEmbedder(), passages[::-1]))


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY rubbish", b"PK\x03\x04", "cut"])
def test_a_damaged_shard_is_embedded_again(tmp_path: Path, content: bytes | str) -> None:
    passages = corpus(8)
    embed_corpus(FakeEmbedder(), passages, tmp_path, EmbedOptions(shard_size=4))
    second = files(tmp_path)[1]
    second.write_bytes(content if isinstance(content, bytes) else second.read_bytes()[:-1])
    embedder = FakeEmbedder()
    vectors = embed_corpus(embedder, passages, tmp_path, EmbedOptions(shard_size=4))
    assert embedder.embedded == 4
    np.testing.assert_array_equal(vectors, expected(embedder, passages))


def test_what_a_killed_run_was_writing_is_never_taken_and_cleared_away(tmp_path: Path) -> None:
    passages = corpus(4)
    embed_corpus(FakeEmbedder(), passages, tmp_path, EmbedOptions(shard_size=4))
    whole = files(tmp_path)[0]
    draft = whole.with_name(f"{whole.stem}.0123abcd.tmp")
    draft.write_bytes(whole.read_bytes()[:90])
    whole.unlink()
    embedder = FakeEmbedder()
    embed_corpus(embedder, passages, tmp_path, EmbedOptions(shard_size=4))
    assert embedder.embedded == 4
    assert not draft.exists()


def test_progress_counts_every_passage_once_found_shards_included(tmp_path: Path) -> None:
    passages = corpus(10)
    with pytest.raises(KeyboardInterrupt):
        embed_corpus(FakeEmbedder(fail_after=1), passages, tmp_path, EmbedOptions(shard_size=4))
    told: list[tuple[int, int]] = []
    embed_corpus(FakeEmbedder(), passages, tmp_path, EmbedOptions(shard_size=4), progress=lambda *p: told.append(p))
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
    assert not files(tmp_path)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UsageError, match=f"cannot write to {tmp_path}/file"):
        embed_corpus(FakeEmbedder(), corpus(2), tmp_path / "file")


def test_a_store_is_embedded_as_its_passages_are(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "passages.jsonl", corpus(10))
    store = PassageStore.build(tmp_path / "passages.jsonl", tmp_path / "store")
    vectors = embed_corpus(FakeEmbedder(), store, tmp_path / "index", EmbedOptions(shard_size=4))
    np.testing.assert_array_equal(vectors, expected(FakeEmbedder(), corpus(10)))


def test_never_more_than_two_shards_of_texts_are_in_memory(tmp_path: Path) -> None:
    """Passages are read from a store when they are needed, and one shard ahead."""

    class Watched(FakeEmbedder):
        read = 0
        ahead: ClassVar[list[int]] = []

        def encode_passages(self, texts: Sequence[str]) -> list[list[int]]:
            self.read += len(texts)
            return super().encode_passages(texts)

        def embed_ids(self, batch: list[list[int]]) -> torch.Tensor:
            self.ahead.append(self.read - self.embedded)
            return super().embed_ids(batch)

    embedder = Watched()
    embed_corpus(embedder, corpus(40), tmp_path, EmbedOptions(100, 4))
    assert max(embedder.ahead) <= 8


def test_vectors_can_be_kept_in_half_precision(tmp_path: Path) -> None:
    passages = corpus(10)
    vectors = embed_corpus(FakeEmbedder(), passages, tmp_path, EmbedOptions(shard_size=4, half=True))
    assert vectors.dtype == np.float16
    assert vectors[2:9].dtype == np.float16
    np.testing.assert_array_equal(vectors, expected(FakeEmbedder(), passages).astype(np.float16))
    again = FakeEmbedder()
    embed_corpus(again, passages, tmp_path, EmbedOptions(shard_size=4, half=True))
    assert not again.batches


def test_a_vector_too_large_for_half_precision_names_its_passage(tmp_path: Path) -> None:
    class Large(FakeEmbedder):
        def vector(self, ids: list[int]) -> list[float]:
            return [1e5 if b"Title 2" in bytes(ids) else 1.0] * self.dimension

    with pytest.raises(CosupError, match=r"'p2' is too large for float16; keep vectors as float32"):
        embed_corpus(Large(), corpus(4), tmp_path, EmbedOptions(half=True))


@pytest.mark.parametrize("name", ["tokens_per_batch", "shard_size"])
def test_options_that_make_no_sense_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} is 0; expected at least 1"):
        EmbedOptions(**{name: 0})
