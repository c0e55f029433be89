"""The demo at toy scale: every stage runs, everything promised is kept, and what was kept can be used again."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from cosup.data.atlas import build_atlas
from cosup.data.reading import read_answers, read_passages, read_questions
from cosup.demo import DemoSettings, build_pair, run_demo
from cosup.errors import UsageError

TOY = replace(
    DemoSettings(), train_entities=400, test_entities=20, width=32, generator_layers=2, embedder_layers=1, heads=2,
    steps=3, batch_size=4,
)  # fmt: skip


def run(folder: Path, compare: bool = False, seed: int = 0) -> tuple[dict[str, Any], str]:
    file = io.StringIO()
    report = run_demo(folder, seed, compare, TOY, Console(file=file, width=120))
    return report, file.getvalue()


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        found = run(folder, compare=True)
        assert list(Path().iterdir()) == [], "something was written outside the demo's folder"
    return (folder, *found)


def test_the_report_has_what_the_demo_promises(done: tuple[Path, dict[str, Any], str]) -> None:
    folder, report, _ = done
    assert json.loads((folder / "report.json").read_text(encoding="utf-8")) == json.loads(json.dumps(report))
    for name in ("recall@1", "single_hop.exact_match", "two_hop.exact_match", "two_hop.citation_recall"):
        assert 0 <= report["metrics"][name] <= 100
    assert 0 < report["settings"]["train_seconds"] < report["settings"]["total_seconds"]
    assert report["settings"]["seed"] == 0
    assert report["count"] == 23


def test_the_files_kept_can_be_used_again(done: tuple[Path, dict[str, Any], str]) -> None:
    from cosup.generation.engine import Engine
    from cosup.index.faiss_index import FaissIndex
    from cosup.modeling import CoSupervisedModel

    folder = done[0]
    atlas = build_atlas(0, 400, 20)
    assert tuple(read_passages(folder / "passages.jsonl")) == atlas.passages
    questions = read_questions(folder / "questions.jsonl")
    assert tuple(questions) == atlas.test_questions
    kept = read_answers(folder / "predictions.jsonl")
    model = CoSupervisedModel.from_pretrained(folder / "model")
    engine = Engine(model, FaissIndex.load(folder / "index", model.fingerprint))
    assert [a.text for a in engine.generate(questions)] == [a.text for a in kept]


def test_table_and_three_answers_are_printed(done: tuple[Path, dict[str, Any], str]) -> None:
    _, report, printed = done
    value = f"{report['metrics']['single_hop.exact_match']:.1f}"
    assert re.search(rf"single_hop\.exact_match +│ +{re.escape(value)} ", printed)
    asked = [q.question for q in build_atlas(0, 400, 20).test_questions]
    drawn = [question for question in asked if f"\n{question}\n" in printed]
    assert len(drawn) == 3


def test_comparing_prints_and_keeps_a_second_column(done: tuple[Path, dict[str, Any], str]) -> None:
    folder, report, printed = done
    other = json.loads((folder / "compare" / "report.json").read_text(encoding="utf-8"))
    assert "co-supervised" in printed
    assert "separate" in printed
    assert other["count"] == report["count"]
    for name in ("steps", "batch_size", "seed", "passages"):
        assert other["settings"][name] == report["settings"][name]


def test_the_same_seed_gives_the_same_predictions_and_runs_over_an_older_run(
    done: tuple[Path, dict[str, Any], str], tmp_path: Path
) -> None:
    run(tmp_path, seed=1)
    other = (tmp_path / "predictions.jsonl").read_bytes()
    run(tmp_path)
    assert (tmp_path / "predictions.jsonl").read_bytes() == (done[0] / "predictions.jsonl").read_bytes() != other


def test_both_models_start_alike_and_only_the_generator_knows_control_tokens() -> None:
    model = build_pair(["Anna was born."], 0, TOY)
    rows = len(model.embedder_tokenizer)
    assert len(model.generator_tokenizer) == rows + 3
    ours, theirs = model.generator.get_input_embeddings().weight, model.embedder.get_input_embeddings().weight
    assert torch.equal(ours[:rows], theirs)
    assert "[Ret]" not in model.embedder_tokenizer.get_vocab()


def test_the_default_pair_has_about_a_million_parameters() -> None:
    model = build_pair(build_atlas().train_texts, 0, DemoSettings())
    assert 0.5e6 < sum(p.numel() for p in model.parameters()) < 2e6


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="taken"):
        run(tmp_path / "taken")
    assert (tmp_path / "taken").read_text(encoding="utf-8") == "mine"
