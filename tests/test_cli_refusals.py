"""What the command line says of bad usage and bad input: a line that names the place, and nothing is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.command_files import recipe, tree
from tests.commands import Cosup
from tests.pairs import TinyWorld, save_pair


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian", "x"], "'train'"),
        (["ask", "--modle", "x"], "no such option: --modle (did you mean '--model'?)"),
        (["--qiet", "info", "x"], "no such option: --qiet (did you mean '--quiet'?)"),
        (["info", "x", "--verfy"], "no such option: --verfy (did you mean '--verify'?)"),
        (["info", "recipes/squad-lora.yaml", "--max_step", "3"], "max_step"),
        (["ask", "why?", "--model", "m"], "--index"),
        (["index", "--model"], "--model"),
        (
            ["index", "--index-type", "hsnw", "--output", "x"],
            "--index-type is 'hsnw' (did you mean 'hnsw'?); there are",
        ),
        (["evaluate", "--format", "klit"], "--format is 'klit' (did you mean 'kilt'?); there are cosup, kilt, alce"),
        (["generate", "--batch-size", "0"], "--batch-size is '0'; expected at least 1"),
        (["serve", "--port", "99999"], "--port is '99999'; expected at most 65535"),
        (["ask", "--max-new-tokens", "ten"], "--max-new-tokens is 'ten'; expected a whole number"),
        (["ask", "--min-score", "low"], "--min-score is 'low'; expected a number"),
        (["ask", "why?", "--top-k"], "--top-k has no value"),
        (["demo", "--port", "80"], "--port goes with --serve"),
        (["ask", "why?", "--model", "m", "--index", "i", "--seed", "3"], "--seed goes with --do-sample"),
        (
            ["generate", "--model", "m", "--index", "i", "--questions", "q", "--output", "o", "--beam-passages", "3"],
            "--beam-passages goes with --beam",
        ),
        (["index", "--output", "x", "--compact", "--index-type", "flat"], "--index-type does not go with --compact"),
        (["index", "--output", "x", "--delete", "ids", "--passages", "p"], "--passages does not go with --delete"),
        (
            ["index", "--output", "x", "--model", "m", "--passages", "p", "--add", "--vector-dtype", "float16"],
            "--vector-dtype does not go with --add",
        ),
        (["ask", "--dtype", "float16", "why?"], "--dtype"),
        (["train"], "RECIPE"),
        (["train", "a.yaml", "--seed"], "--seed has no value"),
        (["convert", "squat", "a", "b"], "did you mean 'squad'?"),
    ],
)
def test_bad_usage(cosup: Cosup, words: list[str], message: str) -> None:
    assert message in cosup.refused(*words)


def test_bad_settings_are_refused_before_anything_is_loaded(cosup: Cosup, tiny_world: TinyWorld) -> None:
    pair = ["ask", "--model", tiny_world.model, "--index", tiny_world.index]
    assert "top_p is 1.5" in cosup.refused(*pair, "--do-sample", "--top-p", "1.5", "why?")
    assert "temperature is -1.0" in cosup.refused(*pair, "--do-sample", "--temperature", "-1", "why?")
    assert "the question is empty" in cosup.refused(*pair, " ")
    assert "not UTF-8" in cosup.refused(*pair, "caf\udce9")
    assert "max_length is 9999" in cosup.refused(*pair, "--max-length", "9999", "why?")


def test_a_question_longer_than_the_context(cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path) -> None:
    pair = ["--model", tiny_world.model, "--index", tiny_world.index]
    assert "leaves room for" in cosup.refused("ask", *pair, "why " * 400)
    long = tmp_path / "q.jsonl"
    long.write_text('{"id": "a", "question": "x"}\n' + json.dumps({"id": "b", "question": "why " * 400}) + "\n")
    message = cosup.refused("generate", *pair, "--questions", long, "--output", tmp_path / "p.jsonl")
    assert f"{long}:2: question 'b' has" in message
    assert tree(tmp_path) == {"q.jsonl"}


def test_candidates_that_the_index_lacks(cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"id": "a", "question": "x", "candidates": ["nowhere"]}\n')
    words = ["generate", "--model", tiny_world.model, "--index", tiny_world.index, "--questions", path]
    assert f"{path}:1: no passage 'nowhere'" in cosup.refused(*words, "--output", tmp_path / "p.jsonl")


def test_wrong_data_is_named_by_file_and_line(cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"id": "a", "question": "x", "text": "x"}\n{"id": "b", \n')
    unknown = tmp_path / "unknown.jsonl"
    unknown.write_text('{"id": "a", "question": "x", "evidence": [{"passage_id": "nowhere"}]}\n')
    cited = {"n": 1, "passage_id": "nowhere", "claim": "x", "start": 0, "end": 1}
    asked = json.loads(tiny_world.questions.read_text(encoding="utf-8").splitlines()[0])["id"]
    lost = tmp_path / "lost.jsonl"
    lost.write_text('{"id": "a", "text": "x"}\n' + json.dumps({"id": asked, "text": "x", "citations": [cited]}) + "\n")
    given = ["--passages", tiny_world.passages, "--output", tmp_path / "out"]
    pair = ["--model", tiny_world.model, "--index", tiny_world.index]
    for words in (
        ["generate", *pair, "--questions", broken, "--output", tmp_path / "out"],
        ["index", "--model", tiny_world.model, "--passages", broken, "--output", tmp_path / "out"],
        ["evaluate", "--predictions", broken, "--questions", tiny_world.questions, *given],
        ["evaluate", "--predictions", broken, "--questions", broken, *given],
        ["info", broken],
        ["train", recipe(tiny_world, tmp_path), "--data.questions", broken],
    ):
        assert f"{broken}:2: wrong JSON" in cosup.refused(*words)
    for words in (
        ["evaluate", "--predictions", broken, "--questions", unknown, *given],
        ["train", recipe(tiny_world, tmp_path), "--data.questions", unknown],
    ):
        assert f"{unknown}:1: evidence of 'a' names the passage 'nowhere'" in cosup.refused(*words)
    message = cosup.refused("evaluate", "--predictions", lost, "--questions", tiny_world.questions, *given)
    assert f"{lost}:2: citations of '{asked}' names the passage 'nowhere'" in message
    assert tree(tmp_path) == {"broken.jsonl", "unknown.jsonl", "lost.jsonl", "recipe.yaml"}


def test_recipes_with_unknown_keys(cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path) -> None:
    path = recipe(tiny_world, tmp_path, objectiv={})
    assert "unknown key 'objectiv' (did you mean 'objective'?)" in cosup.refused("train", path)
    path = recipe(tiny_world, tmp_path)
    assert "unknown setting '--learning_rat' (did you mean 'learning_rate'?)" in cosup.refused(
        "train", path, "--learning_rat", "1"
    )
    assert "no folder" in cosup.refused("train", path, "--generator", tmp_path / "nothing")
    assert "no such recipe" in cosup.refused("train", tmp_path / "nothing.yaml")
    assert "cannot write to" in cosup.refused("train", path, "--output_dir", path)
    assert tree(tmp_path) == {"recipe.yaml"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--learning_rate=abc", "training.learning_rate is 'abc'; expected a number"),
        ("--bf16=maybe", "training.bf16 is 'maybe'; expected true or false"),
        ("--max_steps=2.5", "training.max_steps is 2.5; expected a whole number"),
        ("--seed=true", "training.seed is True; expected a whole number"),
        ("--nsp_weight=much", "objective.nsp_weight is 'much'; expected a number"),
        ("--data.max_length=0", "data.max_length is 0"),
        ("--lr_scheduler_type=foo", "foo"),
        ("--lr_scheduler_type=liner", "'liner' is none of SchedulerType (did you mean 'linear'?); there are "),
        ("--adapters=lroa", "adapters is 'lroa' (did you mean 'lora'?); expected 'lora' or a mapping"),
        ("--supervision=ntp+nps", "did you mean 'ntp+nsp'?"),
    ],
)
def test_recipe_values_of_the_wrong_kind(
    cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path, override: str, message: str
) -> None:
    assert message in cosup.refused("train", recipe(tiny_world, tmp_path), override)
    assert tree(tmp_path) == {"recipe.yaml"}


def test_every_setting_takes_its_own_default() -> None:
    from dataclasses import MISSING, fields

    from cosup.training.config import CoSupervisionConfig
    from cosup.training.recipe import known_keys, parse_recipe

    defaults = {f.name: f.default for f in fields(CoSupervisionConfig) if f.default is not MISSING}
    known = known_keys()
    parts = {part: {n: defaults[n] for n in known[part] if n in defaults} for part in ("training", "objective")}
    record = {"generator": "g", "embedder": "e", "data": {"passages": "p", "questions": "q"}, **parts}
    assert len(parse_recipe(record).training) > 50


def test_damaged_weights(cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path) -> None:
    shutil.copytree(tiny_world.model, tmp_path / "model")
    with (tmp_path / "model" / "generator" / "model.safetensors").open("r+b") as stream:
        stream.truncate(3000)
    message = cosup.refused("ask", "why?", "--model", tmp_path / "model", "--index", tiny_world.index)
    assert f"cannot load a model from '{tmp_path / 'model' / 'generator'}'" in message


def test_missing_and_mistaken_folders(cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path) -> None:
    nothing, ask = tmp_path / "nothing", ["ask", "why?"]
    assert "no such model folder" in cosup.refused(*ask, "--model", nothing, "--index", tiny_world.index)
    assert "no such index folder" in cosup.refused(*ask, "--model", tiny_world.model, "--index", nothing)
    assert "not a cosup model folder" in cosup.refused(*ask, "--model", tiny_world.base, "--index", tiny_world.index)
    part = tiny_world.model / "generator"
    assert f"say --model {tiny_world.model}" in cosup.refused(*ask, "--model", part, "--index", tiny_world.index)
    file = tiny_world.passages
    assert "a file; expected a model folder" in cosup.refused(*ask, "--model", file, "--index", tiny_world.index)
    above = tiny_world.model.parent
    assert f"say --model {tiny_world.model}" in cosup.refused(*ask, "--model", above, "--index", tiny_world.index)
    assert "no such file" in cosup.refused(
        "index", "--model", tiny_world.model, "--passages", nothing / "p.jsonl", "--output", tmp_path / "index"
    )
    assert tree(tmp_path) == set()


def test_an_index_of_another_embedder(cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path) -> None:
    save_pair(tmp_path / "other", tiny_world.base, similarity="inner_product")
    message = cosup.refused("ask", "why?", "--model", tmp_path / "other", "--index", tiny_world.index)
    assert "the index was made by embedder" in message


def test_outputs_that_are_something_else(cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    before = tree(tmp_path)
    given = ["--passages", tiny_world.passages, "--output"]
    generate = ["generate", "--model", tiny_world.model, "--index", tiny_world.index]
    generate += ["--questions", tiny_world.questions, "--output"]
    assert "it is a folder" in cosup.refused(*generate, tmp_path / "folder")
    assert "is a file" in cosup.refused(*generate, tmp_path / "file" / "p.jsonl")
    assert "mine.txt" in cosup.refused("index", "--model", tiny_world.model, *given, tmp_path / "folder")
    assert "it is a file" in cosup.refused("index", "--model", tiny_world.model, *given, tmp_path / "file")
    (tmp_path / "p.jsonl").write_text('{"id": "a", "text": "x"}\n')
    words = ["evaluate", "--predictions", tmp_path / "p.jsonl", "--questions", tiny_world.questions, *given]
    cosup.refused(*words, tmp_path / "file")
    assert tree(tmp_path) == before | {"p.jsonl"}
    assert (tmp_path / "file").read_text() == "mine"


def test_what_is_unforeseen_is_a_line_and_debug_shows_the_traceback(
    cosup: Cosup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("one\ntwo")

    monkeypatch.setattr("cosup.info.describe.describe", fail)
    assert "error: RuntimeError: one\n" in cosup.refused("info", tmp_path, code=1)
    for words in (["--debug", "info", tmp_path], ["info", tmp_path, "--debug"]):
        assert "Traceback" in cosup(*words).err
