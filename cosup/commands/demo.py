"""`cosup demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cosup.commands.loading import load_pair
from cosup.commands.options import Dtype, check_together
from cosup.shell import Shell


def demo(
    context: typer.Context,
    output: Annotated[Path, typer.Option("--output", help="Folder for model, index, predictions and report.")] = Path(
        "runs/demo"
    ),
    seed: Annotated[int, typer.Option("--seed", help="Of the made-up corpus and of training.")] = 0,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also train with separate supervision and show both.")
    ] = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="Then serve it; a demo that is there already is served at once.")
    ] = False,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Of --serve; 0 takes a free one.")] = 8000,
) -> None:
    """Train, index, ask and measure a small pair.

    On a made-up corpus, without any download: a progress bar, a table of measures over 500+ held-out questions, and
    three answers with their citations.

    \b
    cosup demo
    cosup demo --output runs/demo --compare
    cosup demo --serve    # and a page to ask on
    """
    shell: Shell = context.obj
    check_together(context, {"serve": {"port"}})
    if not serve:
        report = _run_demo(shell, output, seed, compare)
        if shell.as_json:
            shell.record(report)
        return
    from cosup import serve as serving
    from cosup.generation.settings import GenerationSettings

    serving.check_installed()
    places = (output / "model", str(output / "index"))
    if not ((places[0] / "cosup.json").is_file() and (output / "report.json").is_file()):
        _run_demo(shell, output, seed, compare)
    listening = serving.Listening(port=port, name="demo")
    load = lambda folder: load_pair(folder, Dtype.auto)  # noqa: E731
    serving.serve(shell, places, GenerationSettings(), listening, load, opens=True)


def _run_demo(shell: Shell, output: Path, seed: int, compare: bool) -> dict[str, Any]:
    """Run the demo, drawn unless JSON is asked for; return its report."""
    from cosup.demo import run_demo

    drawn = Console(quiet=True) if shell.as_json else shell.out
    return run_demo(output, seed, compare, console=drawn, notes=shell.err)
