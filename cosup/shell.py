"""Around every command: the global flags, errors and warnings in a line, other libraries' chatter silenced.

Results go to standard output; errors, warnings, notes and progress to standard error. With `--json` a result is one
line of JSON, with `--quiet` nothing else is said but errors and warnings.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import os
import re
import select
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from cosup.console import Meter, progress, safe_text
from cosup.errors import NOTICE, CosupError, UsageError, did_you_mean
from cosup.mishaps import lost_device, out_of_memory

GLOBAL_FLAGS = ("--debug", "--quiet", "--json", "--no-color")
INTERRUPTED = 130  # as a shell says of a program that SIGINT ended
PIPE_CLOSED = 141  # SIGPIPE
_MENDABLE = (  # disks, permissions and paths
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
)
_GOES_ON = {
    "train": "its last checkpoint, if one was written",
    "index": "the parts that are finished",
    "generate": "the answers that are there",
    "evaluate": "what is finished",
    "experiment": "what is finished",
}
_LESS = "take fewer at once (--batch-size, --batch-tokens or micro_batch_tokens), shorter texts, or a smaller model"
_LONGEST_ERROR = 600  # characters of an error of other libraries
_QUIET_ENVIRONMENT = {  # read by the libraries when they are imported
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class _Console(Console):
    """Rich's, which leaves it to `run` what happens when nobody reads any more."""

    def on_broken_pipe(self) -> None:
        """Go on with the `BrokenPipeError` that is being handled."""
        raise


@dataclass(frozen=True)
class Shell:
    """Where a command writes to, and how.

    Attributes:
        quiet: no progress and no notes.
        as_json: results are JSON.
        plain: no colours, whatever the terminal can.
    """

    quiet: bool = False
    as_json: bool = False
    plain: bool = False

    @property
    def out(self) -> Console:
        """Standard output, for results."""
        return _Console(highlight=False, no_color=self.plain or None)

    @property
    def err(self) -> Console:
        """Standard error, for progress; writes nothing where `--quiet` was given."""
        return _Console(stderr=True, highlight=False, quiet=self.quiet, no_color=self.plain or None)

    def result(self, line: str = "") -> None:
        """Print a line of results as it is."""
        self.out.print(Text(line), soft_wrap=True)

    def tell(self, record: Mapping[str, Any], lines: Iterable[str]) -> None:
        """Print what a command found or made: a record where `--json` was given, else lines for people."""
        if self.as_json:
            self.record(record)
            return
        for line in lines:
            self.result(line)

    def record(self, record: Mapping[str, Any]) -> None:
        """Print one line of JSON; of ASCII alone where standard output is not UTF-8."""
        encoding = (sys.stdout.encoding or "").lower().replace("-", "")
        sys.stdout.write(json.dumps(record, ensure_ascii=encoding != "utf8", default=str) + "\n")
        sys.stdout.flush()

    def note(self, line: str) -> None:
        """Print a line that is good to know, unless `--quiet` was given."""
        self.err.print(Text(safe_text(line), style="dim"), soft_wrap=True)

    @contextlib.contextmanager
    def progress(self, description: str, unit: str) -> Iterator[Callable[[int, int, str], None]]:
        """Show progress while the block runs; it begins with the first report of `(done, total, note)`.

        What is done at the first report was done before this run.
        """
        with contextlib.ExitStack() as stack:
            meter: Meter | None = None

            def report(done: int, total: int, note: str = "") -> None:
                nonlocal meter
                if meter is None:
                    meter = stack.enter_context(progress(description, total, unit, first=done, console=self.err))
                meter.update(done, note or None)

            yield report


def run(command: Callable[[list[str]], Any], words: Sequence[str]) -> int:
    """Run a command line and return its exit code.

    0 done, 1 failed, 2 bad usage or input, 130 interrupted, 141 nobody reads what it writes (`cosup .. | head -1`).

    Args:
        command: takes the words of the command line, global flags first; returns an exit code or None.
        words: what was typed after the program's name.
    """
    ordered = globals_first(words)
    debug = "--debug" in ordered
    streams = _streams()
    try:
        with _library_warnings(quiet="--quiet" in ordered), _chatter_silenced(debug):
            code = command(ordered)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except SystemExit as ended:  # typer's: a completion is told, or a pipe is broken, whichever
        sys.stdout, sys.stderr = streams
        if isinstance(ended.__context__, BrokenPipeError):
            return _failed(ended.__context__, debug)
        code = ended.code
    except Exception as error:  # noqa: BLE001 - the last resort: whatever went wrong becomes a line and a code
        return _failed(error, debug)
    if code == INTERRUPTED:
        _complain([f"error: {_interrupted(ordered)}"])
    return code if isinstance(code, int) else 0


def globals_first(words: Sequence[str]) -> list[str]:
    """Move the global flags to the front, so that they may stand before or after the command."""
    end = words.index("--") if "--" in words else len(words)
    flags = [word for word in words[:end] if word in GLOBAL_FLAGS]
    return [*dict.fromkeys(flags), *(word for word in words[:end] if word not in GLOBAL_FLAGS), *words[end:]]


def _interrupted(words: Sequence[str]) -> str:
    """Say that a command was interrupted, and from where it goes on if it can."""
    command = next((word for word in words if not word.startswith("-")), "")
    kept = _GOES_ON.get(command)
    return f"interrupted; the same command goes on from {kept}" if kept else "interrupted"


