"""Errors in a line, flags anywhere, silence of others."""

from __future__ import annotations

import errno
import logging
import warnings
from collections.abc import Callable

import pytest

from cosup.errors import CosupError, InputError
from cosup.shell import INTERRUPTED, globals_first, run


def raising(error: BaseException) -> Callable[[list[str]], None]:
    def command(words: list[str]) -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (CosupError("it broke"), 1, ["error: it broke"]),
        (InputError("wrong", "a.jsonl", 3), 2, ["error: a.jsonl:3: wrong"]),
        (CosupError("two\nlines"), 1, ["error: two lines"]),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 2, ["error: No space left on device: /x"]),
        (PermissionError(errno.EACCES, "Permission denied", "/y"), 2, ["error: Permission denied: /y"]),
        (
            MemoryError(),
            2,
            [
                "error: out of memory",
                "take fewer at once (--batch-size, --batch-tokens or micro_batch_tokens), shorter texts, or a smaller "
                "model",
            ],
        ),
        (
            RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be ..."),
            1,
            [
                "error: the device failed: CUDA error: unspecified launch failure",
                "what was finished is kept; run the same command again",
            ],
        ),
        (
            ValueError("\n\nbad\nand more"),
            1,
            ["error: ValueError: bad", "this was not foreseen; run again with --debug for the traceback"],
        ),
    ],
)
def test_an_error_is_a_line_and_a_code(
    error: Exception, code: int, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(raising(error), []) == code
    captured = capsys.readouterr()
    assert captured.err.splitlines() == lines
    assert captured.out == ""


def test_an_interruption_is_130_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(raising(KeyboardInterrupt()), []) == 130
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("error", [CosupError("it broke"), ValueError("bad")])
def test_debug_shows_the_traceback(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    run(raising(error), ["--debug"])
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_escape_sequences_in_an_error_stay_text(capsys: pytest.CaptureFixture[str]) -> None:
    run(raising(CosupError("found \x1b[2J")), [])
    assert "\x1b" not in capsys.readouterr().err


def test_global_flags_may_stand_anywhere_before_a_double_dash() -> None:
    assert globals_first(["ask", "--quiet", "q", "--debug"]) == ["--quiet", "--debug", "ask", "q"]
    assert globals_first(["ask", "--", "--debug"]) == ["ask", "--", "--debug"]


def test_warnings_of_cosup_are_shown_and_those_of_others_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    def command(words: list[str]) -> None:
        logging.getLogger("cosup.training").warning("cut to %d tokens", 5)
        logging.getLogger("accelerate").warning("chatter")
        warnings.warn("more chatter", UserWarning, stacklevel=1)

    assert run(command, []) == 0
    assert capsys.readouterr().err == "warning: cut to 5 tokens\n"
    logging.getLogger("cosup").warning("nobody listens any more")
    assert "warning:" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--json", "train", "recipe.yaml"], "; the same command goes on from its last checkpoint, if one was written"),
        (["demo"], ""),
        ([], ""),
    ],
)
def test_an_interrupted_command_promises_no_more_than_it_keeps(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(raising(KeyboardInterrupt()), words) == INTERRUPTED
    assert capsys.readouterr().err == f"error: interrupted{told}\n"
