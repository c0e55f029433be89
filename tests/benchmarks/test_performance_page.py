"""The page of performance has a section for each record, keeps what it has no record for, and says what records say."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import gpu_training
import performance_page
import pytest
import retrieval as retrieval_benchmark
import training as training_benchmark
import training_pair
import two_nodes

from tests.benchmarks.records import CURVE, NEAR, RETRIEVAL, origin, part, runs


def test_the_page_has_a_section_for_each_record_and_no_other() -> None:
    own = asdict(training_pair.Setting("passages.jsonl", "questions.jsonl"))
    figures = {"tokens_per_second": 50_000.0, "peak_memory_gb": 70.0, "matmul_flops": 8e14, "flops": 4e14}
    sizes = {"generator": 10**9, "embedder": 10**9, "head": 10**8}
    mfu = gpu_training.summarise_mfu({"mfu": figures})
    mfu |= {"runs": {"mfu": {"matrix_parameters": sizes}}, "setting": {"mfu": asdict(part("base", matmul=8192))}}
    peaks = {"full": {"peak_memory_gb": 10.0}, "lora": {"peak_memory_gb": 4.0}}
    lora = gpu_training.summarise_lora_memory(peaks) | {"setting": {"full": asdict(part("base"))}}
    nodes = two_nodes.judge(CURVE, CURVE, NEAR, two_nodes.Tolerance())
    nodes |= {"seconds": 30.0, "link_megabytes": 12.0, "steps": 20, "batch_size": 16, "options": {}}
    records = {
        "training": {"settings": own} | training_benchmark.summary(runs()) | origin(),
        "gpu_mfu": mfu | origin(),
        "lora_memory": lora | origin(),
        "two_nodes": nodes | origin(),
        "retrieval": RETRIEVAL
        | {"settings": asdict(retrieval_benchmark.Setting("real.npy")), "growth_to": 30_000_000}
        | {"growth": retrieval_benchmark.growth(RETRIEVAL["runs"])}
        | origin(),
    }
    text = performance_page.page(records, {})
    assert text.count("\n## ") == 5
    assert "| 1,000,000 | ivf-pq | 100 | 2.00 | 0.20 | 0.970 | 10.00 | 20.00 |" in text
    assert "at 30,000,000 passages: 50 minutes to build (n^1.00), 54.8 ms a search (n^0.50), 3.1 GB resident" in text
    assert "| cosup | 1100 | 25.0% | 3.00 | 4.900 | 5.50x | 0.30x |" in text
    assert "| 50000 | 400.0 | 800.0 | 50.0% | 70.0 |" in text
    assert "| 10.00 | 4.00 | 0.40 |" in text
    assert "20 steps: equal." in text
    assert text.count("Commit abc1234; a machine; torch 2.13.0, transformers 5.23.0.") == 5
    assert "negatives" not in text
    assert performance_page.page({"two_nodes": records["two_nodes"]}, {}).count("\n## ") == 1


def test_a_section_without_a_record_stays_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, record = tmp_path / "page.md", tmp_path / "two_nodes.json"
    monkeypatch.setattr(sys, "argv", ["x", "--records", str(tmp_path), "--page", str(page)])
    nodes = two_nodes.judge(CURVE, CURVE, NEAR, two_nodes.Tolerance()) | origin()
    nodes |= {"seconds": 30.0, "link_megabytes": 12.0, "steps": 20, "batch_size": 16, "options": {}}
    record.write_text(json.dumps(nodes))
    performance_page.main()
    first = page.read_text()
    page.write_text(
        first.replace("<!-- two_nodes -->", "<!-- lora_memory -->\n## Two adapters\n\nkept\n\n<!-- two_nodes -->")
    )
    record.write_text(json.dumps(nodes | {"commit": "def5678"}))
    performance_page.main()
    again = page.read_text()
    assert again.count("\n## ") == 2
    assert "kept" in again
    assert "def5678" in again
    assert "abc1234" not in again
    performance_page.main()
    assert page.read_text() == again


def test_the_page_is_not_written_without_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    monkeypatch.setattr(sys, "argv", ["x", "--records", str(tmp_path), "--page", str(page)])
    with pytest.raises(SystemExit, match=r"training\.json"):
        performance_page.main()
    assert not page.exists()
