"""Benchmarks of embedding and retrieval: vectors drawn like real ones, sizes in fresh processes, growth."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import embedding as embedding_benchmark
import numpy as np
import performance_page
import pytest
import retrieval as retrieval_benchmark

from tests.benchmarks.records import RETRIEVAL, origin
from tests.pairs import TinyWorld

# -- benchmarks/embedding.py -------------------------------------------------------------------------------------------


def test_embedding_ratios_are_medians_of_rounds_the_right_way_round() -> None:
    def rounds(*seconds: float) -> list[dict[str, float]]:
        return [{"seconds": s, "processor_seconds": 2 * s} for s in seconds]

    runs = {"bare": rounds(9, 18, 9), "cosup": rounds(10, 20, 90), "sentence_transformers": rounds(20, 30, 90)}
    found = embedding_benchmark.summary(runs, tokens=1000, count=100)
    assert found["ratio_bare"] == found["ratio_bare_processor"] == pytest.approx(0.9)
    assert found["ratio_sentence_transformers"] == pytest.approx(1.5)
    assert found["cosup"] == {"tokens_per_second": 50.0, "passages_per_second": 5.0}


def embedding_record(model: Path, passages: Path) -> dict[str, Any]:
    own = embedding_benchmark.Setting(str(model), str(passages), count=40, rounds=2, threads=1)
    return {"settings": embedding_benchmark._shown(own)} | embedding_benchmark.measure(own)


def test_the_sides_of_embedding_make_the_same_vectors(tiny_world: TinyWorld) -> None:
    record = embedding_record(tiny_world.model, tiny_world.passages)
    assert record["passages"] == 40
    assert record["largest_difference"] < 1e-5
    assert set(record["layouts"]) == {"padded", "packed"}
    text = performance_page.page({"embedding": record | origin()}, {})
    assert f"| cosup | {record['cosup']['tokens_per_second']:.0f} | " in text
    assert "40 passages of `passages.jsonl`" in text


# -- benchmarks/retrieval.py -------------------------------------------------------------------------------------------


def real_vectors(count: int = 4000) -> np.ndarray:
    """Vectors of 24 dimensions that lie near a plane of 6."""
    random = np.random.default_rng(0)
    along = random.normal(size=(count, 6)) @ random.normal(size=(6, 24))
    return (along + 3 + 0.1 * random.normal(size=(count, 24))).astype(np.float32)


def test_drawn_vectors_have_the_mean_and_the_covariance_of_the_real_ones() -> None:
    real = real_vectors()
    world = retrieval_benchmark.World.fit(real, 6)
    drawn = world.mean + world.deviations(100_000, np.random.default_rng(1))
    np.testing.assert_allclose(drawn.mean(axis=0), real.mean(axis=0), atol=0.05)
    expected = np.cov(real.T)
    assert np.linalg.norm(np.cov(drawn.T) - expected) < 0.05 * np.linalg.norm(expected)
    assert world.noise == pytest.approx(0.1 * math.sqrt(18 / 24), rel=0.1)
    np.testing.assert_allclose(np.linalg.norm(world.draw(5, np.random.default_rng(2)), axis=1), 1, rtol=1e-5)


def retrieval_setting(folder: Path, **more: Any) -> Any:
    np.save(folder / "real.npy", real_vectors(400))
    return retrieval_benchmark.Setting(str(folder / "real.npy"), queries=40, factors=6, threads=1, **more)


def test_queries_are_held_out_and_near_real_vectors(tmp_path: Path) -> None:
    setting = retrieval_setting(tmp_path, moved=0.0)
    _, queries = retrieval_benchmark.split(setting)
    real = retrieval_benchmark.unit(real_vectors(400))
    assert np.sort((queries @ real.T).max(axis=1))[0] == pytest.approx(1.0, abs=1e-5)
    fitted = retrieval_benchmark.World.fit(
        retrieval_benchmark.unit(np.delete(real, (queries @ real.T).argmax(axis=1), axis=0)), 6
    )
    np.testing.assert_allclose(retrieval_benchmark.split(setting)[0].mean, fitted.mean, atol=1e-5)


@pytest.mark.parametrize("kind", [pytest.param("flat", marks=pytest.mark.slow), "ivf-sq"])
def test_a_size_is_built_and_searched_in_fresh_processes(tmp_path: Path, kind: str) -> None:
    found = retrieval_benchmark.measure(retrieval_setting(tmp_path, index_type=kind), 3000, tmp_path)
    assert (found["passages"], found["type"]) == (3000, kind)
    assert found["recall"] == 1.0 if kind == "flat" else found["recall"] > 0.9
    assert 0 < found["median_ms"] <= found["p95_ms"] < 1000
    assert 0.01 < found["resident_gb"] < 1.0  # neither torch nor the passages
    assert found["disk_gb"] > 3000 * 24 * 2 / 1e9
    assert [p.name for p in tmp_path.iterdir()] == ["real.npy"]


def test_growth_is_extrapolated_from_the_sizes() -> None:
    found = retrieval_benchmark.growth(RETRIEVAL["runs"], 30_000_000)
    assert found["build_seconds"] == pytest.approx({"value": 3000.0, "exponent": 1.0})
    assert found["median_ms"] == pytest.approx({"value": math.sqrt(3e7) / 100, "exponent": 0.5})
    assert found["resident_gb"] == pytest.approx({"value": 3.1, "a_passage": 100.0})
