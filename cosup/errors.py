"""Errors that cosup raises on purpose.

CosupError                 anything that stops a command (exit code 1)
└── UsageError             wrong command line, recipe or setting, a place that cannot be written (exit code 2)
    └── InputError         wrong data; names the file and, where known, the line (exit code 2)

A message says what was received, where, and what to do, in one or two lines.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

LONGEST = 1500  # characters of a message
NOTICE = 25  # logging level of what a person should know and need not mend


class CosupError(Exception):
    """Something stopped the work; the message is meant for the person at the terminal.

    Of a message that repeats what is endless (a line without an end as a key) only both ends are kept.
    """

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        whole = len(message) <= LONGEST
        super().__init__(message if whole else f"{message[: LONGEST // 2]} .. {message[-LONGEST // 2 :]}")


class UsageError(CosupError):
    """A command line, recipe, setting or place to write to that cannot be used as it is; its user can mend it."""

    exit_code = 2


class InputError(UsageError):
    """Input data that cannot be used as it is.

    Args:
        message: what was found and what was expected.
        path: the file or folder, if known.
        line: its 1-based line, if known.
    """

    def __init__(self, message: str, path: str | Path | None = None, line: int | None = None) -> None:
        self.path = None if path is None else str(path)
        self.line = line
        where = "" if path is None else f"{path}:{line}: " if line is not None else f"{path}: "
        super().__init__(where + message)


NO_MODEL = "no such model folder; train one with 'cosup train' or 'cosup demo'"
NO_PAIR = "not a cosup model folder: it has no cosup.json"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the nearest of `known`, or an empty string."""
    near = difflib.get_close_matches(word[:100], list(known), n=1)  # takes the longer, the longer the word
    return f" (did you mean '{near[0]}'?)" if near else ""


def needs_extra(what: str, extra: str, package: str = "") -> str:
    """Return that something needs an extra of cosup's, and how to have it.

    >>> needs_extra("serving", "serve", "fastapi")
    "serving needs the extra 'serve' (fastapi is not installed): pip install 'cosup[serve]'"
    """
    lacks = f" ({package} is not installed)" if package else ""
    return f"{what} needs the extra '{extra}'{lacks}: pip install 'cosup[{extra}]'"
