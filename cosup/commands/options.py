"""Options that several commands have, and groups of options in the place of one parameter."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from cosup.errors import UsageError


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
        help="Index folder, as 'cosup index' writes it; or a Milvus file NAME.db, or milvus://HOST:PORT/NAME.",
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


def check_options(context: typer.Context, where: str, known: Collection[str]) -> None:
    """Refuse options that the command line names and that would do nothing.

    Args:
        context: of the command.
        where: what was asked for, in the command's own words.
        known: parameters that are looked at there.

    Raises:
        UsageError: names the first of the others.
    """
    wrong = sorted(word for name, word in given_options(context).items() if name not in known)
    if wrong:
        raise UsageError(f"{wrong[0]} does not go with {where}; run '{context.command_path} --help'")


def check_together(context: typer.Context, needed: Mapping[str, Collection[str]]) -> None:
    """Refuse options that do nothing without another one.

    Args:
        context: of the command.
        needed: a parameter -> those that say something only beside it.

    Raises:
        UsageError: names the first of them, and what it goes with.
    """
    given, words = given_options(context), {str(p.name): p.opts[0] for p in context.command.params}
    for name, others in needed.items():
        alone = sorted(given[other] for other in others if other in given)
        if alone and name not in given:
            raise UsageError(f"{alone[0]} goes with {words[name]}; run '{context.command_path} --help'")


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
