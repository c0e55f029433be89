"""An index on one machine: segments of a corpus in one folder, searched exactly or through FAISS structures.

manifest.py has the folder's layout, segment.py that of a segment. A reader goes on with what it opened, whatever is
changed meanwhile; `reopened` has the changes. Writers keep apart by a lock.

The order of the corpus is that in which passages came; one that was replaced counts as new.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from cosup.errors import InputError, UsageError
from cosup.index.base import (
    MANIFEST,
    PARTIAL,
    Candidates,
    Vectors,
    check_embedder,
    check_target,
    checked_corpus,
    checked_queries,
)
from cosup.index.corpus import StoredCorpus
from cosup.index.filters import Filter
from cosup.index.manifest import VERIFIED_ON_LOAD, IndexManifest, SegmentRecord
from cosup.index.segment import EXACT_UP_TO, Segment, SegmentPlan, passages_of, vectors_of, write_segment
from cosup.index.structures import LEAST, IndexSettings
from cosup.index.vectors import Found, blocks_of, check_vectors, merged
from cosup.locks import LOCK, held
from cosup.mishaps import disk_trouble
from cosup.records import Hit, Passage
from cosup.version import __version__

_OWN_NAMES = (MANIFEST, "segment-*", f"{LOCK}*", f"{PARTIAL}*", f".{MANIFEST}.*.tmp")
_NAMES_OF_FORMAT_1 = ("vectors.faiss", "passages.jsonl")
_PATIENCE = 30.0  # seconds that a writer waits for another


class FaissIndex:
    """An index folder, open for searching and for changes.

    Made by `build` or `load`; searched as `VectorIndex` says, changed as `LiveIndex` says.
    """

    def __init__(self, folder: Path, manifest: IndexManifest, segments: Sequence[Segment]) -> None:
        self.folder = folder
        self.manifest = manifest
        self._segments = list(segments)

    @classmethod
    def build(
        cls,
        folder: str | Path,
        passages: Sequence[Passage],
        vectors: Vectors,
        embedder_fingerprint: str,
        similarity: str,
        settings: IndexSettings | None = None,
    ) -> FaissIndex:
        """Write an index folder, whole or not at all; an index that was there before stays until the new one is done.

        Args:
            folder: where to; may hold an older index, nothing else.
            passages: N passages; read once, in order.
            vectors: [N, D] float32 or float16, of unit length where `similarity` is `cosine`; may be memory-mapped.
            embedder_fingerprint: of the embedder that made the vectors.
            similarity: `cosine` or `inner_product`.
            settings: type and precision; by default chosen from N, and float32.

        Raises:
            InputError: no passages, or two with one id.
            UsageError: the vectors don't fit the passages or the similarity, or `folder` cannot be used.
            CosupError: a vector is not finite.
        """
        folder, settings = Path(folder), settings or IndexSettings()
        if not len(passages):
            raise InputError("the corpus has no passages; expected at least one")
        check_vectors(vectors, len(passages), similarity)
        check_folder(folder)
        chosen, reason = settings.choose(len(passages))
        empty = IndexManifest(
            chosen, settings.type, reason, vectors.shape[1], similarity, settings.vector_dtype, embedder_fingerprint
        )
        with _locked(folder):
            old = [folder / name for name in _NAMES_OF_FORMAT_1 if (folder / MANIFEST).is_file()]
            plan = _plan(empty, LEAST, settings.seed)
            record = write_segment(folder, passages, blocks_of(vectors), plan)
            manifest = replace(empty, segments=(record,))
            manifest.commit(folder)
            for path in old:
                path.unlink(missing_ok=True)
            _remove_unnamed(folder, manifest)
        return cls.load(folder, embedder_fingerprint)

    @classmethod
    def load(cls, folder: str | Path, expected_fingerprint: str | None) -> FaissIndex:
        """Open an index folder and check that it is whole.

        The manifest and the size of every file are always checked; the contents are compared with their checksums
        where all files have at most `VERIFIED_ON_LOAD` bytes. `cosup info --verify` compares those of any index.

        Args:
            folder: what `build` wrote.
            expected_fingerprint: of the embedder whose pair will ask; None accepts any.

        Raises:
            InputError: it was made by another embedder, or a file is missing, damaged or of another format.
        """
        folder = Path(folder)
        manifest = IndexManifest.read(folder)
        while True:
            check_embedder(manifest.embedder_fingerprint, expected_fingerprint, folder)
            try:
                manifest.check_sizes(folder)
                if manifest.size <= VERIFIED_ON_LOAD:
                    manifest.verify(folder)
                return cls(folder, manifest, [Segment(folder, manifest, s) for s in manifest.segments])
            except (InputError, OSError) as error:
                newer = IndexManifest.read(folder)
                if newer != manifest:  # it was changed while it was opened
                    manifest = newer
                elif isinstance(error, OSError):
                    raise InputError(f"cannot be read: {error.strerror or error}", error.filename or folder) from error
                else:
                    raise

    def changed(self) -> bool:
        """Whether others have changed it since it was opened."""
        return IndexManifest.read(self.folder) != self.manifest

    def reopened(self) -> FaissIndex:
        """Return it as others have left it. Raises as `load`."""
        return FaissIndex.load(self.folder, self.embedder_fingerprint)

    def rows(self) -> list[tuple[str, str]]:
        """Return its kind and how well it finds."""
        return self.manifest.rows()

    @property
    def outgrown(self) -> bool:
        """Whether additions have made it larger than it would be searched exactly, had it been built of all of this."""
        chosen, _ = IndexSettings(self.manifest.asked, self.manifest.vector_dtype).choose(len(self))
        return self.manifest.type == "flat" and chosen != "flat"

    @property
    def embedder_fingerprint(self) -> str:
        """Names the embedder that made the vectors."""
        return self.manifest.embedder_fingerprint

    @property
    def identity(self) -> str:
        """Names what is searched: changes whenever a passage or a vector does."""
        return self.manifest.identity

    @property
    def dimension(self) -> int:
        """D."""
        return self.manifest.dimension

    def __len__(self) -> int:
        return self.manifest.count

    def __iter__(self) -> Iterator[Passage]:
        return passages_of(self._segments)

    def passage(self, passage_id: str) -> Passage:
        """Return a passage. Raises `InputError` where no passage has this id."""
        number, row = self._place(passage_id)
        return self._segments[number].store.at(row)

    # -- searching -----------------------------------------------------------------------------------------------------

    def search(
        self, queries: Vectors, k: int, candidates: Candidates | None = None, filter: Filter | None = None
    ) -> list[list[Hit]]:
        """Find the passages with the highest inner products: see `VectorIndex.search`.

        Candidates are always searched exactly. Where an approximate search comes upon fewer passages than are asked
        for and there, the exact one takes its place.
        """
        queries = checked_queries(queries, k, self.dimension, candidates)
        if candidates is None:
            return self._search_all(queries, k, filter)
        return [self._search_one(query[None], k, ids, filter) for query, ids in zip(queries, candidates, strict=True)]

    def _search_one(self, query: Vectors, k: int, ids: Sequence[str] | None, filter: Filter | None) -> list[Hit]:
        if ids is None:
            return self._search_all(query, k, filter)[0]
        found = []
        for number, rows in self._places(ids, strict=True).items():
            segment = self._segments[number]
            found.append((number, segment.vectors.top(query, k, segment.matching(np.array(sorted(rows)), filter))[0]))
        return self._hits(found, k)

    def _search_all(self, queries: Vectors, k: int, filter: Filter | None) -> list[list[Hit]]:
        parts = [segment.search(queries, k, filter) for segment in self._segments]
        return [
            self._hits([(number, part[query]) for number, part in enumerate(parts)], k) for query in range(len(queries))
        ]

    def _hits(self, found: Sequence[tuple[int, Found]], k: int) -> list[Hit]:
        """Merge what the segments have found for one query."""
        if not found:
            return []
        firsts = np.cumsum([0, *(segment.record.count for segment in self._segments)])
        scores, rows = merged([(scores, rows + firsts[number]) for number, (scores, rows) in found], k)
        numbers = np.searchsorted(firsts, rows, side="right") - 1
        passages = (self._segments[n].store.at(int(row - firsts[n])) for n, row in zip(numbers, rows, strict=True))
        return [Hit(passage.id, float(score)) for passage, score in zip(passages, scores, strict=True)]

    def _place(self, passage_id: str) -> tuple[int, int]:
        """Return segment and row of a passage."""
        for number in reversed(range(len(self._segments))):
            row = self._segments[number].row(passage_id)
            if row is not None:
                return number, row
        raise InputError(f"no passage {passage_id!r} among the {len(self):,} of the index")

    def _places(self, ids: Iterable[str], strict: bool) -> dict[int, set[int]]:
        """Return the rows of passages by segment; those that are not there are left out unless `strict`."""
        places: dict[int, set[int]] = {}
        for passage_id in ids:
            with contextlib.nullcontext() if strict else contextlib.suppress(InputError):
                number, row = self._place(passage_id)
                places.setdefault(number, set()).add(row)
        return places

    # -- changing ------------------------------------------------------------------------------------------------------

    def add(self, passages: Sequence[Passage], vectors: Vectors) -> None:
        """Add passages: see `LiveIndex.add`."""
        self._check_new(passages, vectors)
        with self._changing():
            for passage in passages:
                if self._places([passage.id], strict=False):
                    raise InputError(
                        f"the index has a passage {passage.id!r} already; replace it, or choose another id"
                    )
            self._commit(self._with_added(self._segments, passages, vectors))

    def replace(self, passages: Sequence[Passage], vectors: Vectors) -> None:
        """Put passages in the place of those with the same ids: see `LiveIndex.replace`."""
        self._check_new(passages, vectors)
        with self._changing():
            kept = self._without(self._places((p.id for p in passages), strict=False))
            self._commit(self._with_added(kept, passages, vectors))

    def delete(self, ids: Sequence[str]) -> None:
        """Take passages out: see `LiveIndex.delete`."""
        with self._changing():
            self._commit([segment.record for segment in self._without(self._places(ids, strict=True))])

    def compact(self) -> None:
        """Write the corpus as one segment, of the type that now fits its size where that was left to cosup."""
        with self._changing():
            chosen, reason = IndexSettings(self.manifest.asked, self.manifest.vector_dtype).choose(len(self))
            manifest = replace(self.manifest, type=chosen, reason=reason)
            records = []
            if len(self):
                passages, vectors = passages_of(self._segments), vectors_of(self._segments)
                records = [write_segment(self.folder, passages, vectors, _plan(manifest, LEAST))]
            self._commit(records, manifest)

    def _check_new(self, passages: Sequence[Passage], vectors: Vectors) -> None:
        if not isinstance(passages, StoredCorpus):  # a store has seen to its ids
            checked_corpus(passages)
        check_vectors(vectors, len(passages), self.manifest.similarity, self.dimension)

    def _without(self, places: Mapping[int, set[int]]) -> list[Segment]:
        """Return the segments without some rows; one that has no passage left is gone."""
        kept = []
        for number, segment in enumerate(self._segments):
            if number in places:
                record = segment.without(places[number])
                segment = Segment(self.folder, self.manifest, record)
            if segment.live:
                kept.append(segment)
        return kept

    def _with_added(
        self, segments: Sequence[Segment], passages: Sequence[Passage], vectors: Vectors
    ) -> list[SegmentRecord]:
        """Write new passages as a segment, together with the small segments before it.

        Segments grow as they are taken up, so that there are few of them however many small changes come.
        """
        kept, taken, count = list(segments), list[Segment](), len(passages)
        while kept and kept[-1].record.structure is None and kept[-1].live <= 2 * count:
            taken.insert(0, kept.pop())
            count += taken[0].live
        together = chain(passages_of(taken), passages)  # read one by one: neither need fit into memory
        blocks = (block for part in (vectors_of(taken), blocks_of(vectors)) for block in part)
        record = write_segment(self.folder, together, blocks, _plan(self.manifest, EXACT_UP_TO))
        return [*(segment.record for segment in kept), record]

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the lock, on top of what others have changed."""
        with _locked(self.folder):
            if self.changed():
                newer = self.reopened()
                self.manifest, self._segments = newer.manifest, newer._segments
            _remove_unnamed(self.folder, self.manifest)
            yield

    def _commit(self, records: Sequence[SegmentRecord], manifest: IndexManifest | None = None) -> None:
        manifest = replace(manifest or self.manifest, segments=tuple(records), cosup_version=__version__)
        manifest.commit(self.folder)
        known = {segment.record.name: segment for segment in self._segments}
        self._segments = [
            known[r.name] if r.name in known and known[r.name].record == r else Segment(self.folder, manifest, r)
            for r in manifest.segments
        ]
        self.manifest = manifest
        _remove_unnamed(self.folder, manifest)


