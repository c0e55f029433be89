"""Writing files whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias

from cosup.data.paths import looked_up
from cosup.errors import InputError, UsageError


class HasDict(Protocol):
    """A record with a JSON form."""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        ...


JsonRecord: TypeAlias = HasDict | Mapping[str, Any]


@contextmanager
def atomic_open(path: str | Path) -> Iterator[IO[str]]:
    """Open `path` for writing UTF-8 text; it changes only when the block ends without an error.

    The text goes to a hidden file beside `path`, which replaces `path` at the end and is removed on failure.
    Folders above `path` are created.

    Raises:
        UsageError: `path` is no place for a file, or writing failed (a full disk); what was there is untouched.
    """
    target = Path(os.path.realpath(looked_up(path)))
    draft = target.with_name(f".{target.name[:50]}.{secrets.token_hex(4)}.tmp")
    stream = _open_draft(target, draft)
    try:
        with stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(target)
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        draft.unlink(missing_ok=True)


def _open_draft(target: Path, draft: Path) -> IO[str]:
    if target.exists() and not target.is_file():
        raise UsageError(f"cannot write {target}: it is a folder or a device; expected a file name")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return draft.open("x", encoding="utf-8", newline="\n")
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror or error}") from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: str | Path, record: Mapping[str, Any]) -> None:
    """Write a JSON object for people to read, whole or not at all. Raises as `atomic_open`."""
    text = json.dumps(record, ensure_ascii=False, indent=2)
    with atomic_open(path) as stream:
        stream.write(f"{text}\n")


def write_jsonl(path: str | Path, records: Iterable[JsonRecord]) -> int:
    """Write one JSON object a line, whole or not at all, and return how many.

    Raises:
        UsageError: `path` cannot be written to.
        InputError: a record has a value that JSON or UTF-8 cannot hold (NaN, an unpaired surrogate, an object).
    """
    with atomic_open(path) as stream:
        return _write_lines(stream, path, records)


def write_jsonl_files(files: Mapping[Path, Iterable[JsonRecord | str]]) -> dict[Path, int]:
    """Write several files as `write_jsonl` does and return how many records each has.

    None of them changes before all are written. Records are taken one at a time, and what is a text already is written
    as a line of its own.
    """
    with ExitStack() as stack:
        streams = {path: stack.enter_context(atomic_open(path)) for path in files}
        return {path: _write_lines(streams[path], path, records) for path, records in files.items()}


def _write_lines(stream: IO[str], path: str | Path, records: Iterable[JsonRecord | str]) -> int:
    count = 0
    for count, record in enumerate(records, start=1):
        stream.write(f"{record}\n" if isinstance(record, str) else _json_line(path, count, record))
    return count


def _json_line(path: str | Path, number: int, record: JsonRecord) -> str:
    value = record if isinstance(record, Mapping) else record.to_dict()
    try:
        line = json.dumps(dict(value), ensure_ascii=False, allow_nan=False)
        line.encode("utf-8")
    except (TypeError, ValueError) as error:
        raise InputError(f"record {number} cannot be written as JSON: {error}", path) from error
    return line + "\n"


def check_apart(targets: Iterable[str | Path], sources: Iterable[str | Path | None]) -> None:
    """Make sure that no file that is to be written is one of those that are read.

    Args:
        targets: files to write; need not be there yet.
        sources: files that are read; None stands for none.

    Raises:
        UsageError: one is.
    """
    read = {Path(source).resolve() for source in sources if source is not None}
    for target in targets:
        if Path(target).resolve() in read:
            raise UsageError(f"{target} is read and would be overwritten; choose another output")
