"""`cosup info`."""

from __future__ import annotations

from typing import Annotated

import typer

from cosup.commands.overrides import option_words, split_overrides
from cosup.shell import Shell


def info(
    context: typer.Context,
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="A model, index, run, results or data folder, an index in Milvus, a recipe, or a data file.",
            show_default=False,
        ),
    ],
    devices: Annotated[int | None, typer.Option(min=1, help="Of a recipe: plan for so many devices.")] = None,
    examples: Annotated[int | None, typer.Option(min=1, help="Of a recipe: training examples, not counted.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare every byte of an index folder with its checksums.")
    ] = False,
) -> None:
    """Say what a path holds.

    Counts, lengths, parameters, fingerprints, settings, figures. The files of a small index are compared with their
    checksums; with --verify those of any, but not of one in Milvus. Of a recipe, also what training will take:
    parameters, memory of a device and steps, worked out without loading weights; --KEY VALUE pairs give settings
    other values, as for 'cosup train'.

    \b
    cosup info runs/demo/index --verify
    cosup info recipes/squad-smollm2.yaml --devices 8 --max_length 512
    """
    from cosup.index.milvus_place import shown_place
    from cosup.info.describe import describe

    shell: Shell = context.obj
    given, overrides = split_overrides([path, *context.args], option_words(context)) if context.args else (path, [])
    found = describe(given, devices, examples, verify, overrides)
    shell.tell({"path": shown_place(given), "kind": found.kind, "rows": found.rows}, found.lines)
