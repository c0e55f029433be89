"""The page of results says what the records say, keeps its notes, and renews the README's table."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cosup.experiments.plan import load_experiment
from cosup.experiments.run import RECORDED, steps_of
from tests.experiments.small import SPACES, experiment
from tests.pairs import TinyWorld

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import results_page

RUN = {"seconds": 1800, "commit": "abc1234", "hardware": "a machine", "versions": {}}


def write_records(path: Path, kept: Path, score: Mapping[str, float], geometry: bool = False) -> None:
    """Write a record of every step, as if it had been run: each question of both tasks has its system's score."""
    for step in steps_of(load_experiment(path)):
        own = dict.fromkeys(RECORDED, score[step.system.key])
        record: dict[str, Any] = {
            "seed": step.seed,
            "trainings": [
                {"folder": "f", "recipe": dict(step.writer.source), "metrics": {}, "seconds": 1800, "commit": "abc1234"}
            ],
            "tasks": {"one": {"group": "in"}, "two": {"group": "out"}},
            "scores": {task: {"1": own, "2": own} for task in ("one", "two")},
            "seconds": 1800,
            "commit": "abc1234",
            "hardware": "a machine",
            "versions": {},
        }
        if geometry:
            record["geometry"] = [SPACES | {"step": 0}, SPACES | {"step": 2}]
        kept.mkdir(exist_ok=True)
        (kept / f"{step.address}.json").write_text(json.dumps(record), encoding="utf-8")


def test_the_page_says_what_the_records_say(
    tiny_world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("main", "lambda"):
        (tmp_path / name).mkdir()
    whole = experiment(tiny_world, tmp_path / "main")
    axes = {"objective.nsp_weight": [0, 0.5]}
    sweep = experiment(tiny_world, tmp_path / "lambda", axes=axes, systems={"both": None}, compare=[], scales={})
    question = "# How much?\n" + sweep.read_text(encoding="utf-8")
    (tmp_path / "analyses").mkdir()
    (tmp_path / "analyses" / "lambda.yaml").write_text(question, encoding="utf-8")
    write_records(whole, tmp_path / "records", {"words": 0.125, "apart": 0.25, "both": 0.5})
    scores = {"both-nsp_weight-0": 0, "both-nsp_weight-0.5": 0.75}
    write_records(tmp_path / "analyses" / "lambda.yaml", tmp_path / "records", scores, geometry=True)
    monkeypatch.setattr(results_page, "MAIN", whole)
    monkeypatch.setattr(results_page, "ANALYSES", tmp_path / "analyses")
    page, readme = tmp_path / "results.md", tmp_path / "README.md"
    page.write_text("old\n<!-- notes -->\nKept.\n", encoding="utf-8")
    readme.write_text("# x\n<!-- results -->\nold\n<!-- /results -->\nafter\n", encoding="utf-8")
    words = ["--records", str(tmp_path / "records"), "--page", str(page), "--readme", str(readme)]
    monkeypatch.setattr(sys, "argv", ["results_page.py", *words])
    results_page.main()
    text = page.read_text(encoding="utf-8")
    assert "| NTP + BM25 | 1 | 12.5 [12.5, 12.5] |" in text
    assert "| both | apart | correctness | all | +25.0 [+25.0, +25.0] |" in text
    assert "3 of 3 runs (seeds 1), 2 steps of 2 questions each, 4 questions of 2 tasks, whole corpora." in text
    assert "a machine; trained at commit abc1234, scored at abc1234; 2.0 hours" in text  # one training serves all
    assert "## Lambda\n\nHow much?\n" in text
    assert "| both, nsp_weight 0.5 | 75.0 [75.0, 75.0] |" in text
    assert "| both, nsp_weight 0.5 | 2 | 1.50 | -1.00 | -2.00 | 3.00 | 4.00 | 0.25 | 0.50 |" in text
    assert text.endswith("<!-- notes -->\nKept.\n")
    assert text.startswith("# Does co-supervision")
    for name in ("systems", "groups", "if_retrieved", "lambda", "geometry-steps", "geometry-projection"):
        assert (tmp_path / "results" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"(results/{name}.png)" in text
    main = json.loads((tmp_path / "results" / "main.json").read_text(encoding="utf-8"))
    assert main["systems"]["both"]["average"]["retrieval"] == 50
    renewed = readme.read_text(encoding="utf-8")
    assert "| both | both | 50.0 | 50.0 | 50.0 | 50.0 |" in renewed
    assert renewed.startswith("# x\n<!-- results -->\n")
    assert renewed.endswith("<!-- /results -->\nafter\n")


def test_without_records_there_is_no_page(
    tiny_world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(results_page, "MAIN", experiment(tiny_world, tmp_path))
    words = ["--records", str(tmp_path / "none"), "--page", str(tmp_path / "results.md")]
    monkeypatch.setattr(sys, "argv", ["results_page.py", *words])
    with pytest.raises(SystemExit):
        results_page.main()
    assert "no record of" in capsys.readouterr().err
    assert not (tmp_path / "results.md").exists()
