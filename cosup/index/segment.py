"""A segment: a part of the corpus whose files never change once the manifest names them.

    passages.jsonl, store.json, offsets.bin, hashes.bin, rows.bin    the passages (cosup/data/store.py)
    vectors.bin                                                      their vectors
    metadata.json, metadata.bin                                      their metadata in columns, if they have any
    structure.faiss                                                  what an approximate search goes by
    deleted-XXXXXXXX.bin                                             [R] int64: rows that are deleted, ascending

Of all of them only the id hashes and what a search touches come into memory.

Shapes: Q queries, N passages of the segment, D dimensions.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cosup.data.store import PassageStore
from cosup.data.store_layout import MANIFEST as STORE
from cosup.data.writing import sync_folder
from cosup.index.base import Vectors, damaged
from cosup.index.filters import Filter
from cosup.index.manifest import FileRecord, IndexManifest, SegmentRecord, sync_files
from cosup.index.metadata import CODES as METADATA
from cosup.index.metadata import Metadata, MetadataWriter
from cosup.index.structures import FILE as STRUCTURE
from cosup.index.structures import Allowed, Structure, build_structure
from cosup.index.vectors import DTYPES, Found, Rows, VectorFile, write_vectors
from cosup.records import Passage

VECTORS = "vectors.bin"
EXACT_UP_TO = 20_000
"""So few allowed passages are all looked at; a structure would come upon too few of them."""
_FILTERS_KEPT = 4


@dataclass(frozen=True)
class SegmentPlan:
    """How a segment is written.

    Attributes:
        dimension: D.
        vector_dtype: of the stored vectors.
        type: of the index.
        structure_from: passages from which on it gets a structure, where the type has one.
        seed: of the samples.
    """

    dimension: int
    vector_dtype: str
    type: str
    structure_from: int
    seed: int = 0


class Segment:
    """An open segment. It stays as it is when its files are removed meanwhile.

    Args:
        folder: of the index.
        manifest: of the index.
        record: of this segment.

    Raises:
        InputError: a file is missing or damaged; names it.
    """

    def __init__(self, folder: Path, manifest: IndexManifest, record: SegmentRecord) -> None:
        self.record = record
        self.folder = folder / record.name
        self.store = PassageStore(self.folder)
        width = manifest.dimension * DTYPES[manifest.vector_dtype].itemsize
        self._check_size(VECTORS, width)
        if len(self.store) != record.count or not self.store.stands_alone:
            raise damaged(self.folder / STORE)
        self.vectors = VectorFile(self.folder / VECTORS, manifest.dimension, manifest.vector_dtype)
        self.deleted = self._read_deleted()
        self._metadata = Metadata(self.folder, record.count) if METADATA in record.files else None
        self._structure = self._read_structure()
        self._known: dict[Filter | None, Allowed | None] = {}

    def _read_deleted(self) -> Rows:
        if self.record.deleted_file is None:
            return np.empty(0, dtype=np.int64)
        path = self.folder / self.record.deleted_file
        data = path.read_bytes()  # compared whatever the size of the index: a wrong row would show much later, or never
        if hashlib.sha256(data).hexdigest() != self.record.files[path.name].sha256:
            raise damaged(path)
        if len(data) != 8 * self.record.deleted:
            raise damaged(path)
        rows = np.frombuffer(data, dtype="<i8").astype(np.int64, copy=False)
        if rows[0] < 0 or rows[-1] >= self.record.count or not (np.diff(rows) > 0).all():
            raise damaged(path)
        return rows

    def _check_size(self, name: str, width: int) -> None:
        """Make sure that a file has `width` bytes for each passage."""
        if (self.folder / name).stat().st_size != width * self.record.count:
            raise damaged(self.folder / name)

    def _read_structure(self) -> Structure | None:
        if self.record.structure is None:
            return None
        try:
            return Structure.load(self.folder / STRUCTURE, self.record.structure, self.vectors)
        except RuntimeError as error:
            raise damaged(self.folder / STRUCTURE) from error

    @property
    def live(self) -> int:
        """Passages that are not deleted."""
        return self.record.count - self.record.deleted

    def live_rows(self) -> Rows:
        """Return the rows that are not deleted, ascending."""
        kept = np.ones(self.record.count, dtype=np.bool_)
        kept[self.deleted] = False
        return np.flatnonzero(kept).astype(np.int64, copy=False)

    def passages(self) -> Iterator[Passage]:
        """Yield the passages that are not deleted, in order."""
        return (self.store.at(row) for row in self.live_rows().tolist())

    def row(self, passage_id: str) -> int | None:
        """Return the row of a passage, or None where it is not there or deleted."""
        try:
            row = self.store.row(passage_id)
        except KeyError:
            return None
        place = int(np.searchsorted(self.deleted, row))
        return None if place < len(self.deleted) and self.deleted[place] == row else row

    def matching(self, rows: Rows, filter: Filter | None) -> Rows:
        """Return those of `rows` that are allowed."""
        allowed = self._allowed(filter)
        return rows if allowed is None else rows[allowed.mask[rows]]

    def search(self, queries: Vectors, k: int, filter: Filter | None = None) -> list[Found]:
        """Return for each query its `k` nearest that are not deleted and meet `filter`; as many as there are."""
        allowed = self._allowed(filter)
        count = self.record.count if allowed is None else len(allowed.rows)
        if self._structure is None or (filter is not None and count <= EXACT_UP_TO):
            return self._exact(queries, k, allowed)
        found = self._structure.search(queries, k, allowed)
        short = [number for number, (scores, _) in enumerate(found) if len(scores) < min(k, count)]
        for number, own in zip(short, self._exact(queries[short], k, allowed) if short else (), strict=True):
            found[number] = own
        return found

    def _exact(self, queries: Vectors, k: int, allowed: Allowed | None) -> list[Found]:
        return self.vectors.top(queries, k, None if allowed is None else allowed.rows)

    def _allowed(self, filter: Filter | None) -> Allowed | None:
        """Return which rows may be found, or None for all; of the last few filters it is known already."""
        if filter not in self._known:
            while len(self._known) >= _FILTERS_KEPT:
                self._known.pop(next(iter(self._known)))
            self._known[filter] = self._find_allowed(filter)
        return self._known[filter]

    def _find_allowed(self, filter: Filter | None) -> Allowed | None:
        if filter is None and not len(self.deleted):
            return None
        mask = np.full(self.record.count, filter is None or filter.holds({}))
        if filter is not None and self._metadata is not None:
            mask = self._metadata.mask(filter)
        mask[self.deleted] = False
        return Allowed(mask)

    def without(self, rows: Iterable[int]) -> SegmentRecord:
        """Write a file of deleted rows, `rows` and those of before, and return the new record."""
        gone = np.union1d(self.deleted, np.fromiter(rows, dtype=np.int64))
        name = f"deleted-{secrets.token_hex(4)}.bin"
        gone.astype("<i8").tofile(self.folder / name)
        files = {n: f for n, f in self.record.files.items() if n != self.record.deleted_file}
        files[name] = FileRecord.of(self.folder / name)
        with (self.folder / name).open("rb") as stream:
            os.fsync(stream.fileno())
        sync_folder(self.folder)
        return replace(self.record, deleted=len(gone), deleted_file=name, files=files)


def write_segment(
    folder: Path, passages: Iterable[Passage], vectors: Iterable[Vectors], plan: SegmentPlan
) -> SegmentRecord:
    """Write a segment; it is part of the index once a manifest names it.

    Args:
        folder: of the index.
        passages: N passages, read once.
        vectors: blocks of their vectors.
        plan: how.

    Raises:
        InputError: no passages, or two have one id.
        CosupError: a vector is not finite, or the disk is full.
    """
    place = folder / f"segment-{secrets.token_hex(4)}"
    try:
        return _write_files(place, passages, vectors, plan)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def _write_files(
    place: Path, passages: Iterable[Passage], vectors: Iterable[Vectors], plan: SegmentPlan
) -> SegmentRecord:
    metadata = MetadataWriter()
    count = len(PassageStore.write(metadata.follow(passages), place))
    metadata.write(place)
    write_vectors(place / VECTORS, vectors, plan.vector_dtype)
    structure = None
    if plan.type != "flat" and count >= plan.structure_from:
        stored = VectorFile(place / VECTORS, plan.dimension, plan.vector_dtype)
        structure = build_structure(place / STRUCTURE, stored, plan.type, plan.seed)
    files = sync_files(place)
    sync_folder(place.parent)
    return SegmentRecord(place.name, count, 0, None, structure, files)


def vectors_of(segments: Sequence[Segment]) -> Iterator[Vectors]:
    """Yield the vectors of all passages that are not deleted, in blocks."""
    for segment in segments:
        for _, block in segment.vectors.blocks(segment.live_rows()):
            yield block


def passages_of(segments: Sequence[Segment]) -> Iterator[Passage]:
    """Yield all passages that are not deleted."""
    for segment in segments:
        yield from segment.passages()
