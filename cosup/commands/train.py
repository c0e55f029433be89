"""`cosup train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cosup.commands.completing import yaml_files
from cosup.commands.overrides import split_overrides
from cosup.shell import Shell


def train(
    context: typer.Context,
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="A YAML file; --KEY VALUE pairs may follow.",
            show_default=False,
            autocompletion=yaml_files,
        ),
    ],
) -> None:
    """Train a pair as a recipe says.

    The same command goes on after an interruption.

    Every key of the recipe can be given another value: --learning_rate 1e-4, --data.max_length 512,
    --generator ./my-model, --output_dir runs/second. The names of Hugging Face's TrainingArguments work; the
    few that cosup cannot honour are refused.

    \b
    cosup train recipes/squad-smollm2.yaml --max_steps 300 --output_dir runs/short
    """
    from cosup.data.yaml_files import read_yaml

    shell: Shell = context.obj
    path, overrides = split_overrides([recipe, *context.args])
    read_yaml(Path(path), "recipe")  # what is none is told before torch is imported
    from cosup.info.base import Info
    from cosup.info.runs import run_figures
    from cosup.training.recipe import load_recipe

    loaded = load_recipe(path, overrides)
    with shell.progress("training", "steps") as report:
        from cosup.processes import rank
        from cosup.training.run import train as train_recipe

        model = train_recipe(loaded, report)
    if rank() > 0:
        return  # one process of a run speaks
    figures = tuple(run_figures(model.parent))
    for line in Info(f"trained: {model}", figures).lines:
        shell.note(line)
    shell.tell({"model": str(model), "figures": dict(figures)}, [str(model)])