def check_folder(folder: Path) -> None:
    """Make sure that `folder` can become an index folder without the loss of anything else. Raises `UsageError`."""
    older = _NAMES_OF_FORMAT_1 if (folder / MANIFEST).is_file() else ()
    check_target(folder, (*_OWN_NAMES, *older))


def _plan(manifest: IndexManifest, structure_from: int, seed: int = 0) -> SegmentPlan:
    return SegmentPlan(manifest.dimension, manifest.vector_dtype, manifest.type, structure_from, seed)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder against other writers; what the disk refuses is an error of ours."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with held(folder / LOCK, f"{folder} is being changed", _PATIENCE):
            yield
    except OSError as error:
        why = error.strerror or disk_trouble(error) or error
        raise UsageError(f"cannot write an index to {folder}: {why}") from error


def _remove_unnamed(folder: Path, manifest: IndexManifest) -> None:
    """Remove what the manifest does not name: files of before, and what a killed change has left."""
    named = {segment.name: segment.files for segment in manifest.segments}
    for place in folder.glob("segment-*"):
        if place.name not in named:
            shutil.rmtree(place, ignore_errors=True)
            continue
        for path in place.iterdir():
            if path.name not in named[place.name]:
                path.unlink(missing_ok=True)
    for path in folder.glob(f".{MANIFEST}.*.tmp"):
        path.unlink(missing_ok=True)
