"""Writing files whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias

from cosup.data.paths import looked_up
from cosup.errors import CosupError, InputError, UsageError
from cosup.mishaps import disk_trouble


class HasDict(Protocol):
    """A record with a JSON form."""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        ...


JsonRecord: TypeAlias = HasDict | Mapping[str, Any]


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give a draft to write a file into; it takes the place of `path` when the block ends without an error.

    The draft is hidden beside `path` and removed on failure; folders above are created, and links written through. At
    the end file and folder are on the disk.

    Raises:
        UsageError: `path` is no place for a file, or writing failed (a full disk); what was there is untouched.
    """
    target = Path(os.path.realpath(looked_up(path)))
    draft = target.with_name(f".{target.name[:50]}.{secrets.token_hex(4)}.tmp")  # two processes may write the same
    if target.exists() and not target.is_file():
        raise UsageError(f"cannot write {target}: it is a folder or a device; expected a file name")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(target)
        sync_folder(target.parent)
    except CosupError:
        raise
    except Exception as error:
        reason = disk_trouble(error) or (isinstance(error, OSError) and (error.strerror or str(error)))
        if not reason:
            raise
        raise untouched(target, reason) from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


@contextmanager
def atomic_open(path: str | Path) -> Iterator[IO[str]]:
    """Open a `whole_file` for writing UTF-8 text; raises as that does."""
    with whole_file(path) as draft, draft.open("x", encoding="utf-8", newline="\n") as stream:
        yield stream


def untouched(path: Path, reason: str) -> UsageError:
    """Return the error of what could not be written, and stands as it stood."""
    return UsageError(f"cannot write {path}: {reason}; what was saved before is untouched")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | Path, text: str) -> None:
    """Write a text, whole or not at all. Raises as `whole_file`."""
    with atomic_open(path) as stream:
        stream.write(text)


def write_json(path: str | Path, record: Mapping[str, Any]) -> None:
    """Write a JSON object for people to read, whole or not at all. Raises as `json_text` and `whole_file`."""
    write_text(path, json_text(record, path))


def json_text(record: Mapping[str, Any], path: str | Path) -> str:
    """Return a JSON object as people read it.

    Raises:
        InputError: it has a value that JSON or UTF-8 cannot hold (NaN, an unpaired surrogate, an object); names `path`.
    """
    try:
        text = json.dumps(record, ensure_ascii=False, allow_nan=False, indent=2)
        text.encode("utf-8")
    except (TypeError, ValueError) as error:
        raise InputError(f"cannot be written as JSON: {error}", path) from error
    return f"{text}\n"


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
