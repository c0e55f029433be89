"""Words after a command that change keys of its file: `--learning_rate 1e-4`."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from cosup.errors import UsageError, did_you_mean

#: What typer is told of a command whose file's keys may follow it.
PASSES_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def option_words(context: typer.Context) -> list[str]:
    """Return the options of the command at hand, with which an override may be meant."""
    return [name for parameter in context.command.params for name in parameter.opts]


def split_overrides(
    words: Sequence[str], options: Sequence[str] = (), what: str = "recipe"
) -> tuple[str, list[tuple[str, str]]]:
    """Part the words after a command into its file and the `--key value` or `--key=value` overrides.

    Args:
        words: those that no option has taken.
        options: of the command, with which an override may be meant.
        what: the file is.

    Raises:
        UsageError: a key has no value, or there is not exactly one file.
    """
    rest, overrides, recipes = list(words), [], []
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            recipes.append(word)
            continue
        key, equals, value = word[2:].partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                if hint := did_you_mean(word, options):
                    raise UsageError(f"no such option: {word}{hint}")
                raise UsageError(f"--{key} has no value; expected --{key} VALUE (true or false for a switch)")
            value = rest.pop(0)
        overrides.append((key, value))
    if len(recipes) != 1:
        found = f"found {', '.join(recipes)}" if recipes else "found none"
        raise UsageError(f"expected one {what} and --key value pairs; {found}")
    return recipes[0], overrides
