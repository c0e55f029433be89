"""`cosup experiment`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cosup.commands.completing import yaml_files
from cosup.commands.loading import load_pair, model_folder
from cosup.commands.options import Dtype, DtypeOption
from cosup.commands.overrides import option_words, split_overrides
from cosup.shell import Shell


def experiment(
    context: typer.Context,
    path: Annotated[
        str, typer.Argument(metavar="EXPERIMENT", help="A YAML file.", show_default=False, autocompletion=yaml_files)
    ],
    scale: Annotated[
        str | None, typer.Option("--scale", help="One of the file's scales.  [default: the whole experiment]")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what is done and what is to do, and stop.")] = False,
    records: Annotated[
        Path | None,
        typer.Option("--records", help="Folder of records: finished ones are taken from there, new ones put there."),
    ] = None,
    dtype: DtypeOption = Dtype.auto,
) -> None:
    """Compare systems: train, answer, measure, print the tables.

    What is done is never done again, and the same command goes on after an interruption: every training and every
    measurement lies in a folder named by what it is made from. Any key of the recipe can follow, for every system that
    does not set it itself.

    \b
    cosup experiment recipes/experiments/main.yaml --plan
    cosup experiment recipes/experiments/main.yaml --scale cpu --generator models/mine --embedder models/mine
    """
    from cosup.data.yaml_files import read_yaml

    shell: Shell = context.obj
    file, overrides = split_overrides([path, *context.args], option_words(context), "experiment")
    read_yaml(Path(file), "experiment")  # what is none is told before torch is imported
    from cosup import experimenting

    precision = None if dtype is Dtype.auto else dtype.value
    chosen = experimenting.Chosen(Path(file), scale, overrides, records, precision)
    if plan:
        experimenting.show_plan(shell, chosen)
    else:
        experimenting.run(shell, chosen, lambda model: load_pair(model_folder(model), dtype))