def _failed(error: Exception, debug: bool) -> int:
    """Say what went wrong and return the exit code; nothing if nobody reads any more."""
    if isinstance(error, BrokenPipeError) and any([_is_left(sys.stdout), _is_left(sys.stderr)]):
        return PIPE_CLOSED
    if debug:
        traceback.print_exception(error)
    _complain(_lines_of(error))
    try:
        sys.stdout.flush()
    except OSError:  # a full disk: tried again as Python ends, it would change the code
        _to_nowhere(sys.stdout)
    return _code_of(error)


def _streams() -> tuple[TextIO, TextIO]:
    """Return standard output and error, which take any character: those that an encoding lacks are escaped.

    One that is closed goes nowhere.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - for as long as the program runs
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return sys.stdout, sys.stderr


def _is_left(stream: TextIO) -> bool:
    """Return whether a stream is a pipe that nobody reads any more; such a one goes nowhere from now on."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
    except (AttributeError, OSError, ValueError):  # no system with polling, or no stream of the system
        return False
    left = any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    if left:
        _to_nowhere(stream)
    return left


def _to_nowhere(stream: TextIO) -> None:
    """Let what is still in a stream's buffer, and all that follows, go nowhere."""
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def _lines_of(error: Exception) -> list[str]:
    """Say in one or two lines what went wrong."""
    if isinstance(error, CosupError):
        return [f"error: {_one_line(str(error))}"]
    if hasattr(error, "format_message"):
        return _usage_lines(error)
    if told := out_of_memory(error):
        return [f"error: {told}", _LESS]
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f": {error.filename}"
        return [f"error: {error.strerror}{where}"]
    if told := lost_device(error):
        return [f"error: the device failed: {_one_line(told)}", "what was finished is kept; run the same command again"]
    first = next((line for line in str(error).splitlines() if line.strip()), "no message")
    return [
        f"error: {type(error).__name__}: {_one_line(first)[:_LONGEST_ERROR]}",
        "this was not foreseen; run again with --debug for the traceback",
    ]


def _usage_lines(error: Any) -> list[str]:
    """Say what typer found wrong with the command line."""
    message = _one_line(error.format_message())
    context, option, hint = getattr(error, "ctx", None), getattr(error, "option_name", None), ""
    if isinstance(option, str) and "No such option" in message:
        message, hint = f"no such option: {option}", did_you_mean(option, _options(context))
    elif isinstance(option, str) and "requires an argument" in message:
        message = f"{option} has no value"
    message = _choices_told(_value_told(error) or message)
    help_line = [] if context is None else [f"run '{context.command_path} --help' for its usage"]
    return [f"error: {message}{hint}", *help_line]


_EXPECTED = {  # pydantic's kind of error -> what was expected
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
}


def _value_told(error: Any) -> str | None:
    """Say of a value that is no number, or out of its range, what it is and what was expected."""
    told = getattr(error.__cause__ or error.__context__, "errors", None)
    option = next(iter(getattr(getattr(error, "param", None), "opts", [])), None)
    found = told()[0] if callable(told) and option else {}
    if found.get("type") not in _EXPECTED:
        return None
    return f"{option} is '{found['input']}'; expected {_EXPECTED[found['type']].format(**found.get('ctx', {}))}"


def _choices_told(message: str) -> str:
    """Say of a choice that is none which was meant and what there are; other messages stay."""
    found = re.fullmatch(r"Invalid value for '(.*?)': (?:Value error, )?'(.*)' is not one of (.*?)\.?", message)
    if found is None:
        return message
    option, given, rest = found.groups()
    choices = re.findall("'([^']*)'", rest)
    return f"{option} is '{given}'{did_you_mean(given, choices)}; there are {', '.join(choices)}"


def _options(context: Any) -> list[str]:
    if context is None:
        return []
    return [name for parameter in context.command.params for name in parameter.opts if name.startswith("-")]


def _code_of(error: Exception) -> int:
    code = getattr(error, "exit_code", None)
    if (isinstance(error, OSError) and error.errno in _MENDABLE) or out_of_memory(error):
        return UsageError.exit_code
    return code if isinstance(code, int) else 1


def _complain(lines: Sequence[str]) -> None:
    for line in lines:
        sys.stderr.write(safe_text(line) + "\n")
    sys.stderr.flush()


def _one_line(text: str) -> str:
    return " ".join(text.split())


class _WarningLines(logging.Handler):
    """Prints records as `warning: ...`, notices as they are."""

    def emit(self, record: logging.LogRecord) -> None:
        begin = "warning: " if record.levelno >= logging.WARNING else ""
        _complain([begin + _one_line(record.getMessage())])


@contextlib.contextmanager
def _library_warnings(quiet: bool) -> Iterator[None]:
    """Show the warnings that cosup logs, and unless `quiet` its notices."""
    least = logging.WARNING if quiet else NOTICE
    logger, handler = logging.getLogger("cosup"), _WarningLines(least)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(least)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextlib.contextmanager
def _chatter_silenced(debug: bool) -> Iterator[None]:
    """Keep other libraries' warnings and logs out of the terminal, unless in debugging."""
    if debug:
        yield
        return
    for name, value in _QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    root, silence = logging.getLogger(), logging.NullHandler()
    root.addHandler(silence)  # without any handler, logging itself prints warnings
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")
            yield
    finally:
        root.removeHandler(silence)
