"""Terminals, pipes and files: who gets what, in which form; and what a shell offers at TAB."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import pytest

from cosup.cli import main
from cosup.shell import PIPE_CLOSED
from tests.commands import TOY_DEMO, Cosup
from tests.pairs import TinyWorld

COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[1-7]|9[0-7])[;m]")


@pytest.fixture
def no_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what the environment of a command does before transformers is imported; here it is imported long since."""
    monkeypatch.setattr("transformers.utils.logging._tqdm_active", False)


def pair(world: TinyWorld) -> list[object]:
    return ["--model", world.model, "--index", world.index, "--ret-first", "--max-new-tokens", "4"]


# -- JSON, quiet, colours ------------------------------------------------------------------------------------------


def test_with_json_a_result_is_one_line_of_json_and_quiet_leaves_nothing_else(
    cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path, no_bars: None
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("# Lanterns\n\nA lantern was lost.\n", encoding="utf-8")
    corpus = tmp_path / "data" / "passages.jsonl"

    def told(*words: object) -> Any:
        done = cosup(*words, "--json", "--quiet")
        assert (done.code, done.err, done.out.count("\n")) == (0, "", 1), done.err
        return json.loads(done.out)

    converted = told("convert", "folder", tmp_path / "notes", tmp_path / "data")
    assert converted == {"written": {str(corpus): 1}, "skipped": {}, "noted": {}, "replaced": []}
    made = told("index", "--model", tiny_world.model, "--passages", corpus, "--output", tmp_path / "index")
    assert made == {"index": str(tmp_path / "index"), "passages": 1}
    answer = told("ask", *pair(tiny_world), "Who?")
    assert answer["question"] == "Who?"
    predictions = tmp_path / "p.jsonl"
    asked = ["--questions", tiny_world.questions, "--output", predictions]
    assert told("generate", *pair(tiny_world), *asked) == {"predictions": str(predictions), "count": 12}
    given = ["--predictions", predictions, "--questions", tiny_world.questions, "--passages", tiny_world.passages]
    report = told("evaluate", *given, "--output", tmp_path / "report")
    assert report == json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    found = told("info", corpus)
    assert (found["path"], found["kind"], found["rows"][0]) == (str(corpus), "passages", ["passages", "1"])
    joined = told(
        *["join", "--generator", tiny_world.base, "--embedder", tiny_world.base, "--query", "text"],
        *["--output", tmp_path / "joined"],
    )
    assert joined["model"] == str(tmp_path / "joined")
    assert joined["settings"]["pooling"].startswith("last")


@pytest.mark.slow
def test_the_demo_tells_its_report_as_json(
    cosup: Cosup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_bars: None
) -> None:
    monkeypatch.setattr("cosup.demo.DemoSettings", lambda: TOY_DEMO)
    done = cosup("demo", "--output", tmp_path / "demo", "--json", "--quiet")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == json.loads((tmp_path / "demo" / "report.json").read_text(encoding="utf-8"))


def test_results_and_the_rest_go_apart_and_neither_has_escape_codes(
    cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path
) -> None:
    given = ["--passages", tiny_world.passages, "--output", tmp_path / "index"]
    done = cosup("index", "--model", tiny_world.model, *given)
    assert done.out == f"{tmp_path / 'index'}  40 passages\n"
    assert "indexing: 40/40 passages" in done.err
    answered = cosup("ask", *pair(tiny_world), "Where?")
    for text in (done.out, done.err, answered.out, answered.err):
        assert not set(text) & {"\x1b", "\r", "\b"}


@pytest.mark.parametrize("way", ["flag", "variable"])
def test_colours_can_be_turned_off(
    cosup: Cosup, tiny_world: TinyWorld, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in a terminal
    monkeypatch.setenv("TERM", "xterm-256color")
    assert COLOUR.search(cosup("ask", *pair(tiny_world), "Where?").out)
    if way == "variable":
        monkeypatch.setenv("NO_COLOR", "1")
    done = cosup("ask", *pair(tiny_world), "Where?", *(["--no-color"] if way == "flag" else []))
    assert "[1]" in done.out
    assert not COLOUR.search(done.out)


# -- pipes and interruptions ---------------------------------------------------------------------------------------


def started(*words: object, **more: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cosup", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


@pytest.mark.parametrize("words", [["--help"], ["info"], ["info", "--json"]])
def test_a_reader_that_goes_away_ends_it_silently(words: list[str], tiny_world: TinyWorld) -> None:
    """As in `cosup .. | head -1`."""
    if words[0] == "info":
        words = [*words, str(tiny_world.passages)]
    with started(*words) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == PIPE_CLOSED


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_results_that_cannot_be_written_are_an_error(tiny_world: TinyWorld) -> None:
    command = [sys.executable, "-m", "cosup", "info", str(tiny_world.passages), "--json"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: No space left on device\n")


def test_an_interruption_is_one_line_and_130(tmp_path: Path) -> None:
    """While a file is read that never ends: a pipe that nobody writes to."""
    os.mkfifo(tmp_path / "passages.jsonl")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
    try:
        process = started("info", tmp_path / "passages.jsonl")
    finally:
        signal.signal(signal.SIGINT, before)
    with process, (tmp_path / "passages.jsonl").open("w"):  # which waits until the command reads it
        time.sleep(0.5)  # until it waits for what is written
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err == "error: interrupted\n"


class Interrupting(MetaPathFinder):
    """A user who presses Ctrl-C while the program is being imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "cosup.commands.program":
            raise KeyboardInterrupt


def test_an_interruption_at_the_very_start_is_one_line_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    importlib.import_module("cosup.commands.program")
    monkeypatch.delitem(sys.modules, "cosup.commands.program")
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    assert main(["--help"]) == 130
    assert capsys.readouterr() == ("", "error: interrupted\n")


@pytest.mark.parametrize("given", [None, "active"])
def test_threads_sleep_while_they_wait_unless_told_otherwise(given: str | None, tiny_world: TinyWorld) -> None:
    """Before torch is imported, which reads it once; `OMP_DISPLAY_ENV` makes OpenMP say what it goes by."""
    own = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | {"OMP_DISPLAY_ENV": "TRUE"}
    own |= {} if given is None else {"OMP_WAIT_POLICY": given}
    words = [sys.executable, "-m", "cosup", "info", str(tiny_world.model)]
    done = subprocess.run(words, env=own, capture_output=True, text=True, check=True)
    told = {line.split("=")[1].strip(" '") for line in done.stderr.splitlines() if "OMP_WAIT_POLICY" in line}
    assert told == {(given or "passive").upper()}


def test_no_output_at_all_is_no_error(tiny_world: TinyWorld) -> None:
    """As in `cosup .. >&- 2>&-`."""
    script = '"$0" -m cosup info "$1" >&- 2>&-'
    done = subprocess.run(["sh", "-c", script, sys.executable, str(tiny_world.passages)], check=False)
    assert done.returncode == 0


# -- completion ----------------------------------------------------------------------------------------------------


def offered(cosup: Cosup, monkeypatch: pytest.MonkeyPatch, line: str) -> list[str]:
    """Return what bash is offered at the end of a line."""
    words = line.split(" ")
    monkeypatch.setenv("_COSUP_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    done = cosup()
    assert (done.code, done.err) == (0, "")
    return done.out.split()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("cosup tra", ["train"]),
        ("cosup convert sq", ["squad"]),
        ("cosup convert kilt", ["kilt", "kilt-knowledge", "kilt-submission"]),
        ("cosup index --index-type h", ["hnsw"]),
        ("cosup info --ver", ["--verify"]),
        ("cosup info --verify --js", ["--json"]),
        ("cosup --quiet train recipes/squad-s", ["squad-shared", "squad-smollm2", "squad-stream"]),
        ("cosup experiment recipes/experiments/m", ["recipes/experiments/main.yaml"]),
        ("cosup evaluate --suite recipes/su", ["analyses", "paper", "twelve-sets"]),
        ("cosup train nowhere/", []),
        ("cosup index --model ru", []),
    ],
)
def test_a_shell_is_offered(cosup: Cosup, monkeypatch: pytest.MonkeyPatch, line: str, words: list[str]) -> None:
    """Commands, formats, choices, flags of the command and the program, recipes; else nothing, and it offers files."""
    found = offered(cosup, monkeypatch, line)
    assert [Path(word).stem if word.startswith("recipes/s") else word for word in found] == words


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_offered_the_same(cosup: Cosup, monkeypatch: pytest.MonkeyPatch, shell: str) -> None:
    monkeypatch.setenv("_COSUP_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "cosup convert sq")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    done = cosup()
    assert (done.code, "squad" in done.out) == (0, True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_with_the_script_that_is_shown(tmp_path: Path) -> None:
    program = tmp_path / "cosup"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m cosup "$@"\n')
    program.chmod(0o755)
    script = """
        eval "$(cosup --show-completion)"
        COMP_WORDS=(cosup convert sq) COMP_CWORD=2
        _cosup_completion cosup convert sq
        echo "${COMPREPLY[@]}"
    """
    paths = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True, env={**os.environ, **paths}
    )
    assert (done.stdout, done.stderr) == ("squad\n", "")


@pytest.mark.parametrize(
    ("shell", "place"),
    [
        ("bash", ".bash_completions/cosup.sh"),
        ("zsh", ".zfunc/_cosup"),
        ("fish", ".config/fish/completions/cosup.fish"),
    ],
)
def test_completion_is_installed_for_the_shell_at_hand(
    cosup: Cosup, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shell: str, place: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("shellingham.detect_shell", lambda *_: (shell, f"/bin/{shell}"))
    done = cosup("--install-completion")
    assert (done.code, done.err) == (0, "")
    assert str(tmp_path / place) in done.out
    assert "_COSUP_COMPLETE" in (tmp_path / place).read_text(encoding="utf-8")
