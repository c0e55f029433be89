"""An index in Milvus: a file of Milvus Lite, a server or a cluster, by the same contract as the others.

An index is a collection that nobody but cosup names, and an alias, which is the index's name. The alias is set when the
collection is whole, in one step, and so an index that is not whole cannot be opened; one that is built anew is replaced
in that step. What a killed build has left is taken away by the next build of the same name.

Milvus finds the neighbours, with candidates and filters as expressions; the scores are computed here from the vectors it
returns, so that a score never depends on the other queries, nor on how Milvus compares. Equal scores come in the order
of the corpus, which is that in which passages came; one that was replaced counts as new. Where Milvus searches exactly (Milvus Lite unless told otherwise; `flat`) that holds at the end of the
list too, up to 16,384 hits; where it searches approximately, it may miss some of those that are equal to the last.

Shapes: Q queries, N passages, D dimensions.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cosup.errors import CosupError, InputError, UsageError
from cosup.index.base import Candidates, Vectors, check_embedder, checked_corpus
from cosup.index.corpus import StoredCorpus
from cosup.index.filters import Filter
from cosup.index.milvus_client import (
    IDS_AT_ONCE,
    MOST_HITS,
    MilvusConnection,
    Table,
    check_exists,
    connect,
    search_settings,
)
from cosup.index.milvus_expressions import FIELDS, Row, filter_expression, ids_expression, passage_of, row_of
from cosup.index.milvus_place import MilvusPlace, check_index_type
from cosup.index.milvus_state import MilvusState, StateTable
from cosup.index.shards import VectorRows
from cosup.records import Hit, Passage

ROWS_AT_ONCE = 1000  # read or written together
_MARGIN = 8  # hits asked for beyond k, so that ties are mostly seen at once
_NOISE = 1e-5  # of Milvus's own scores, over the product of the norms
_ANSWER_BYTES = 16 * 2**20  # of vectors in one answer of Milvus
_UNIT_TOLERANCE = 2e-3


class _Found(NamedTuple):
    """A hit; sorts best first."""

    minus_score: float
    number: int
    passage_id: str


class MilvusIndex:
    """An index in Milvus.

    Made by `build` or `load`; searched as `VectorIndex` says and changed as `LiveIndex` says, by one writer at a time.
    """

    def __init__(self, connection: MilvusConnection, collection: str, state: MilvusState) -> None:
        self.state = state
        self._main = Table(connection, collection)
        self._state_table = StateTable(connection, collection)

    # -- making and opening it -------------------------------------------------------------------------------------

    @classmethod
    def check_target(cls, place: str | Path) -> None:
        """Make sure that an index can be built somewhere, as far as that can be said before.

        Raises:
            UsageError: the extra is not installed, the place is written wrongly, or something else has this name.
            CosupError: no server answers.
        """
        target = MilvusPlace.parse(place)
        if target.lite and not Path(target.uri).exists():
            _check_extra(target)
        else:
            _check_name(connect(target))

    @classmethod
    def build(
        cls,
        place: str | Path,
        passages: Sequence[Passage],
        vectors: VectorRows,
        embedder_fingerprint: str,
        similarity: str,
        index_type: str | None = None,
    ) -> MilvusIndex:
        """Write an index, whole or not at all; one of the same name stays until the new one is done.

        Args:
            place: see `milvus_place`.
            passages: N passages.
            vectors: [N, D] float32 or float16, of unit length where `similarity` is `cosine`; read in parts.
            embedder_fingerprint: of the embedder that made the vectors.
            similarity: `cosine` or `inner_product`.
            index_type: one of `INDEX_TYPES`; None is what the place says.

        Raises:
            InputError: no passages, two with one id, or one that Milvus cannot hold.
            UsageError: the vectors don't fit the passages or the similarity, or the place cannot be used.
            CosupError: a vector is not finite, or Milvus cannot do it.
        """
        target = MilvusPlace.parse(place)
        check_index_type(index_type or target.index_type)
        _check_shape(vectors, len(passages), similarity)
        if target.lite:
            _make_parent(target)
        connection = connect(target)
        old = _check_name(connection)
        _clear_leftovers(connection, old)
        settings = search_settings(index_type or target.index_type, len(passages), target.lite)
        start = MilvusState(embedder_fingerprint, similarity, vectors.shape[1], settings, len(passages), "")
        collection = f"{target.name}_{secrets.token_hex(4)}"
        try:
            state = _fill(connection, collection, passages, vectors, start)
            connection.point(target.name, collection)
        except BaseException:
            _drop(connection, collection)
            raise
        if old is not None:
            _drop(connection, old)
        return cls(connection, collection, state)

    @classmethod
    def load(cls, place: str | Path, expected_fingerprint: str | None) -> MilvusIndex:
        """Open an index; a change that was killed half way is carried out first.

        Args:
            place: see `milvus_place`.
            expected_fingerprint: of the embedder whose pair will ask; None accepts any.

        Raises:
            InputError: there is no such index, another embedder made it, or it is damaged.
            UsageError: the extra is not installed, or another process uses the file.
            CosupError: no server answers.
        """
        target = MilvusPlace.parse(place)
        check_exists(target)
        connection = connect(target)
        collection = connection.target_of(target.name)
        if collection is None or not StateTable.is_there(connection, collection):
            raise InputError(f"no index '{target.name}' of cosup's there; {_others(connection)}", target.shown)
        table = StateTable(connection, collection)
        table.table.load()
        state = table.read()
        check_embedder(state.embedder_fingerprint, expected_fingerprint, target.shown)
        main = Table(connection, collection)
        main.load()
        return cls(connection, collection, table.finish(main, state))

    # -- what it is ------------------------------------------------------------------------------------------------

    @property
    def embedder_fingerprint(self) -> str:
        """Names the embedder that made the vectors."""
        return self.state.embedder_fingerprint

    @property
    def identity(self) -> str:
        """Names what is searched: another after every change, by whomever."""
        return self._state_table.read().version

    @property
    def dimension(self) -> int:
        """D."""
        return self.state.dimension

    def __len__(self) -> int:
        return self._main.count()

    def __iter__(self) -> Iterator[Passage]:
        """Yield the passages in the order of the corpus, some of them in memory."""
        for start in range(0, self._state_table.read().next_number, ROWS_AT_ONCE):
            rows = self._main.where(f"number >= {start} and number < {start + ROWS_AT_ONCE}", FIELDS)
            yield from map(passage_of, sorted(rows, key=lambda row: int(row["number"])))

    def passage(self, passage_id: str) -> Passage:
        """Return a passage. Raises `InputError` where no passage has this id."""
        rows = self._main.get([passage_id], FIELDS)
        if not rows:
            raise self._missing(passage_id)
        return passage_of(rows[0])

    # -- searching it ----------------------------------------------------------------------------------------------

    def search(
        self, queries: Vectors, k: int, candidates: Candidates | None = None, where: Filter | None = None
    ) -> list[list[Hit]]:
        """Find the passages with the highest inner products: see `VectorIndex.search`.

        Raises:
            UsageError: also where `k` is more than Milvus can return.
        """
        queries = self._checked_queries(queries, k)
        condition = "" if where is None else filter_expression(where)
        limits: Candidates = [None] * len(queries) if candidates is None else candidates
        if len(limits) != len(queries):
            raise UsageError(f"{len(limits)} candidate lists for {len(queries)} queries; expected one a query")
        groups: dict[tuple[str, ...] | None, list[int]] = {}
        for number, ids in enumerate(limits):
            groups.setdefault(None if ids is None else tuple(sorted(set(ids))), []).append(number)
        self._check_candidates(groups)
        hits: list[list[Hit]] = [[]] * len(queries)
        for ids, numbers in groups.items():
            for number, found in zip(numbers, self._among(queries[numbers], k, ids, condition), strict=True):
                hits[number] = [Hit(f.passage_id, -f.minus_score) for f in found]
        return hits

    def _among(self, queries: Vectors, k: int, ids: Sequence[str] | None, condition: str) -> list[list[_Found]]:
        """Return each query's `k` best among some passages, whose ids may be too many for one expression."""
        if ids is None:
            return self._nearest(queries, k, condition)
        found: list[list[_Found]] = [[] for _ in queries]
        for start in range(0, len(ids), IDS_AT_ONCE):
            own = ids_expression(ids[start : start + IDS_AT_ONCE])
            part = self._nearest(queries, k, f"{own} and {condition}" if condition else own)
            found = [sorted(a + b)[:k] for a, b in zip(found, part, strict=True)]
        return found

    def _nearest(self, queries: Vectors, k: int, expression: str) -> list[list[_Found]]:
        """Return each query's `k` best; asks for more where the last may have equals that were not returned."""
        best: list[list[_Found]] = [[]] * len(queries)
        unsettled, limit = list(range(len(queries))), min(k + _MARGIN, MOST_HITS)
        while unsettled:
            again = []
            for numbers in self._portions(unsettled, limit):
                answers = self._main.search(queries[numbers], limit, expression, self.state.search)
                for number, answer in zip(numbers, answers, strict=True):
                    found, noise = _scored(queries[number], answer)
                    best[number] = found[:k]
                    if len(answer) == limit < MOST_HITS and -found[k - 1].minus_score - noise <= answer[-1]["distance"]:
                        again.append(number)
            unsettled, limit = again, min(4 * limit, MOST_HITS)
        return best

    def _portions(self, numbers: Sequence[int], limit: int) -> Iterator[list[int]]:
        """Yield as many queries at a time as one answer can serve."""
        size = max(1, _ANSWER_BYTES // (4 * self.dimension * limit))
        return (list(numbers[start : start + size]) for start in range(0, len(numbers), size))

    def _check_candidates(self, groups: dict[tuple[str, ...] | None, list[int]]) -> None:
        wanted = sorted({passage_id for ids in groups if ids for passage_id in ids})
        known = {row["id"] for row in self._main.get(wanted, ["id"])}
        for passage_id in wanted:
            if passage_id not in known:
                raise self._missing(passage_id)

    def _checked_queries(self, queries: Vectors, k: int) -> Vectors:
        if queries.ndim != 2 or queries.shape[1] != self.dimension:
            raise UsageError(f"queries have the shape {queries.shape}; expected [Q, {self.dimension}]")
        if k < 1:
            raise UsageError(f"k is {k}; expected at least 1")
        if k > MOST_HITS and len(self) > MOST_HITS:
            raise UsageError(f"k is {k:,}; Milvus returns at most {MOST_HITS:,} hits")
        wrong = np.flatnonzero(~np.isfinite(queries).all(axis=1))
        if wrong.size:
            raise CosupError(f"query {wrong[0]} is not finite; the generator's training may have diverged")
        return np.ascontiguousarray(queries, dtype=np.float32)

    def _missing(self, passage_id: str) -> InputError:
        return InputError(f"no passage {passage_id!r} among the {len(self):,} of the index")

    # -- changing it -----------------------------------------------------------------------------------------------

    def add(self, passages: Sequence[Passage], vectors: Vectors) -> None:
        """Add passages: see `LiveIndex.add`."""
        self._check_new(passages, vectors)
        known = self._main.get([p.id for p in passages], ["id"])
        if known:
            raise InputError(f"the index has a passage {known[0]['id']!r} already; replace it, or choose another id")
        self._write(passages, vectors)

    def replace(self, passages: Sequence[Passage], vectors: Vectors) -> None:
        """Put passages in the place of those with the same ids: see `LiveIndex.replace`.

        In the order of the corpus they come last: what was replaced counts as new.
        """
        self._check_new(passages, vectors)
        self._write(passages, vectors)

    def delete(self, ids: Sequence[str]) -> None:
        """Take passages out: see `LiveIndex.delete`."""
        wanted = list(dict.fromkeys(ids))
        known = {row["id"] for row in self._main.get(wanted, ["id"])}
        for passage_id in wanted:
            if passage_id not in known:
                raise self._missing(passage_id)
        if wanted:
            state = replace(self._state_table.read(), version=secrets.token_hex(16))
            self.state = self._state_table.change(self._main, state, [], wanted)

    def compact(self) -> None:
        """Let Milvus free what deleted passages take."""
        self._main.compact()
        self._state_table.table.compact()

    def _check_new(self, passages: Sequence[Passage], vectors: Vectors) -> None:
        if passages:
            checked_corpus(passages)
        _check_shape(vectors, len(passages), self.state.similarity, self.dimension)
        _check_values(vectors, self.state.similarity)

    def _write(self, passages: Sequence[Passage], vectors: Vectors) -> None:
        """Write passages at the end of the corpus, over those with the same ids."""
        if not passages:
            return
        state = self._state_table.read()
        rows = [
            row_of(passage, state.next_number + i, np.asarray(vectors[i], dtype=np.float32))
            for i, passage in enumerate(passages)
        ]
        state = replace(state, next_number=state.next_number + len(rows), version=secrets.token_hex(16))
        self.state = self._state_table.change(self._main, state, rows, [])


# -- building --------------------------------------------------------------------------------------------------------


def _fill(
    connection: MilvusConnection,
    collection: str,
    passages: Sequence[Passage],
    vectors: VectorRows,
    state: MilvusState,
) -> MilvusState:
    """Write the collections of an index and return its state."""
    main, digest = connection.create(collection, state.dimension), hashlib.sha256(state.embedder_fingerprint.encode())
    seen: set[str] | None = None if isinstance(passages, StoredCorpus) else set()  # a store has seen to its ids
    for start in range(0, len(passages), ROWS_AT_ONCE):
        part = passages[start : start + ROWS_AT_ONCE]
        block = np.asarray(vectors[start : start + len(part)], dtype=np.float32)
        _check_values(block, state.similarity)
        rows = [row_of(p, start + i, block[i]) for i, p in enumerate(part)]
        if seen is not None:
            _check_distinct(rows, seen)
        main.insert(rows)
        digest.update(block.tobytes() + json.dumps([p.to_dict() for p in part]).encode())
    main.serve(state.search)
    if main.count() != len(passages):
        raise CosupError(f"{connection.place.shown}: Milvus holds {main.count():,} of {len(passages):,} passages; build again")
    state = replace(state, version=digest.hexdigest())
    StateTable.create(connection, collection, state.dimension).write(state)
    return state


def _check_distinct(rows: Sequence[Row], seen: set[str]) -> None:
    """Refuse ids that come twice: to Milvus the second would be another row of the same key."""
    for row in rows:
        if row["id"] in seen:
            raise InputError(f"two passages have the id {row['id']!r}")
        seen.add(row["id"])


def _check_name(connection: MilvusConnection) -> str | None:
    """Return the collection that the index's name stands for now, None where it is free.

    Raises:
        UsageError: the name is taken by what is not cosup's.
    """
    name = connection.place.name
    found = connection.target_of(name)
    taken = name if name in connection.call("list_collections") else found
    if taken is not None and not (found and StateTable.is_there(connection, found)):
        raise UsageError(
            f"{connection.place.shown}: '{name}' is a collection that cosup did not make; choose another name"
        )
    return found


def _clear_leftovers(connection: MilvusConnection, current: str | None) -> None:
    """Take away what builds of this index that were killed have left."""
    own = re.compile(rf"({re.escape(connection.place.name)}_[0-9a-f]{{8}})(_state)?")
    for name in connection.call("list_collections"):
        match = own.fullmatch(name)
        if match and match[1] != current and not connection.call("list_aliases", match[1])["aliases"]:
            connection.drop(name)


def _drop(connection: MilvusConnection, collection: str) -> None:
    connection.drop(StateTable(connection, collection).table.name)
    connection.drop(collection)


def _others(connection: MilvusConnection) -> str:
    names = sorted(connection.call("list_aliases")["aliases"])
    return f"it has {', '.join(names)}" if names else "make one with 'cosup index'"


def _check_extra(place: MilvusPlace) -> None:
    import importlib.util

    if not all(importlib.util.find_spec(name) for name in ("pymilvus", "milvus_lite")):
        raise UsageError(f"{place.shown}: an index in Milvus needs more: pip install 'cosup[milvus]'")


def _make_parent(place: MilvusPlace) -> None:
    try:
        Path(place.uri).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write an index to {place.shown}: {error.strerror or error}") from error


# -- vectors ---------------------------------------------------------------------------------------------------------


def _scored(query: Vectors, answer: Sequence[Any]) -> tuple[list[_Found], float]:
    """Return what Milvus found with scores of our own, best first, and how far Milvus's may be off."""
    if not answer:
        return [], 0.0
    vectors = np.array([hit["entity"]["vector"] for hit in answer], dtype=np.float64)
    own = query.astype(np.float64)
    scores = np.float32((vectors * own).sum(axis=1)).tolist()
    noise = _NOISE * float(np.linalg.norm(own) * np.linalg.norm(vectors, axis=1).max())
    found = [_Found(-s, int(hit["entity"]["number"]), str(hit["id"])) for s, hit in zip(scores, answer, strict=True)]
    return sorted(found), noise


def _check_shape(vectors: VectorRows, count: int, similarity: str, dimension: int | None = None) -> None:
    if similarity not in ("cosine", "inner_product"):
        raise UsageError(f"similarity is '{similarity}'; expected cosine or inner_product")
    shape = list(vectors.shape)
    fits = len(shape) == 2 and shape[0] == count and dimension in (None, shape[1])
    if not fits or vectors.dtype not in (np.float32, np.float16):
        wanted = f"float32 [{count}, {'D' if dimension is None else dimension}]"
        raise UsageError(f"vectors are {vectors.dtype} {shape}; expected {wanted}")
    if dimension is None and not count:
        raise InputError("the corpus has no passages; expected at least one")


def _check_values(block: Vectors, similarity: str) -> None:
    if not np.isfinite(block).all():
        raise CosupError("a vector is not finite; the embedder's training may have diverged")
    lengths = np.linalg.norm(block.astype(np.float32), axis=1)
    if similarity == "cosine" and len(block) and np.abs(lengths - 1).max() > _UNIT_TOLERANCE:
        raise UsageError("vectors are not of unit length, which the similarity 'cosine' needs")
