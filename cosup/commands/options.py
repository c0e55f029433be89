"""Options that several commands have, and groups of options in the place of one parameter."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer


class Dtype(StrEnum):
    """Type of the weights in memory."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


Model = Annotated[Path, typer.Option("--model", help="Model folder, as 'cosup train' writes it.", show_default=False)]
Index = Annotated[
    str,
    typer.Option(
        "--index",
        help="Index folder, as 'cosup index' writes it; or a Milvus file NAME.db, or milvus://HOST:PORT/COLLECTION.",
        show_default=False,
    ),
]
DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="auto: bfloat16 where the device has it, else float32.")]


def given_options(context: typer.Context) -> dict[str, str]:
    """Return the options that the command line names, as they are written there, by parameter.

    A switch that is turned off is its second form: `--no-rouge`.
    """
    found = {}
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        if source is not None and not source.name.startswith("DEFAULT"):
            off = parameter.secondary_opts if context.params.get(name) is False else []
            found[name] = (off or parameter.opts)[0]
    return found


def with_group(name: str, options: Mapping[str, tuple[Any, Any]]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that puts options in the place of a command's parameter, which gets them as a mapping.

    Args:
        name: of the parameter.
        options: their types, annotated for typer, and their defaults.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return command(*args, **{name: {key: kwargs.pop(key) for key in options}}, **kwargs)

        hints = get_type_hints(command, include_extras=True)
        own = inspect.signature(command).parameters
        kept = [p.replace(annotation=hints.get(key, p.annotation)) for key, p in own.items() if key != name]
        more = [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for key, (kind, default) in options.items()
        ]
        wrapped.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in kept] + more, return_annotation=None
        )
        wrapped.__annotations__ = {p.name: p.annotation for p in [*kept, *more]}
        return wrapped

    return decorate
