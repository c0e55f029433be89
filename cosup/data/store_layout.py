"""The files of a passage store, and whether all of them are there.

A store is a folder:

    store.json      the sources as they were, the files that hold the passages, their number
    offsets.bin     [N + 1] int64: where each passage begins, all files laid end to end; then where the last file ends
    hashes.bin      [N] uint64: 64-bit hashes of the ids, ascending
    rows.bin        [N] int64: the row of the passage of each hash
    part-K.jsonl    the passages of source K, where that is no JSONL file already
    passages.jsonl  the passages of a store that was written rather than built: it needs no source

The arrays are memory-mapped and take 24 bytes a passage; a JSONL source is read where it lies. Ids that share a hash
are told apart by the passages themselves.

Shapes: N passages; a passage's row is its place in the order of the sources, from 0.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = 1


MANIFEST, OFFSETS, HASHES, ROWS = "store.json", "offsets.bin", "hashes.bin", "rows.bin"


PASSAGES = "passages.jsonl"

_OWN_FILE = re.compile(r"passages\.jsonl|part-\d+\.jsonl")


@dataclass(frozen=True, slots=True)
class File:
    """A JSONL file that holds passages.

    Attributes:
        path: absolute, or a name in the store's folder.
        size: its bytes.
        changed: when it was last changed, in nanoseconds; 0 in the store's own folder.
        source: what a message calls it.
        unit: what its lines are in the source: `line`, or `row` of a table.
    """

    path: str
    size: int
    changed: int
    source: str
    unit: str


def hash_of(passage_id: str) -> int:
    """Return the 64-bit hash of an id."""
    return int.from_bytes(
        hashlib.blake2b(passage_id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"
    )


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a whole store, or None."""
    try:
        record = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        count = record["count"] if record["format"] == FORMAT else -1
        sizes = {OFFSETS: count + 1, HASHES: count, ROWS: count}
        sizes = {name: 8 * length for name, length in sizes.items()}
        files = [File(**file) for file in record["files"]]
        sizes |= {file.path: file.size for file in files if not Path(file.path).is_absolute()}
        whole = type(count) is int and count > 0 and bool(files) and all(map(_is_whole, files))
        whole = whole and all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return record if whole else None


def _is_whole(file: File) -> bool:
    """Whether a file's record is of its declared types, and one of the store's own lies in no other folder."""
    texts = all(isinstance(text, str) for text in (file.path, file.source, file.unit))
    numbers = all(type(number) is int and number >= 0 for number in (file.size, file.changed))
    return texts and numbers and (Path(file.path).is_absolute() or _OWN_FILE.fullmatch(file.path) is not None)
