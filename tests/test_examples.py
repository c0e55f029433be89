"""The examples run, here on a tiny untrained pair: what they write and print is what they promise."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import foreign
from tests.pairs import TinyWorld

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(p.stem for p in EXAMPLES.glob("*.py"))

Run = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return what runs a script with arguments and returns what it prints."""

    def runs(name: str, *words: object) -> str:
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        capsys.readouterr()
        module.main([str(word) for word in words])
        return capsys.readouterr().out

    return runs


@pytest.fixture
def data(tiny_world: TinyWorld) -> list[object]:
    """Return the arguments that name the tiny world's files."""
    return ["--passages", tiny_world.passages, "--questions", tiny_world.questions]


def test_there_are_five_scripts_that_say_what_they_show_and_how_to_run_them() -> None:
    assert len(SCRIPTS) == 5
    for name in SCRIPTS:
        text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
        assert f"\n    python examples/{name}.py\n" in text.split('"""')[1], name
        assert 30 <= text.count("\n") <= 80, name


@pytest.mark.slow
def test_own_files_are_trained_on_indexed_and_asked(
    run: Run, tiny_world: TinyWorld, data: list[object], tmp_path: Path
) -> None:
    base = ["--generator", tiny_world.base, "--embedder", tiny_world.base]
    printed = run("own_jsonl", *base, *data, "--steps", 2, "--output", tmp_path / "own", "--ask", "Who wrote it?")
    assert "\nWho wrote it?\n" in printed
    assert (tmp_path / "own" / "index" / "index.json").is_file()
    assert (tmp_path / "own" / "model" / "cosup.json").is_file()


@pytest.mark.slow
def test_two_adapters_are_trained_saved_and_loaded(
    run: Run, tiny_world: TinyWorld, data: list[object], tmp_path: Path
) -> None:
    words = ["--base", tiny_world.base, *data, "--held-out", 4, "--steps", 2, "--output", tmp_path / "lora"]
    printed = run("two_lora_adapters", *words)
    assert "loaded again, it embeds as before: True" in printed
    found = {p.parent.name for p in (tmp_path / "lora" / "model").rglob("adapter_model.safetensors")}
    assert found == {"generator", "embedder"}


@pytest.mark.slow
def test_a_frozen_embedder_is_asked_through_a_projection(
    run: Run, tiny_world: TinyWorld, data: list[object], tmp_path: Path
) -> None:
    embedder = foreign.sentence_transformer(tmp_path / "st", max_tokens=64)
    words = ["--generator", tiny_world.base, "--embedder", embedder, *data, "--held-out", 4, "--steps", 2]
    printed = run("frozen_sentence_transformers", *words, "--output", tmp_path / "frozen")
    assert "pooling: mean; projection: Linear(in_features=24, out_features=32, bias=False)" in printed
    assert "searched: " in printed


def test_a_folder_of_markdown_is_answered_with_its_files_cited(run: Run, tiny_world: TinyWorld, tmp_path: Path) -> None:
    words = ["--model", tiny_world.model, "--output", tmp_path / "index", "What is Lark Mead known for?"]
    printed = run("markdown_folder", *words)
    assert printed.startswith("76 passages in notes/\n\nWhat is Lark Mead known for?\n")
    assert re.search(r'\n  \[1\] (people|towns|works)\.md, passage \d+, "[A-Z][\w ]+" \(score ', printed)


@pytest.mark.slow
def test_two_models_are_compared_with_intervals(
    run: Run, tiny_world: TinyWorld, data: list[object], tmp_path: Path
) -> None:
    words = ["--model", tiny_world.model, "--other", tiny_world.model, *data, "--last", 6, "--output", tmp_path]
    lines = run("compare_two_models", *words).splitlines()
    assert lines[0].startswith("6 questions; percent; difference is ")
    assert len(lines) == 7
    assert all(line.split()[3:] == ["+0.0", "+0.0", "to", "+0.0", "1.0000"] for line in lines[2:])
