"""The manifest of an index folder (`index.json`): which files make up the index. Its rename is the only commit.

    index.json            this manifest
    segment-XXXXXXXX/     a part of the corpus; its files never change once a manifest names them
    .lock                 held by whoever changes the index
    .partial/             vectors of an embedding that is not done
    .partial-add-0/       passages and vectors of an addition that is not done (adding.py)

A change writes new files, then a new manifest in the place of the old. Files that the manifest does not name are what a
killed change has left; the next change removes them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from cosup.data.paths import looked_up
from cosup.data.writing import sync_folder, write_text
from cosup.errors import InputError
from cosup.index.base import MANIFEST, PARTIAL, damaged, file_checksum
from cosup.version import __version__

T = TypeVar("T")

FORMAT = 2
VECTOR_DTYPES = ("float32", "float16")
_SEGMENT, _FILE = re.compile(r"segment-[0-9a-f]{8}"), re.compile(r"[a-z]+(-[0-9a-f]{8})?\.[a-z]+")
VERIFIED_ON_LOAD = 64 * 2**20
"""An index of at most so many bytes is compared with its checksums whenever it is loaded."""


@dataclass(frozen=True)
class FileRecord:
    """A file as it was written."""

    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        """Describe a file."""
        return cls(path.stat().st_size, file_checksum(path))


@dataclass(frozen=True)
class StructureRecord:
    """How a segment is searched without looking at all of it.

    Attributes:
        type: `ivf-sq`, `ivf-pq` or `hnsw`.
        effort: lists that a search visits (`nprobe`), or candidates that it keeps (`efSearch`).
        refine: times 10 or k, whichever is more: so many of the found are compared by their stored vectors.
        recall: share of the 10 nearest that were found when it was built.
        queries: that `recall` was measured with.
        measured_on: what these queries were.
    """

    type: str
    effort: int
    refine: int
    recall: float
    queries: int
    measured_on: str


@dataclass(frozen=True)
class SegmentRecord:
    """A part of the corpus.

    Attributes:
        name: of its folder.
        count: its passages, the deleted among them.
        deleted: how many are deleted.
        deleted_file: of their rows; None where there are none.
        structure: how it is searched; None for exactly.
        files: by name.
    """

    name: str
    count: int
    deleted: int
    deleted_file: str | None
    structure: StructureRecord | None
    files: Mapping[str, FileRecord]


@dataclass(frozen=True)
class IndexManifest:
    """What `index.json` says.

    Attributes:
        type: `flat`, `ivf-sq`, `ivf-pq` or `hnsw`.
        asked: what was asked for: a type, or `auto`.
        reason: why this type.
        dimension: D.
        similarity: `cosine` (vectors of unit length) or `inner_product`.
        vector_dtype: of the stored vectors: `float32` or `float16`.
        embedder_fingerprint: of the embedder that made the vectors.
        segments: the parts, in the order of the corpus.
        cosup_version: that wrote it.
        format: of the folder.
    """

    type: str
    asked: str
    reason: str
    dimension: int
    similarity: str
    vector_dtype: str
    embedder_fingerprint: str
    segments: tuple[SegmentRecord, ...] = field(default=())
    cosup_version: str = __version__
    format: int = FORMAT

    @property
    def count(self) -> int:
        """Passages that are there."""
        return sum(s.count - s.deleted for s in self.segments)

    @property
    def deleted(self) -> int:
        """Passages that still take room."""
        return sum(s.deleted for s in self.segments)

    @property
    def identity(self) -> str:
        """SHA-256 of all that it says, the checksums of the files among it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def rows(self) -> list[tuple[str, str]]:
        """Return what people are told of it: its type, how large it is, and how well it finds."""
        rows = [("type", f"{self.type} ({self.reason})"), ("passages", f"{self.count:,}")]
        rows.append(("segments", f"{len(self.segments)}, {self.deleted:,} deleted passages in them"))
        return rows + [("recall@10", _recall(s.structure, s.count)) for s in self.segments if s.structure is not None]

    def files(self, folder: Path) -> Iterator[tuple[Path, FileRecord]]:
        """Yield the path of each file with its record."""
        for segment in self.segments:
            for name, record in segment.files.items():
                yield folder / segment.name / name, record

    def text(self) -> str:
        """Return the content of `index.json`, with a checksum of itself."""
        return json.dumps(asdict(self) | {"sha256": self.identity}, indent=2, ensure_ascii=False) + "\n"

    def commit(self, folder: Path) -> None:
        """Put this manifest in the place of the one in `folder`, at once and for good."""
        write_text(folder / MANIFEST, self.text())

    @classmethod
    def read(cls, folder: Path) -> IndexManifest:
        """Read and check `index.json`; any byte that is not as written is noticed.

        Raises:
            InputError: the folder or the file is missing, unfinished, damaged, or of another format.
        """
        path = folder / MANIFEST
        if not looked_up(folder).is_dir():
            raise InputError("no such index folder; make one with 'cosup index'", folder)
        if not path.is_file():
            raise InputError(_what_is_missing(folder), folder)
        data = path.read_bytes()
        try:
            record = json.loads(data.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise damaged(path) from error
        if not isinstance(record, dict) or not isinstance(record.get("format"), int):
            raise damaged(path)
        if record["format"] != FORMAT:
            found = f"an index of format {record['format']}; this cosup reads format {FORMAT}"
            raise InputError(f"{found}: {_rebuild(folder)}", path)
        try:
            manifest = cls._from_record(record)
            if manifest.text().encode() != data:
                raise damaged(path)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise damaged(path) from error
        return manifest

    @classmethod
    def _from_record(cls, record: Mapping[str, Any]) -> IndexManifest:
        kept = {f.name: record[f.name] for f in fields(cls)}
        manifest: IndexManifest = _typed(cls(**kept | {"segments": tuple(map(_segment, record["segments"]))}))
        if manifest.dimension < 1 or manifest.vector_dtype not in VECTOR_DTYPES:
            raise ValueError("no vectors are like that")
        return manifest

    def check_sizes(self, folder: Path) -> None:
        """Make sure that every file is there in its size.

        Raises:
            InputError: names the file that is missing or damaged.
        """
        for path, record in self.files(folder):
            if not path.is_file():
                raise InputError("missing from the index; run 'cosup index' again", path)
            if path.stat().st_size != record.size:
                raise damaged(path)

    def verify(self, folder: Path, progress: Callable[[int, int], None] | None = None) -> int:
        """Compare every file with its checksum and return how many there are, the manifest among them.

        Args:
            folder: of the index.
            progress: called after each file with the bytes compared and all bytes.

        Raises:
            InputError: names the file that is missing or damaged.
        """
        self.check_sizes(folder)
        done, total, count = 0, self.size, 1
        for path, record in self.files(folder):
            if file_checksum(path) != record.sha256:
                raise damaged(path)
            done, count = done + record.size, count + 1
            if progress:
                progress(done, total)
        return count

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(record.size for segment in self.segments for record in segment.files.values())


def _recall(found: StructureRecord, count: int) -> str:
    effort = "efSearch" if found.type == "hnsw" else "nprobe"
    return (
        f"{found.recall:.3f} against exact ({found.queries} queries: {found.measured_on}); {effort} {found.effort}, "
        f"{found.refine}x compared again, {count:,} passages"
    )


def sync_files(folder: Path) -> dict[str, FileRecord]:
    """Make the files of a folder outlive a loss of power, and return their records by name."""
    records = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        records[path.name] = FileRecord.of(path)
    sync_folder(folder)
    return records


def _segment(record: Mapping[str, Any]) -> SegmentRecord:
    """Read a segment; no name in it leads out of the index's folder."""
    structure = record["structure"]
    known = {
        "structure": None if structure is None else _typed(StructureRecord(**structure)),
        "files": {name: _typed(FileRecord(**file)) for name, file in record["files"].items()},
    }
    segment: SegmentRecord = _typed(SegmentRecord(**{**record, **known}))
    if not _SEGMENT.fullmatch(segment.name) or not all(map(_FILE.fullmatch, segment.files)):
        raise ValueError("a name that is none of an index")
    if segment.deleted > segment.count or not segment.count:
        raise ValueError("more passages deleted than there are")
    if (segment.deleted_file is None) != (segment.deleted == 0) or segment.deleted_file not in {None, *segment.files}:
        raise ValueError("deleted passages without a file of them")
    return segment


def _typed(record: T) -> T:
    """Return a record whose texts and numbers are such, the numbers at least 0. Raises `TypeError`."""
    kind: Any = type(record)
    for name, kinds in _kinds(kind).items():
        value = getattr(record, name)
        if type(value) not in kinds or (isinstance(value, int | float) and not value >= 0):
            raise TypeError(f"{name} is {value!r}")
    return record


@cache
def _kinds(kind: type) -> dict[str, tuple[type, ...]]:
    """Return the fields of a record that hold texts or numbers, with the types that they may have."""
    known = {str: (str,), int: (int,), float: (int, float), str | None: (str, type(None))}
    return {name: known[hint] for name, hint in get_type_hints(kind).items() if hint in known}


def _what_is_missing(folder: Path) -> str:
    if any(folder.glob("segment-*")) or (folder / PARTIAL).is_dir():
        return f"an unfinished index: it has no {MANIFEST} yet; run its 'cosup index' command again to go on"
    return f"not an index folder: it has no {MANIFEST}; make one with 'cosup index'"


def _rebuild(folder: Path) -> str:
    return f"build it again with 'cosup index --model MODEL --passages PASSAGES --output {folder}'"
