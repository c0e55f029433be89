"""Strict JSON from files: a line at a time or whole; every error names the file and the line."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from cosup.data.paths import looked_up
from cosup.errors import InputError

MAX_LINE_BYTES = 16 * 2**20
_BOM = b"\xef\xbb\xbf"


def iter_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield `(line number from 1, object)` for each line of a UTF-8 JSONL file, skipping blank lines.

    A byte-order mark, Windows line ends and a file compressed as `.gz` are accepted. Memory stays bounded: a line
    longer than 16 MiB is refused without being read whole.

    Raises:
        InputError: the file cannot be read, or a line is not a JSON object in UTF-8.
    """
    for number, line in enumerate(_lines(Path(path)), start=1):
        if line.strip():
            yield number, parse_object(line.rstrip(b"\r\n"), path, number)


def _lines(path: Path) -> Iterator[bytes]:
    if looked_up(path).is_dir():
        raise InputError("found a folder; expected a JSONL file", path)
    number = 0
    try:
        with _open(path) as stream:
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    limit = f"at most {MAX_LINE_BYTES:,} bytes a line, one JSON object each"
                    raise InputError(f"found a longer line; expected {limit}", path, number)
                yield line.removeprefix(_BOM) if number == 1 else line
    except FileNotFoundError:
        raise InputError("no such file; expected a JSONL file", path) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"cannot be decompressed: {error}; expected a whole .gz file", path, number + 1) from error
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", path) from error


def _open(path: Path) -> gzip.GzipFile | IO[bytes]:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def parse_object(line: bytes, path: str | Path, number: int) -> dict[str, Any]:
    """Return a line's JSON object.

    Raises:
        InputError: it is not UTF-8, not JSON or no object; names file and line.
    """
    value = _parse_json(decode_utf8(line, path, number), path, number)
    if not isinstance(value, dict):
        found = "null" if value is None else {"list": "a list", "str": "a text"}.get(type(value).__name__, "a number")
        found = "true or false" if isinstance(value, bool) else found
        raise InputError(f"found {found}; expected one JSON object a line", path, number)
    return value


def decode_utf8(data: bytes, path: str | Path, number: int | None = None) -> str:
    """Decode UTF-8; the error names the first wrong byte, its position, and the line (counted where not given)."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line_start = data.rfind(b"\n", 0, error.start) + 1
        number = number or data.count(b"\n", 0, error.start) + 1
        found = f"found byte 0x{data[error.start]:02x} at byte {error.start - line_start + 1} of the line"
        is_utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        hint = " (the file looks like UTF-16; save it as UTF-8)" if is_utf16 else ""
        raise InputError(f"{found}; expected UTF-8 text{hint}", path, number) from None


def read_json(path: str | Path) -> Any:
    """Read a whole JSON file (a published data set), as strictly as a line of JSONL.

    Raises:
        InputError: the file cannot be read or is not JSON in UTF-8; the line is that of the first error.
    """
    text = read_text(path)
    if not text.strip():
        raise InputError("the file is empty; expected JSON", path)
    return _parse_json(text, path, None)


def read_text(path: str | Path) -> str:
    """Read a whole UTF-8 file, without its byte-order mark. Raises `InputError` where it cannot be read."""
    place = looked_up(path)
    if place.is_dir():
        raise InputError("found a folder; expected a file", path)
    try:
        data = place.read_bytes().removeprefix(_BOM)
    except FileNotFoundError:
        raise InputError("no such file", path) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", path) from error
    return decode_utf8(data, path)


def _parse_json(text: str, path: str | Path, number: int | None) -> Any:
    """Parse one JSON value; `number` is the line of `text` in the file, or None where `text` is the whole file."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        found = f"wrong JSON at column {error.colno} ({error.msg}), near {_near(text, error.pos)}"
        raise InputError(f"{found}; expected {_one_object(number)}", path, number or error.lineno) from None
    except UnicodeEncodeError as error:
        found = f"found the escape \\u{ord(error.object[error.start]):04x}, half of a surrogate pair"
        raise InputError(f"{found}; expected text that UTF-8 can hold", path, number) from None
    except RecursionError:
        raise InputError(f"JSON is nested too deeply; expected {_one_object(number)}", path, number) from None
    except ValueError as error:
        raise InputError(f"{error}; expected {_one_object(number)}", path, number) from None
    return value


def _one_object(number: int | None) -> str:
    return "one JSON object a line" if number else "a JSON file"


def _near(text: str, position: int) -> str:
    return repr(text[max(0, position - 15) : position + 15].strip()) if text.strip() else "its end"


def _refuse_constant(name: str) -> float:
    raise ValueError(f"found {name}, which is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"found the number {digits[:40]}, which is too large")
    return value
