"""Training benchmarks: all runs from the same weights on the same examples, ratios the right way round."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import training as training_benchmark
import training_pair

from cosup.data.atlas import build_atlas
from cosup.data.writing import write_jsonl
from tests.benchmarks.records import runs


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> training_pair.Setting:
    folder = tmp_path_factory.mktemp("benchmark")
    atlas = build_atlas(seed=0, train_entities=400, test_entities=20)
    write_jsonl(folder / "passages.jsonl", atlas.train_passages)
    write_jsonl(folder / "questions.jsonl", atlas.train_questions)
    setting = training_pair.Setting(
        str(folder / "passages.jsonl"), str(folder / "questions.jsonl"), steps=2, batch_size=3, threads=1, layers=1,
        hidden=32, vocabulary=2000, held_out=5,
    )  # fmt: skip
    return replace(setting, tokenizer=str(training_pair.train_tokenizer(setting, folder / "tokenizer")))


def test_all_runs_start_from_the_same_weights_and_see_the_same_examples(small: training_pair.Setting) -> None:
    still = replace(small, learning_rate=0.0)
    found = {name: training_benchmark.run(name, still) for name in training_benchmark.RUNS}
    losses = [figures["loss"] for figures in found.values()]
    assert losses == [losses[0]] * 3
    assert losses[0] == pytest.approx(math.log(small.vocabulary), rel=0.1)
    ours, theirs = found["cosup"]["real_tokens"], found["baseline"]["real_tokens"]
    assert found["cosup_same_supervision"]["real_tokens"] == ours
    assert 0.8 * theirs <= ours <= theirs  # the baseline embeds a passage once for each [Ret]
    for figures in found.values():
        assert len(figures["seconds"]) == small.steps
        assert figures["peak_memory_gb"] > 0.05


def test_held_out_questions_are_the_last_and_never_trained_on(small: training_pair.Setting) -> None:
    lines = Path(small.questions).read_text(encoding="utf-8").splitlines()
    last = [json.loads(line)["id"] for line in lines[-small.held_out :]]
    _, trained, held_out = training_pair.load_data(replace(small, steps=len(lines)))
    assert [e.id for e in held_out] == last
    assert len(trained) == 3 * len(lines)
    assert {e.id for e in trained} == {json.loads(line)["id"] for line in lines[: -small.held_out]}


def test_ratios_are_ours_over_the_baseline() -> None:
    found = training_benchmark.summary(runs())
    assert found["speedup"] == pytest.approx(5.5)
    assert found["speedup_same_supervision"] == pytest.approx(4.5)
    assert found["memory_ratio"] == pytest.approx(0.3)
    assert found["loss_ratio"] == pytest.approx(0.98)
    alone = training_benchmark.summary({"cosup": runs()["cosup"]})
    assert set(alone) == {"cosup"}


def test_a_setting_survives_its_way_to_another_process(small: training_pair.Setting, tmp_path: Path) -> None:
    own = replace(small, options={"micro_batch_tokens": 700, "optim": "adamw_torch"}, learning_rate=1.5e-4, seed=3)
    found = training_benchmark.arguments(training_benchmark.child_words("cosup", own, tmp_path / "result.json"))
    assert training_benchmark.setting_of(found) == own
    assert (found.run, found.json) == ("cosup", tmp_path / "result.json")


def test_the_rate_of_two_runs_is_that_of_all_their_steps() -> None:
    twice = [{"timed_tokens": 30, "tokens_per_second": 10.0}, {"timed_tokens": 10, "tokens_per_second": 5.0}]
    assert training_benchmark.joint_rate(twice) == pytest.approx(40 / 5)


@pytest.mark.bench
def test_each_run_gets_a_process_of_its_own(small: training_pair.Setting) -> None:
    found = training_benchmark.in_own_process("baseline", replace(small, steps=2))
    assert len(found["rates"]) == 1
    assert found["tokens_per_second"] == pytest.approx(found["rates"][0])
