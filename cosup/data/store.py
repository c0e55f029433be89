"""Passages on disk: looked up by id, their texts never all in memory.

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
import logging
import os
import shutil
import weakref
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from cosup.data.folders import TEXT_SUFFIXES, chunk_folder
from cosup.data.jsonl import parse_object
from cosup.data.lines import iter_lines, located
from cosup.data.reading import looks_like_hub_id as looks_like_hub_id
from cosup.data.reading import passage_from_dict
from cosup.data.writing import write_jsonl
from cosup.errors import CosupError, InputError, UsageError
from cosup.records import Passage

logger = logging.getLogger(__name__)

FORMAT = 1
MANIFEST, OFFSETS, HASHES, ROWS = "store.json", "offsets.bin", "hashes.bin", "rows.bin"
PASSAGES = "passages.jsonl"
_DATASET_FILES = ("dataset_info.json", "dataset_dict.json")
_FLUSH = 65_536  # passages whose places are gathered before they are written

Source: TypeAlias = str | Path


@dataclass(frozen=True, slots=True)
class _File:
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


class PassageStore(Mapping[str, Passage]):
    """Passages by id, in the order of their sources; only their places are in memory.

    Pickling takes the folder along, not the passages, and forked processes may share a store.

    Args:
        folder: what `PassageStore.build` made.

    Raises:
        InputError: there is no whole store, or a file it refers to has changed since.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()
        record = _read_manifest(self.folder)
        if record is None:
            raise InputError("no whole passage store; build it again", self.folder)
        self._count = int(record["count"])
        self._files = [_File(**file) for file in record["files"]]
        self._paths = [self.folder / file.path for file in self._files]
        self._bases = [0, *accumulate(file.size for file in self._files)]
        self._offsets: NDArray[np.int64] = np.asarray(np.memmap(self.folder / OFFSETS, np.int64, "r"))
        self._hashes: NDArray[np.uint64] = np.asarray(np.memmap(self.folder / HASHES, np.uint64, "r"))
        self._rows: NDArray[np.int64] = np.asarray(np.memmap(self.folder / ROWS, np.int64, "r"))
        self._open_files()

    def _open_files(self) -> None:
        self._descriptors: list[int] = []
        weakref.finalize(self, _close_all, self._descriptors)
        for file, path in zip(self._files, self._paths, strict=True):
            try:
                self._descriptors.append(os.open(path, os.O_RDONLY))
                found = os.fstat(self._descriptors[-1])
            except OSError as error:
                raise InputError(f"cannot be read: {error.strerror or error}", path) from error
            if found.st_size != file.size or (file.changed and found.st_mtime_ns != file.changed):
                raise InputError("changed since its passages were indexed; start again", path)

    @classmethod
    def build(cls, sources: Source | Sequence[Source], folder: str | Path) -> PassageStore:
        """Open the store of `sources` in `folder`, and make it first where it is missing, old or damaged.

        Several processes of one machine may call this at once: one builds, the others wait. The folder is there whole
        or not at all. Building reads the sources once (a JSONL file) or twice (the others) and holds about 20 bytes a
        passage in memory; a folder of Markdown and text files is cut in memory.

        Args:
            sources: what `read_passages` takes, or several of them.
            folder: where to; may hold an older store, nothing else.

        Raises:
            InputError: a source cannot be used, or two passages have one id; names file and line.
            UsageError: `folder` holds something else, or cannot be written (a full disk).
        """
        places = [sources] if isinstance(sources, str | Path) else list(sources)
        if not places:
            raise UsageError("no passages; name their file or folder")
        folder = Path(folder).absolute()
        wanted = [_identity(source) for source in places]
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_name(f".{folder.name}.lock")):
                _check_target(folder)
                record = _read_manifest(folder)
                if record is None or record["sources"] != wanted:
                    _build(places, wanted, folder)
        except OSError as error:
            raise UsageError(f"cannot write the passage store {folder}: {error.strerror or error}") from error
        return cls(folder)

    @classmethod
    def write(cls, passages: Iterable[Passage], folder: str | Path) -> PassageStore:
        """Make a store that stands by itself and can be moved: all of it lies in `folder`.

        The folder is not written whole or not at all; whoever asks sees to that.

        Args:
            passages: read once.
            folder: where to; made where it is missing.

        Raises:
            InputError: there are no passages, or two have one id.
            UsageError: the store cannot be written.
        """
        folder = Path(folder).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        write_jsonl(folder / PASSAGES, passages)
        _finish([_File(PASSAGES, (folder / PASSAGES).stat().st_size, 0, "the corpus", "passage")], [], folder)
        return cls(folder)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return (passage.id for passage in self.in_order())

    def __contains__(self, passage_id: object) -> bool:
        return isinstance(passage_id, str) and self._find(passage_id) is not None

    def __getitem__(self, passage_id: str) -> Passage:
        found = self._find(passage_id)
        if found is None:
            raise KeyError(passage_id)
        return found[1]

    def row(self, passage_id: str) -> int:
        """Return the row of a passage. Raises `KeyError` where there is no such passage."""
        found = self._find(passage_id)
        if found is None:
            raise KeyError(passage_id)
        return found[0]

    def at(self, row: int) -> Passage:
        """Return the passage of a row.

        Raises:
            IndexError: `row` is not in 0 .. N - 1.
            CosupError: its file was changed while the store was open.
        """
        if not 0 <= row < self._count:
            raise IndexError(f"no row {row} among {self._count} passages")
        start, end = int(self._offsets[row]), int(self._offsets[row + 1])
        number = bisect_right(self._bases, start) - 1
        data = os.pread(self._descriptors[number], end - start, start - self._bases[number])
        try:
            line, _, _ = data.decode("utf-8-sig").partition("\n")
            return passage_from_dict(json.loads(line))
        except (ValueError, InputError) as error:
            raise CosupError(f"{self._paths[number]}: changed while it was in use; start again") from error

    def in_order(self) -> Iterator[Passage]:
        """Yield the passages by row."""
        return (self.at(row) for row in range(self._count))

    def _find(self, passage_id: str) -> tuple[int, Passage] | None:
        key = _hash(passage_id)
        place = int(np.searchsorted(self._hashes, np.uint64(key)))
        while place < self._count and int(self._hashes[place]) == key:
            row = int(self._rows[place])
            passage = self.at(row)
            if passage.id == passage_id:
                return row, passage
            place += 1
        return None

    def __reduce__(self) -> tuple[type[PassageStore], tuple[Path]]:
        return PassageStore, (self.folder,)


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _hash(passage_id: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(passage_id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"
    )


# -- what a store was made from ----------------------------------------------------------------------------------------


def _jsonl_of(source: Source) -> Path | None:
    """Return the JSONL file that a source is, or None where it is something else. Decides as `read_passages` does."""
    place = Path(source)
    if place.is_dir():
        return next((place / name for name in ("passages.jsonl", "corpus.jsonl") if (place / name).is_file()), None)
    other = place.suffix.lower() in TEXT_SUFFIXES | {".parquet"} or looks_like_hub_id(str(source))
    return None if other else place


def _identity(source: Source) -> dict[str, Any]:
    """Return what changes when a source does: path, size and time of change of its files, or a hub revision."""
    place = _jsonl_of(source) or Path(source)
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


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a whole store, or None."""
    try:
        record = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        count = record["count"] if record["format"] == FORMAT else -1
        sizes = {OFFSETS: count + 1, HASHES: count, ROWS: count}
        sizes = {name: 8 * length for name, length in sizes.items()}
        sizes |= {f["path"]: f["size"] for f in record["files"] if not Path(f["path"]).is_absolute()}
        whole = count > 0 and all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if whole else None


def _check_target(folder: Path) -> None:
    empty = folder.is_dir() and not any(folder.iterdir())
    if folder.exists() and not empty and not (folder / MANIFEST).is_file():
        raise UsageError(
            f"cannot write passages to {folder}: something else is there; move it or choose another folder"
        )


# -- building ----------------------------------------------------------------------------------------------------------


def _build(sources: Sequence[Source], identities: list[dict[str, Any]], folder: Path) -> None:
    """Make the store in a hidden folder beside `folder` and put it in its place; the caller holds the lock."""
    logger.info("indexing the passages of %s", ", ".join(map(str, sources)))
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        files = [_as_jsonl(source, draft, number) for number, source in enumerate(sources)]
        _finish(files, identities, draft)
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _finish(files: Sequence[_File], identities: Sequence[Mapping[str, Any]], draft: Path) -> None:
    """Write the arrays and the manifest of a store whose passages are there."""
    count = _write_places(files, draft)
    _sort_hashes(files, draft)
    record = {"format": FORMAT, "sources": identities, "count": count, "files": [asdict(file) for file in files]}
    (draft / MANIFEST).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _as_jsonl(source: Source, draft: Path, number: int) -> _File:
    """Return the JSONL file of a source; one that is no JSONL is written as such into the store."""
    place = _jsonl_of(source)
    if place is not None:
        found = place.stat() if place.is_file() else None  # without, reading it says what is wrong
        return _File(
            str(place.absolute()), *((found.st_size, found.st_mtime_ns) if found else (0, 0)), str(place), "line"
        )
    name = f"part-{number}.jsonl"
    write_jsonl(draft / name, _converted(source))
    return _File(name, (draft / name).stat().st_size, 0, str(source), "row")


def _converted(source: Source) -> Iterator[Passage]:
    """Yield the passages of a source that is no JSONL file, as `read_passages` reads them."""
    from cosup.data import tables

    place = Path(source)
    if place.suffix.lower() == ".parquet" and not place.is_dir():
        rows = tables.parquet_rows(place)
    elif not place.exists() and looks_like_hub_id(str(source)):
        rows = tables.hub_rows(str(source))
    elif any((place / name).is_file() for name in _DATASET_FILES):
        rows = tables.saved_rows(place)
    else:
        yield from chunk_folder(place)
        return
    for number, row in rows:
        with located(source, number, "row"):
            passage = passage_from_dict(row)
        yield passage


def _write_places(files: Sequence[_File], draft: Path) -> int:
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


def _places(file: _File, draft: Path, base: int) -> Iterator[tuple[int, int]]:
    """Yield offset and hash of each passage of a file."""
    for number, offset, data in iter_lines(file.source if Path(file.path).is_absolute() else draft / file.path):
        with located(file.source, number, file.unit):
            passage = passage_from_dict(parse_object(data, file.source, number))
        yield base + offset, _hash(passage.id)


def _sort_hashes(files: Sequence[_File], draft: Path) -> None:
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


def _refuse_repeated(files: Sequence[_File], draft: Path, rows: Sequence[int]) -> None:
    """Refuse passages of one hash that have one id as well."""
    seen: dict[str, tuple[_File, int]] = {}
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


def _named(files: Sequence[_File], draft: Path, row: int) -> tuple[_File, int, str]:
    """Return file, line and id of the passage of a row, by reading the files again."""
    for file in files:
        for number, _, data in iter_lines(file.source if Path(file.path).is_absolute() else draft / file.path):
            if row == 0:
                return file, number, passage_from_dict(parse_object(data, file.source, number)).id
            row -= 1
    raise CosupError("the passages changed while they were indexed; start again")
