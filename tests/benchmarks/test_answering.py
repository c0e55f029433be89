"""Benchmarks of answers: ratios of the same questions, bytes of a decoding step, scoring, and a server under load."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import answering as answering_benchmark
import evaluation as evaluation_benchmark
import gpu_decoding
import performance_page
import pytest
import serving as serving_benchmark

from cosup.data.writing import write_jsonl
from cosup.records import Answer, Question
from tests.benchmarks.records import BENCHMARKS, origin
from tests.pairs import QUESTIONS

# -- benchmarks/answering.py -------------------------------------------------------------------------------------------


def test_answering_ratios_are_medians_of_rounds_and_of_the_same_questions() -> None:
    rates = {"baseline_1": [1.0, 2.0, 1.0], "cosup_1": [2.0, 2.0, 3.0], "plain_1": [2.0, 3.0, 3.0]}
    rates |= {"baseline_32": [1.0, 1.0, 2.0], "cosup_32": [9.0, 8.0, 10.0], "plain_32": [9.0, 4.0, 5.0]}
    found = answering_benchmark.figures(rates)
    assert (found["speedup_1"], found["speedup_32"]) == (2.0, 8.0)
    assert (found["overhead_1"], found["overhead_32"]) == (1.0, 0.5)
    assert found["baseline"]["questions_per_second"] == 1.0
    assert found["cosup_32"]["questions_per_second"] == 9.0
    lines = answering_benchmark.table(found)
    assert lines[-1] == "| 32 | 1.00 | 9.00 | 8.00x | 5.00 | 0.50x |"


def test_the_share_of_right_answers_has_wilsons_interval() -> None:
    questions = [Question(str(i), "?", answers=("Rome",)) for i in range(10)]
    answers = [Answer(str(i), "?", "in Rome." if i < 8 else "in Romeo.", "") for i in range(10)]
    found = answering_benchmark.share_right(questions, answers)
    assert found["share"] == 0.8
    assert (found["low"], found["high"]) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert answering_benchmark.same_text(answers[:4], answers[6:]) == 0.5


# -- benchmarks/gpu_decoding.py ----------------------------------------------------------------------------------------


def test_a_step_of_decoding_reads_weights_and_caches() -> None:
    own = gpu_decoding.TINY
    found = gpu_decoding.measure(own)
    matrices = own.layers * (4 * own.hidden**2 + 3 * own.hidden * own.inner + 2 * own.hidden)
    weights = matrices + own.hidden + own.vocabulary * own.hidden
    cache = own.rows * (own.context + own.warm_up + own.steps / 2) * own.layers * 2 * own.hidden
    assert found["bytes_per_step"] == 2 * (weights + own.rows * own.hidden + cache)
    assert found["share"] == pytest.approx(
        found["bytes_per_step"] * found["tokens_per_second"] / own.rows / found["bandwidth"]
    )
    assert gpu_decoding.table(found)[-1].startswith("| 3 | ")


# -- benchmarks/evaluation.py ------------------------------------------------------------------------------------------


def test_scoring_is_measured_on_a_small_scale() -> None:
    found = evaluation_benchmark.measure(200)
    assert found["seconds"] > 0
    assert 0.05 < found["peak_memory_gb"] < 3
    assert found["measures"] > 20
    record = {"settings": {"count": 200, "passages": 20_000}, **found, **origin()}
    assert "on 200 made-up short answers" in performance_page.page({"evaluation": record}, {})


# -- serving -----------------------------------------------------------------------------------------------------------


@pytest.mark.bench
def test_many_clients_get_far_more_answers_than_one(tmp_path: Path) -> None:
    """A server under load with a pair that knows its questions: no error but 429, and a batch is worth its name.

    The figures of the documents are of the demo's pair on an idle machine (8x at 32 clients); this holds half of that.
    """
    from tests.generation.conftest import train

    train("llama", tmp_path)
    write_jsonl(tmp_path / "questions.jsonl", QUESTIONS)
    command = [sys.executable, str(BENCHMARKS / "serving.py"), "--model", "model", "--index", "index"]
    more = ["--questions", "questions.jsonl", "--clients", "1", "32", "64", "--seconds", "5", "--json", "out.json"]
    subprocess.run([*command, *more], cwd=tmp_path, check=True, capture_output=True, timeout=300)
    record = json.loads((tmp_path / "out.json").read_text())
    alone, many, most = record["loads"]
    assert set(alone["statuses"]) == {"200"}
    assert set(many["statuses"]) | set(most["statuses"]) <= {"200", "429"}
    assert many["answers_per_second"] > 4 * alone["answers_per_second"]
    assert most["p95_seconds"] < 10
    page = performance_page.page({"serving": record}, {})
    assert f"| 32 | {many['answers']:,} |" in page
    assert serving_benchmark.table(record)[-1].endswith("| 0 | 0 |")
