"""Names that scripts use are frozen; every help text has examples, and every example can be run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer

from cosup.commands.overrides import split_overrides
from cosup.commands.program import app
from cosup.data.convert import FORMATS
from cosup.errors import UsageError
from cosup.version import __version__
from tests.commands import Cosup

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "demo": "--compare --help --output --port --seed --serve",
    "convert": "--gold --help --passages FORMAT IN OUT",
    "train": "--help RECIPE",
    "join": """--ce-token --cs-token --embedder --generator --help --max-length --max-passage-length --output
        --passage-prompt --pooling --prompt --query --query-prompt --ret-token --similarity""",
    "index": """--add --batch-tokens --compact --delete --dtype --help --index-type --model --output --passages
        --replace --vector-dtype""",
    "ask": """--beam --beam-passages --ctx-truncate --distinct --do-sample --dtype --filter --help --index
        --max-length --max-new-tokens --max-retrievals --min-score --model --passage-prompt --query-prompt
        --query-text --read --ret-first --retriever --seed --temperature --top-k --top-p QUESTION""",
    "generate": """--batch-size --beam --beam-passages --ctx-truncate --distinct --do-sample --dtype --filter
        --help --index --max-length --max-new-tokens --max-retrievals --min-score --model --output
        --passage-prompt --query-prompt --query-text --questions --read --ret-first --retriever --seed
        --temperature --top-k --top-p""",
    "evaluate": """--against --at-most-citations --citations --claims --dtype --format --gold --help --judge
        --judge-cache --judge-key-variable --judge-label --judge-parallel --judge-threshold --judge-timeout --mauve
        --model --no-qampari --no-rouge --output --passages --predictions --qampari --questions --rouge --suite""",
    "experiment": "--dtype --help --plan --records --scale EXPERIMENT",
    "serve": """--admin-keys --api-keys --batch-size --beam --beam-passages --cors --ctx-truncate --distinct
        --do-sample --dtype --filter --grace --help --host --index --max-body --max-length --max-new-tokens
        --max-retrievals --max-tokens --min-score --model --name --port --queue --read --ret-first --seed
        --temperature --timeout --top-k --top-p""",
    "info": "--devices --examples --help --verify PATH",
}
GLOBALS = "--debug --help --install-completion --json --no-color --quiet --show-completion --version"


def program() -> Any:
    return typer.main.get_command(app)


def parameter_names(command: Any) -> list[str]:
    options = (p.opts if p.param_type_name == "option" else [p.metavar] for p in command.params)
    names = {name for opts in options for name in opts if name != "-h"}
    names |= {name for p in command.params for name in p.secondary_opts}
    return sorted(names | {"--help"})


def examples() -> list[list[str]]:
    """Return the words of every example in the help of the program and its commands, without what is a comment."""
    commands = program().commands.values()
    texts = [program().help or "", *(command.help or "" for command in commands)]
    lines = "\n".join(texts).replace("\\\n", " ").splitlines()
    found = (re.fullmatch(r"\s*(?:[A-Z_]+=\S+ |torchrun .* -m )?(cosup .*)", line) for line in lines)
    return [shlex.split(match.group(1), comments=True)[1:] for match in found if match]


def test_commands_and_flags_are_frozen() -> None:
    """A name that a script may use goes or changes only on purpose: here, and in the change log."""
    found = {name: parameter_names(command) for name, command in program().commands.items()}
    assert found == {name: words.split() for name, words in COMMANDS.items()}
    assert parameter_names(program()) == GLOBALS.split()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_examples(cosup: Cosup, command: str) -> None:
    done = cosup(command, "--help")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"Usage: cosup {command}")
    assert re.search(rf"^ +(\S+ )*cosup {command}\b", done.out, flags=re.MULTILINE)
    assert "--quiet, --json, --no-color and --debug go with every command" in done.out


@pytest.mark.parametrize("words", examples(), ids=" ".join)
def test_every_example_is_a_command_line(words: list[str]) -> None:
    """Its options are there and take their values, its files of this repository too, and their keys."""
    name, *rest = words
    flags = [word for word in rest if word != "--json"]
    context = program().commands[name].make_context(name, flags)
    if name == "convert":
        assert context.params["format_name"] in FORMATS
    if name == "train" or (name == "info" and context.args):
        from cosup.training.recipe import load_recipe

        path, overrides = split_overrides([context.params["recipe" if name == "train" else "path"], *context.args])
        if path != "recipe.yaml":  # a user's own
            load_recipe(ROOT / path, overrides)
    if name == "experiment":
        assert (ROOT / context.params["path"]).is_file()
    if context.params.get("suite"):
        assert (ROOT / context.params["suite"]).is_file()


def test_an_example_that_is_wrong_would_be_seen() -> None:
    with pytest.raises(Exception, match=r"(?i)no such option"):
        program().commands["index"].make_context("index", ["--modle", "x", "--output", "y"])
    with pytest.raises(UsageError, match="has no value"):
        split_overrides(["recipes/squad-smollm2.yaml", "--max_steps"])


def test_the_examples_of_the_program_are_seen() -> None:
    assert len(examples()) > 30
    assert {words[0] for words in examples()} == set(COMMANDS)


def test_the_help_of_convert_names_every_format(cosup: Cosup) -> None:
    shown = re.sub(r"-\n\s+", "-", cosup("convert", "--help").out)
    words = re.findall(r"[\w-]+", shown)
    assert set(FORMATS) <= set(words)


def test_help_is_quick_and_version_is_printed(cosup: Cosup) -> None:
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "cosup", "--help"], capture_output=True, text=True, check=True)
    assert time.perf_counter() - begun < 5  # under a second on an idle machine
    assert all(f"  {command} " in done.stdout for command in COMMANDS)
    assert cosup("--version").out == f"cosup {__version__}\n"
    assert cosup("--version", "--json").out == f'{{"version": "{__version__}"}}\n'


def test_no_command_shows_the_help_and_is_an_error(cosup: Cosup) -> None:
    done = cosup()
    assert done.code == 2
    assert "Commands:" in done.out


@pytest.mark.parametrize("width", [20, 40])
def test_a_narrow_terminal_gets_the_whole_help(cosup: Cosup, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Examples keep their lines, so that they can be copied; nothing else is lost."""
    monkeypatch.setenv("COLUMNS", str(width))
    for command in COMMANDS:
        done = cosup(command, "--help")
        assert done.code == 0
        assert set(COMMANDS[command].split()) <= set(re.findall(r"[\w-]+", done.out)) | {"OUT", "IN"}
