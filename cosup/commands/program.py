"""The program: its global flags, its commands in the order of its help, and what runs one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from cosup.commands.answer import ask, generate
from cosup.commands.completing import Command
from cosup.commands.convert import convert
from cosup.commands.demo import demo
from cosup.commands.evaluate import evaluate
from cosup.commands.experiment import experiment
from cosup.commands.index import index
from cosup.commands.info import info
from cosup.commands.join import join
from cosup.commands.overrides import PASSES_ON
from cosup.commands.serve import serve
from cosup.commands.train import train
from cosup.shell import Shell, run
from cosup.version import __version__

EPILOG = "--quiet, --json, --no-color and --debug go with every command; 'cosup --help' explains them."

app = typer.Typer(
    help="""Train one language model to write and to retrieve, and answer questions with checkable citations.

    \b
    See it work (a few minutes on a CPU, no download):
      cosup demo
    From your own data to measured answers:
      cosup train recipe.yaml
      cosup index --model runs/train/model --passages passages.jsonl --output index
      cosup ask --model runs/train/model --index index "Who wrote it?"
      cosup generate --model runs/train/model --index index --questions questions.jsonl --output predictions.jsonl
      cosup evaluate --predictions predictions.jsonl --questions questions.jsonl --passages passages.jsonl --output out
    """,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


@app.callback(invoke_without_command=True)
def _globals(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and other libraries' warnings.")] = False,  # noqa: ARG001
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress and no notes; errors and warnings stay.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print results as one line of JSON.")] = False,
    plain: Annotated[bool, typer.Option("--no-color", help="No colours; so does the variable NO_COLOR.")] = False,
) -> None:
    shell = context.obj = Shell(quiet=quiet, as_json=as_json, plain=plain)
    if version:
        shell.tell({"version": __version__}, [f"cosup {__version__}"])
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


for _command in (demo, convert, train, join, index, ask, generate, evaluate, experiment, serve, info):
    _settings = PASSES_ON if _command in (train, experiment, info) else None
    app.command(cls=Command, context_settings=_settings, epilog=EPILOG)(_command)


def run_program(words: Sequence[str]) -> int:
    """Run a command line and return its exit code."""
    command = typer.main.get_command(app)
    main: Callable[..., Any] = command.main
    code = run(lambda arguments: main(arguments, prog_name="cosup", standalone_mode=False), words)
    if "torch.distributed" in sys.modules:
        from cosup.processes import leave

        leave(code)
    return code
