"""Lines of a JSONL file with their places, so that a line can be found again without reading those before it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from cosup.data import jsonl
from cosup.data.paths import looked_up
from cosup.errors import InputError

_BOM = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """A line that is not blank.

    Attributes:
        number: its 1-based number; blank lines count.
        offset: the byte at which it begins.
        data: its bytes, without the line end and without a byte-order mark.
    """

    number: int
    offset: int
    data: bytes


def iter_lines(path: str | Path, offset: int = 0, number: int = 1) -> Iterator[Line]:
    """Yield the lines of a file that are not blank, from the line at byte `offset`, whose number is `number`.

    Raises:
        InputError: the file cannot be read, or a line is longer than 16 MiB.
    """
    if looked_up(path).is_dir():
        raise InputError("found a folder; expected a JSONL file", path)
    try:
        with Path(path).open("rb") as stream:
            stream.seek(offset)
            while data := stream.readline(jsonl.MAX_LINE_BYTES + 1):
                if len(data) > jsonl.MAX_LINE_BYTES:
                    limit = f"at most {jsonl.MAX_LINE_BYTES:,} bytes a line, one JSON object each"
                    raise InputError(f"found a longer line; expected {limit}", path, number)
                found = Line(number, offset, (data if offset else data.removeprefix(_BOM)).rstrip(b"\r\n"))
                if found.data.strip():
                    yield found
                offset += len(data)
                number += 1
    except FileNotFoundError:
        raise InputError("no such file; expected a JSONL file", path) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", path) from error


@contextmanager
def located(path: str | Path, number: int, unit: str = "line") -> Iterator[None]:
    """Put file and place into an `InputError` of the block that names no file.

    Args:
        path: where the record comes from.
        number: of the record.
        unit: what the numbers count: `line`, or `row` in a table.
    """
    try:
        yield
    except InputError as error:
        if error.path is not None:
            raise
        at_line = number if unit == "line" else None
        raise InputError(f"{error}" if at_line else f"{unit} {number}: {error}", path, at_line) from None
