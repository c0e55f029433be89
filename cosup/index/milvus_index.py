"""An index in Milvus: a file of Milvus Lite, a server or a cluster, by the same contract as the others.

An index is a collection that nobody but cosup names, and an alias, which is the index's name. The alias is set when the
collection is whole, in one step, and so an index that is not whole cannot be opened; one that is built anew is replaced
in that step. What a killed build has left is taken away by the next build of the same name.

Milvus finds the neighbours, with candidates and filters as expressions; the scores are computed here from the vectors
it returns, so that a score never depends on the other queries, nor on how Milvus compares. Candidates, and what a
filter leaves where that is few, are compared one by one, whatever the type of index. Equal scores come in the order of
the corpus, which is that in which passages came; one that was replaced counts as new. Where Milvus searches exactly
(Milvus Lite unless told otherwise; `flat`) that holds at the end of the list too, up to 16,384 hits; where it searches
approximately, it may miss some of those that are equal to the last.

What is read is of one state, before a change or after it; see `milvus_state`.

Shapes: Q queries, N passages, D dimensions.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cosup.errors import CosupError, InputError, UsageError
from cosup.index.base import (
    Candidates,
    Vectors,
    check_embedder,
    check_shape,
    check_values,
    checked_corpus,
    checked_queries,
)
from cosup.index.filters import Filter
from cosup.index.milvus_build import (
    ROWS_AT_ONCE,
    build_collections,
    check_extra,
    checked_name,
    make_parent,
)
from cosup.index.milvus_client import (
    MOST_HITS,
    MilvusConnection,
    Table,
    check_exists,
    connect,
    search_settings,
)
from cosup.index.milvus_expressions import FIELDS, filter_expression, passage_of, row_of
from cosup.index.milvus_place import MilvusPlace, check_index_type, check_vector_dtype
from cosup.index.milvus_search import MilvusSearch
from cosup.index.milvus_state import MilvusState, StateTable
from cosup.index.shards import VectorRows
from cosup.records import Hit, Passage


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
    def check_target(cls, place: str | Path, index_type: str = "auto", vector_dtype: str = "float32") -> None:
        """Make sure that an index can be built somewhere, as far as that can be said before.

        Args:
            place: see `milvus_place`.
            index_type: that it is to have.
            vector_dtype: that its vectors are to have.

        Raises:
            UsageError: the extra is not installed, the place is written wrongly, something else has this name, or
                Milvus has no such index or vectors here.
            CosupError: no server answers.
        """
        target = MilvusPlace.parse(place)
        check_index_type(index_type)
        check_vector_dtype(vector_dtype)
        if target.lite and not Path(target.uri).exists():
            check_extra(target)
        else:
            checked_name(connect(target))

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
        if not len(passages):
            raise InputError("the corpus has no passages; expected at least one")
        check_shape(vectors, len(passages), similarity)
        if target.lite:
            make_parent(target)
        connection = connect(target)
        settings = search_settings(index_type or target.index_type, len(passages), target.lite)
        start = MilvusState(embedder_fingerprint, similarity, vectors.shape[1], settings, len(passages), "")
        return cls(connection, *build_collections(connection, passages, vectors, start))

    @classmethod
    def load(cls, place: str | Path, expected_fingerprint: str | None) -> MilvusIndex:
        """Open an index.

        On a server nothing is written. A file belongs to this process alone, and so a change of it that was killed half
        way is carried out.

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
        if target.lite:
            with table.writing(main) as state:
                return cls(connection, collection, state)
        return cls(connection, collection, state)

    # -- what it is ------------------------------------------------------------------------------------------------

    @property
    def embedder_fingerprint(self) -> str:
        """Names the embedder that made the vectors."""
        return self.state.embedder_fingerprint

    @property
    def identity(self) -> str:
        """Names what is searched: another after every change, by whomever."""
        return self._state_table.whole(lambda state: state.version)

    @property
    def dimension(self) -> int:
        """D."""
        return self.state.dimension

    def changed(self) -> bool:
        """Whether others have changed it unseen: every search sees all changes."""
        return False

    def reopened(self) -> MilvusIndex:
        """Return itself, which sees all changes."""
        return self

    def rows(self) -> list[tuple[str, str]]:
        """Return nothing: Milvus is not measured."""
        return []

    @property
    def outgrown(self) -> bool:
        """Whether additions made it slow: Milvus sees to its structures itself."""
        return False

    def __len__(self) -> int:
        return self._state_table.whole(lambda _: self._main.count())

    def __iter__(self) -> Iterator[Passage]:
        """Yield the passages in the order of the corpus, some of them in memory.

        Raises:
            CosupError: the index is changed meanwhile.
        """
        begun = self._state_table.whole(lambda state: state)
        for start in range(0, begun.next_number, ROWS_AT_ONCE):
            rows = self._main.where(f"number >= {start} and number < {start + ROWS_AT_ONCE}", FIELDS)
            if self._state_table.read().version != begun.version:
                raise CosupError(f"{self._main.connection.place.shown}: changed while it was read; read it again")
            yield from map(passage_of, sorted(rows, key=lambda row: int(row["number"])))

    def passage(self, passage_id: str) -> Passage:
        """Return a passage. Raises `InputError` where no passage has this id."""
        rows = self._main.get([passage_id], FIELDS)
        if not rows:
            raise self._missing(passage_id)
        return passage_of(rows[0])

    def some(self, count: int) -> list[Passage]:
        """Return that many passages, any of them in any order; all where there are fewer."""
        return [passage_of(row) for row in self._main.where("number >= 0", FIELDS, count)]

    # -- searching it ----------------------------------------------------------------------------------------------

    def search(
        self, queries: Vectors, k: int, candidates: Candidates | None = None, filter: Filter | None = None
    ) -> list[list[Hit]]:
        """Find the passages with the highest inner products: see `VectorIndex.search`.

        Raises:
            UsageError: also where `k` is more than Milvus can return.
        """
        queries = checked_queries(queries, k, self.dimension, candidates)
        if k > MOST_HITS and self._main.count() > MOST_HITS:
            raise UsageError(f"k is {k:,}; Milvus returns at most {MOST_HITS:,} hits")
        condition = "" if filter is None else filter_expression(filter)
        limits: Candidates = [None] * len(queries) if candidates is None else candidates
        return self._state_table.whole(lambda _: self._found(queries, k, limits, condition))

    def _found(self, queries: Vectors, k: int, limits: Candidates, condition: str) -> list[list[Hit]]:
        groups: dict[tuple[str, ...] | None, list[int]] = {}
        for number, ids in enumerate(limits):
            groups.setdefault(None if ids is None else tuple(sorted(set(ids))), []).append(number)
        self._check_candidates(groups)
        search = MilvusSearch(self._main, self.state.search)
        hits: list[list[Hit]] = [[]] * len(queries)
        for ids, numbers in groups.items():
            for number, found in zip(numbers, search.among(queries[numbers], k, ids, condition), strict=True):
                hits[number] = [Hit(f.passage_id, -f.minus_score) for f in found]
        return hits

    def _check_candidates(self, groups: dict[tuple[str, ...] | None, list[int]]) -> None:
        wanted = sorted({passage_id for ids in groups if ids for passage_id in ids})
        known = {row["id"] for row in self._main.get(wanted, ["id"])}
        for passage_id in wanted:
            if passage_id not in known:
                raise self._missing(passage_id)

    def _missing(self, passage_id: str) -> InputError:
        return InputError(f"no passage {passage_id!r} among the {self._main.count():,} of the index")

    # -- changing it -----------------------------------------------------------------------------------------------

    def add(self, passages: Sequence[Passage], vectors: Vectors) -> None:
        """Add passages: see `LiveIndex.add`."""
        self._check_new(passages, vectors)
        with self._state_table.writing(self._main) as state:
            known = self._main.get([p.id for p in passages], ["id"])
            if known:
                raise InputError(
                    f"the index has a passage {known[0]['id']!r} already; replace it, or choose another id"
                )
            self._write(state, passages, vectors)

    def replace(self, passages: Sequence[Passage], vectors: Vectors) -> None:
        """Put passages in the place of those with the same ids: see `LiveIndex.replace`.

        In the order of the corpus they come last: what was replaced counts as new.
        """
        self._check_new(passages, vectors)
        with self._state_table.writing(self._main) as state:
            self._write(state, passages, vectors)

    def delete(self, ids: Sequence[str]) -> None:
        """Take passages out: see `LiveIndex.delete`."""
        wanted = list(dict.fromkeys(ids))
        with self._state_table.writing(self._main) as state:
            known = {row["id"] for row in self._main.get(wanted, ["id"])}
            for passage_id in wanted:
                if passage_id not in known:
                    raise self._missing(passage_id)
            if wanted:
                state = replace(state, version=secrets.token_hex(16))
                self.state = self._state_table.change(self._main, state, [], wanted)

    def compact(self) -> None:
        """Let Milvus free what deleted passages take; a change that was interrupted is carried out first."""
        with self._state_table.writing(self._main):
            self._main.compact()
            self._state_table.table.compact()

    def _check_new(self, passages: Sequence[Passage], vectors: Vectors) -> None:
        if passages:
            checked_corpus(passages)
        check_shape(vectors, len(passages), self.state.similarity, self.dimension)
        check_values(vectors, self.state.similarity)

    def _write(self, state: MilvusState, passages: Sequence[Passage], vectors: Vectors) -> None:
        """Write passages at the end of the corpus, over those with the same ids."""
        if not passages:
            return
        rows = [
            row_of(passage, state.next_number + i, np.asarray(vectors[i], dtype=np.float32))
            for i, passage in enumerate(passages)
        ]
        state = replace(state, next_number=state.next_number + len(rows), version=secrets.token_hex(16))
        self.state = self._state_table.change(self._main, state, rows, [])


def _others(connection: MilvusConnection) -> str:
    names = sorted(connection.call("list_aliases")["aliases"])
    return f"it has {', '.join(names)}" if names else "make one with 'cosup index'"
