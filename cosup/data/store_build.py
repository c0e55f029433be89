"""Making a passage store: its sources read once, checked, laid end to end and indexed by the hashes of their ids."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from cosup.data.folders import chunk_folder
from cosup.data.jsonl import parse_object
from cosup.data.lines import iter_lines, located
from cosup.data.reading import passage_from_dict
from cosup.data.sources import Kind, Source, kind_of, looks_like_hub_id
from cosup.data.store_layout import FORMAT, HASHES, MANIFEST, OFFSETS, ROWS, File, hash_of
from cosup.data.tables import table_rows
from cosup.data.writing import write_jsonl
from cosup.errors import CosupError, InputError
from cosup.records import Passage

logger = logging.getLogger(__name__)


_FLUSH = 65_536  # passages whose places are gathered before they are written


def identity_of(source: Source) -> dict[str, Any]:
    """Return what changes when a source does: path, size and time of change of its files, or a hub revision."""
    _, place = kind_of(source)
    if place.is_dir():
        return {"path": str(place.absolute()), "files": _folder_digest(place)}
    if place.exists():
        found = place.stat()
        return {"path": str(place.absolute()), "size": found.st_size, "changed": found.st_mtime_ns}
    if looks_like_hub_id(str(source)):
        return {"hub": str(source), "revision": _hub_revision(str(source))}
    return {"path": str(place.absolute()), "size": None}


def _folder_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        found = path.stat()
        digest.update(f"{path.relative_to(folder)!s}\0{found.st_size}\0{found.st_mtime_ns}\0".encode(errors="replace"))
    return digest.hexdigest()


def _hub_revision(name: str) -> str:
    """Return the commit of a hub dataset, from the hub or, without a network, from the local cache."""
    from datasets import load_dataset_builder
    from datasets.exceptions import DatasetsError

    try:
        return str(load_dataset_builder(name.partition(":")[0]).hash)
    except (DatasetsError, OSError, ValueError, RuntimeError):
        return "unknown"  # neither there nor in the cache: reading it says why


def build_store(sources: Sequence[Source], identities: list[dict[str, Any]], folder: Path) -> None:
    """Make the store in a hidden folder beside `folder` and put it in its place; the caller holds the lock."""
    logger.info("indexing the passages of %s", ", ".join(map(str, sources)))
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        files = [_as_jsonl(source, draft, number) for number, source in enumerate(sources)]
        finish_store(files, identities, draft)
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def finish_store(files: Sequence[File], identities: Sequence[Mapping[str, Any]], draft: Path) -> None:
    """Write the arrays and the manifest of a store whose passages are there."""
    count = _write_places(files, draft)
    _sort_hashes(files, draft)
    record = {"format": FORMAT, "sources": identities, "count": count, "files": [asdict(file) for file in files]}
    (draft / MANIFEST).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _as_jsonl(source: Source, draft: Path, number: int) -> File:
    """Return the JSONL file of a source; one that is no JSONL is written as such into the store."""
    kind, place = kind_of(source)
    if kind is Kind.JSONL:
        found = place.stat() if place.is_file() else None  # without, reading it says what is wrong
        return File(
            str(place.absolute()), *((found.st_size, found.st_mtime_ns) if found else (0, 0)), str(place), "line"
        )
    name = f"part-{number}.jsonl"
    write_jsonl(draft / name, _converted(source))
    return File(name, (draft / name).stat().st_size, 0, str(source), "row")


def _converted(source: Source) -> Iterator[Passage]:
    """Yield the passages of a source that is no JSONL file, as `read_passages` reads them."""
    kind, place = kind_of(source)
    if kind is Kind.TEXTS:
        yield from chunk_folder(place)
        return
    for number, row in table_rows(kind, source):
        with located(source, number, "row"):
            passage = passage_from_dict(row)
        yield passage


def _write_places(files: Sequence[File], draft: Path) -> int:
    """Check every passage, write where each begins and the hash of its id in order, and return their number."""
    count = base = 0
    with (draft / OFFSETS).open("wb") as offsets, (draft / ROWS).open("wb") as hashes:
        for file in files:
            before = count
            places = _places(file, draft, base)
            while found := list(islice(places, _FLUSH)):
                array("q", (offset for offset, _ in found)).tofile(offsets)
                array("Q", (key for _, key in found)).tofile(hashes)
                count += len(found)
            if count == before:
                raise InputError(f"found no records; expected at least one {file.unit}", file.source)
            base += file.size
        array("q", [base]).tofile(offsets)
    return count


def _places(file: File, draft: Path, base: int) -> Iterator[tuple[int, int]]:
    """Yield offset and hash of each passage of a file."""
    for number, offset, data in iter_lines(file.source if Path(file.path).is_absolute() else draft / file.path):
        with located(file.source, number, file.unit):
            passage = passage_from_dict(parse_object(data, file.source, number))
        yield base + offset, hash_of(passage.id)


def _sort_hashes(files: Sequence[File], draft: Path) -> None:
    """Put the hashes in ascending order and note their rows.

    Raises:
        InputError: two passages have one id.
    """
    hashes = np.fromfile(draft / ROWS, np.uint64)
    rows = np.argsort(hashes, kind="stable").astype(np.int64, copy=False)
    hashes = hashes[rows]
    again = np.flatnonzero(hashes[1:] == hashes[:-1]) + 1
    for key in dict.fromkeys(hashes[again[np.argsort(rows[again])]].tolist()):
        _refuse_repeated(files, draft, rows[np.flatnonzero(hashes == key)].tolist())
    hashes.tofile(draft / HASHES)
    rows.tofile(draft / ROWS)


def _refuse_repeated(files: Sequence[File], draft: Path, rows: Sequence[int]) -> None:
    """Refuse passages of one hash that have one id as well."""
    seen: dict[str, tuple[File, int]] = {}
    for row in rows:
        file, number, passage_id = _named(files, draft, row)
        if passage_id in seen:
            other, earlier = seen[passage_id]
            if other.source != file.source:
                found = f"id {passage_id!r} stands in {other.source} too; expected distinct ids"
            else:
                found = f"id {passage_id!r} again, after {file.unit} {earlier}; expected distinct ids"
            with located(file.source, number, file.unit):
                raise InputError(found)
        seen[passage_id] = file, number


def _named(files: Sequence[File], draft: Path, row: int) -> tuple[File, int, str]:
    """Return file, line and id of the passage of a row, by reading the files again."""
    for file in files:
        for number, _, data in iter_lines(file.source if Path(file.path).is_absolute() else draft / file.path):
            if row == 0:
                return file, number, passage_from_dict(parse_object(data, file.source, number)).id
            row -= 1
    raise CosupError("the passages changed while they were indexed; start again")
