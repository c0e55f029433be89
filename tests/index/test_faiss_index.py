"""The exact index: equal to brute force, deterministic, whole or not there, and refused when it is not the model's."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from cosup.errors import CosupError, InputError, UsageError
from cosup.index import faiss_index
from cosup.index.base import IndexManifest, VectorIndex
from cosup.index.build import build_index
from cosup.index.faiss_index import FaissIndex
from cosup.records import Passage

MINE, OTHER = "a" * 64, "b" * 64
N, D = 300, 7
FILES = ("index.json", "passages.jsonl", "vectors.faiss")


def corpus(count: int = N) -> list[Passage]:
    return [Passage(f"p{i}", f"Title {i}", f"Text {i}. Æøå.") for i in range(count)]


def vectors(count: int = N, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, D)).astype(np.float32)


def small_integers(count: int, seed: int) -> np.ndarray:
    """Vectors whose inner products are exact in float32 and often equal."""
    return np.random.default_rng(seed).integers(-2, 3, size=(count, D)).astype(np.float32)


def build(folder: Path, values: np.ndarray | None = None, fingerprint: str = MINE) -> FaissIndex:
    values = vectors() if values is None else values
    return FaissIndex.build(folder, corpus(len(values)), values, fingerprint, "inner_product")


def brute_force(values: np.ndarray, query: np.ndarray, k: int, rows: list[int] | None = None) -> list[str]:
    rows = list(range(len(values))) if rows is None else sorted(set(rows))
    scores = values[rows].astype(np.float64) @ query.astype(np.float64)
    return [f"p{rows[i]}" for i in np.argsort(-scores, kind="stable")[:k]]


def ids(hits: list) -> list[str]:
    return [hit.passage_id for hit in hits]


@pytest.mark.parametrize("k", [1, 5, 300, 1000])
def test_search_equals_brute_force(tmp_path: Path, k: int) -> None:
    index, queries = build(tmp_path / "index"), vectors(40, seed=1)
    results = index.search(queries, k)
    assert [ids(hits) for hits in results] == [brute_force(vectors(), query, k) for query in queries]
    assert all(len(hits) == min(k, N) for hits in results)
    best = results[0][0]
    assert type(best.score) is float
    assert best.score == pytest.approx(float((vectors() @ queries[0]).max()), rel=1e-5)


@pytest.mark.parametrize("k", [1, 2, 3, 10, 50, 299])
def test_equal_scores_come_in_the_order_of_the_corpus(tmp_path: Path, k: int) -> None:
    values = small_integers(N, seed=2)
    queries = small_integers(25, seed=3)
    results = build(tmp_path / "index", values).search(queries, k)
    assert [ids(hits) for hits in results] == [brute_force(values, query, k) for query in queries]


def test_all_passages_equal(tmp_path: Path) -> None:
    index = build(tmp_path / "index", np.ones((N, D), dtype=np.float32))
    assert ids(index.search(np.ones((1, D), dtype=np.float32), 4)[0]) == ["p0", "p1", "p2", "p3"]


def test_a_batch_of_queries_gives_the_scores_of_each_alone(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(5000, D)).astype(np.float32)
    index, queries = build(tmp_path / "index", values), vectors(64, seed=1)
    together = index.search(queries, 5)
    assert together == [index.search(query[None], 5)[0] for query in queries]
    assert together == index.search(queries, 5, candidates=[[f"p{i}" for i in range(5000)]] * 64)


def test_candidates_limit_each_search(tmp_path: Path) -> None:
    index, queries = build(tmp_path / "index"), vectors(5, seed=1)
    chosen: list[list[str] | None] = [["p7", "p3", "p3"], None, [], [f"p{i}" for i in range(0, N, 2)], ["p299"]]
    found = [ids(hits) for hits in index.search(queries, 3, chosen)]
    rows = [None if c is None else [int(i[1:]) for i in c] for c in chosen]
    assert found == [brute_force(vectors(), q, 3, r) for q, r in zip(queries, rows, strict=True)]
    assert [len(hits) for hits in found] == [2, 3, 0, 3, 1]


def test_equal_scores_among_candidates_come_in_the_order_of_the_corpus(tmp_path: Path) -> None:
    index = build(tmp_path / "index", np.ones((N, D), dtype=np.float32))
    assert ids(index.search(np.ones((1, D), dtype=np.float32), 2, [["p9", "p200", "p4"]])[0]) == ["p4", "p9"]


def test_wrong_searches_are_refused(tmp_path: Path) -> None:
    index, queries = build(tmp_path / "index"), vectors(2)
    with pytest.raises(InputError, match="no passage 'nowhere' among the 300"):
        index.search(queries, 1, [["p1"], ["p2", "nowhere"]])
    with pytest.raises(UsageError, match="1 candidate lists for 2 queries"):
        index.search(queries, 1, [None])
    with pytest.raises(UsageError, match=r"shape \(2, 3\); expected \[Q, 7\]"):
        index.search(queries[:, :3], 1)
    with pytest.raises(UsageError, match="expected \\[Q, 7\\]"):
        index.search(queries[0], 1)
    with pytest.raises(UsageError, match="k is 0"):
        index.search(queries, 0)
    queries[1, 2] = np.nan
    with pytest.raises(CosupError, match="query 1 is not finite"):
        index.search(queries, 1)


def test_no_queries_give_no_results(tmp_path: Path) -> None:
    assert build(tmp_path / "index").search(np.empty((0, D), dtype=np.float32), 3) == []


def test_save_load_same_results(tmp_path: Path) -> None:
    built: VectorIndex = build(tmp_path / "index")
    loaded = FaissIndex.load(tmp_path / "index", MINE)
    queries = vectors(10, seed=4)
    assert loaded.search(queries, 5) == built.search(queries, 5)
    assert list(loaded) == corpus()
    assert (len(loaded), loaded.dimension, loaded.embedder_fingerprint) == (N, D, MINE)
    assert loaded.passage("p17") == corpus()[17]
    with pytest.raises(InputError, match="no passage 'x'"):
        loaded.passage("x")
    assert sorted(p.name for p in (tmp_path / "index").iterdir()) == sorted(FILES)


def test_an_index_of_another_embedder_is_refused_by_name(tmp_path: Path) -> None:
    build(tmp_path / "index")
    with pytest.raises(InputError, match=f"embedder {'a' * 12}, but the model's embedder is {'b' * 12}; run 'cosup"):
        FaissIndex.load(tmp_path / "index", OTHER)
    assert len(FaissIndex.load(tmp_path / "index", None)) == N


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_noticed_and_the_file_named(tmp_path: Path, name: str) -> None:
    build(tmp_path / "index", vectors(5))
    path = tmp_path / "index" / name
    whole = path.read_bytes()
    for position in random.Random(0).sample(range(len(whole) - 1), 60):
        if whole[position : position + 1].isspace():
            continue
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(InputError, match=name):
            FaissIndex.load(tmp_path / "index", None)
    path.write_bytes(whole)
    FaissIndex.load(tmp_path / "index", MINE)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_cut_file_is_named(tmp_path: Path, name: str) -> None:
    build(tmp_path / "index")
    path = tmp_path / "index" / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=name):
        FaissIndex.load(tmp_path / "index", MINE)
    path.unlink()
    with pytest.raises(InputError, match=name):
        FaissIndex.load(tmp_path / "index", MINE)


def test_a_missing_folder_and_a_newer_format_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such index folder"):
        FaissIndex.load(tmp_path / "nothing", MINE)
    build(tmp_path / "index")
    path = tmp_path / "index" / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(InputError, match=r"index\.json: format 2; this cosup reads format 1"):
        FaissIndex.load(tmp_path / "index", MINE)


@pytest.mark.parametrize("step", ["write_jsonl", "file_checksum", "_swap"])
def test_an_interrupted_build_leaves_the_old_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    before = build(tmp_path / "index").search(vectors(3), 3)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(faiss_index, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "index", vectors(20, seed=9), OTHER)
    assert FaissIndex.load(tmp_path / "index", MINE).search(vectors(3), 3) == before
    assert [p.name for p in tmp_path.iterdir()] == ["index"]


def test_the_old_index_comes_back_where_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "index")
    rename = Path.rename

    def fail_on_draft(self: Path, target: Path) -> Path:
        if self.suffix == ".tmp" and self.is_dir():
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_on_draft)
    with pytest.raises(UsageError, match="No space left"):
        build(tmp_path / "index", vectors(20, seed=9))
    assert len(FaissIndex.load(tmp_path / "index", MINE)) == N
    assert [p.name for p in tmp_path.iterdir()] == ["index"]


def test_a_new_build_replaces_the_old_index(tmp_path: Path) -> None:
    build(tmp_path / "index")
    assert len(build(tmp_path / "index", vectors(20, seed=9), OTHER)) == 20
    assert [p.name for p in tmp_path.iterdir()] == ["index"]


def test_a_folder_with_other_files_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match=r"holds 'thesis.tex', which is no part of an index"):
        build(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        build(tmp_path / "file")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_vectors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    def attempt(values: np.ndarray, similarity: str = "inner_product", count: int = 4) -> None:
        FaissIndex.build(tmp_path / "index", corpus(count), values, MINE, similarity)

    values = vectors(4)
    with pytest.raises(UsageError, match=r"float32 \[5, D\]"):
        attempt(values, count=5)
    with pytest.raises(UsageError, match="vectors are float64"):
        attempt(values.astype(np.float64))
    with pytest.raises(UsageError, match="unit length"):
        attempt(values, "cosine")
    with pytest.raises(UsageError, match="similarity is 'dot'"):
        attempt(values, "dot")
    with pytest.raises(CosupError, match="not finite"):
        attempt(np.full((4, D), np.inf, dtype=np.float32))
    assert not list(tmp_path.iterdir())


def test_duplicate_ids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two passages have the id 'p0'"):
        FaissIndex.build(tmp_path / "index", [*corpus(3), corpus(1)[0]], vectors(4), MINE, "inner_product")


class UnitEmbedder:
    """Embeds on the unit circle; stops after some batches when told to."""

    fingerprint = MINE
    dimension = 2

    def __init__(self, batches: int = 10**6) -> None:
        self.left = batches

    def encode_passages(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(text.encode()) for text in texts]

    def embed_ids(self, batch: list[list[int]]) -> torch.Tensor:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        angles = torch.tensor([float(sum(row)) for row in batch])
        return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_from_passages_to_an_index_in_one_call(tmp_path: Path) -> None:
    built = build_index(UnitEmbedder(), corpus(30), tmp_path / "index", "cosine")
    query = UnitEmbedder().embed_ids([list(corpus()[12].rendered.encode())]).numpy()
    assert built.search(query, 1)[0][0].score == pytest.approx(1.0)
    manifest = IndexManifest.read(tmp_path / "index")
    assert (manifest.similarity, manifest.count, manifest.type) == ("cosine", 30, "faiss-flat")
    assert sorted(p.name for p in (tmp_path / "index").iterdir()) == sorted(FILES)


def test_an_interrupted_embedding_leaves_the_old_index_and_a_second_run_ends_it(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    build_index(UnitEmbedder(), corpus(5), folder, "cosine")
    with pytest.raises(KeyboardInterrupt):
        build_index(UnitEmbedder(batches=0), corpus(30), folder, "cosine")
    assert len(FaissIndex.load(folder, MINE)) == 5
    assert len(build_index(UnitEmbedder(), corpus(30), folder, "cosine")) == 30
    assert sorted(p.name for p in folder.iterdir()) == sorted(FILES)


def test_a_folder_that_cannot_be_used_is_refused_before_the_embedding(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UsageError, match=r"notes\.txt"):
        build_index(UnitEmbedder(batches=0), corpus(3), tmp_path, "cosine")
