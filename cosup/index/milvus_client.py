"""Talking to Milvus: a connection, collections of passages in it, and its errors in a line.

Milvus Lite runs inside this process; a file of it belongs to one process at a time.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosup.errors import CosupError, InputError, UsageError, needs_extra
from cosup.index.milvus_expressions import LONGEST_TEXT, Row, ids_expression, in_batches
from cosup.index.milvus_place import MilvusPlace

SECONDS_TO_CONNECT = 10.0
IDS_AT_ONCE = 1000  # in one expression
MOST_ROWS, MOST_BYTES = 2000, 8 * 2**20  # of one message, which Milvus takes whole or not at all
MOST_HITS = 16_384  # that Milvus returns of a query
_LITE_CHANNEL = {"grpc.keepalive_time_ms": 2**31 - 1}  # its server hangs up on a client that asks whether it is alive
_PASSAGES_A_LIST = 39  # of an IVF index, at least: with fewer, its lists are not learnt well
_LISTS_PROBED = 16  # at least, by a search that is not thorough
_MOST_EF = 32_768  # that Milvus takes


@dataclass(frozen=True)
class SearchSettings:
    """How Milvus finds neighbours.

    Attributes:
        type: Milvus's own name of the type of index.
        build: its parameters.
    """

    type: str
    build: dict[str, int]

    @property
    def exact(self) -> bool:
        """Whether a search compares everything it is limited to."""
        return self.type == "FLAT"

    def search(self, limit: int, thorough: bool = False) -> dict[str, int]:
        """Return the parameters of a search.

        Args:
            limit: hits it is for.
            thorough: whether it looks as far as the type of index can: of IVF, into all lists.
        """
        if self.type.startswith("IVF"):
            lists = self.build["nlist"]
            return {"nprobe": lists if thorough else min(lists, max(_LISTS_PROBED, lists // 16))}
        if self.type == "HNSW":
            return {"ef": _MOST_EF if thorough else max(128, 2 * limit)}
        return {}


def search_settings(index_type: str, count: int, lite: bool) -> SearchSettings:
    """Choose the index of a collection.

    Args:
        index_type: one of `INDEX_TYPES`; `auto` is exact in Milvus Lite, and on a server its AUTOINDEX.
        count: passages.
        lite: whether it is Milvus Lite, which has no AUTOINDEX of its own.
    """
    nlist = max(1, min(65_536, round(4 * count**0.5), count // _PASSAGES_A_LIST))
    known = {
        "flat": SearchSettings("FLAT", {}),
        "autoindex": SearchSettings("AUTOINDEX", {}),
        "hnsw": SearchSettings("HNSW", {"M": 16, "efConstruction": 200}),
        "ivf-flat": SearchSettings("IVF_FLAT", {"nlist": nlist}),
        "ivf-sq": SearchSettings("IVF_SQ8", {"nlist": nlist}),
    }
    return known["flat" if lite else "autoindex"] if index_type == "auto" else known[index_type]


def without_extra(place: MilvusPlace) -> UsageError:
    """Return the error of an index in Milvus where the extra is not installed."""
    return UsageError(needs_extra(f"{place.shown}: an index in Milvus", "milvus"))


def connect(place: MilvusPlace) -> MilvusConnection:
    """Connect to where an index is or is to be.

    Raises:
        UsageError: the extra is not installed, or the file is used by another process or cannot be used.
        CosupError: no server answers.
    """
    try:
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException

        if place.lite:
            import milvus_lite  # noqa: F401 - pymilvus asks for it only later
    except ImportError as error:
        raise without_extra(place) from error
    for chatter in ("pymilvus", "grpc._server"):  # they print what goes wrong, and we tell it ourselves
        logging.getLogger(chatter).setLevel(logging.CRITICAL)
    with _heard("milvus_lite.server_manager") as reasons:
        try:
            client: Any = MilvusClient(
                place.uri,
                user=place.user,
                password=place.password,
                token=place.token,
                db_name=place.database,
                timeout=SECONDS_TO_CONNECT,
                **({"grpc_options": _LITE_CHANNEL} if place.lite else {}),
            )
        except MilvusException as error:
            raise _unreachable(place, error, reasons) from error
    return MilvusConnection(place, client)


def _unreachable(place: MilvusPlace, error: Exception, reasons: Sequence[BaseException]) -> CosupError:
    if not place.lite:
        return CosupError(f"{place.shown}: no Milvus answers there ({_said(error)}); start it, or check the address")
    kinds = {type(reason).__name__ for reason in reasons}
    if "DataDirLockedError" in kinds:
        return UsageError(f"{place.uri}: another process is using it, and Milvus Lite serves one at a time")
    found = _said(reasons[0] if reasons else error)
    return UsageError(f"{place.uri}: cannot be used as a Milvus Lite file ({found}); choose another name")


class MilvusConnection:
    """A client of Milvus whose errors are cosup's.

    Args:
        place: where to.
        client: a `MilvusClient`.
    """

    def __init__(self, place: MilvusPlace, client: Any) -> None:
        self.place = place
        self._client = client

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the client.

        Raises:
            CosupError: Milvus says no, or is not there any more.
        """
        from pymilvus.exceptions import MilvusException

        try:
            return getattr(self._client, name)(*args, **kwargs)
        except MilvusException as error:
            raise CosupError(f"{self.place.shown}: Milvus cannot {name.replace('_', ' ')}: {_said(error)}") from error

    def target_of(self, alias: str) -> str | None:
        """Return the collection that an alias stands for, or None where there is no such alias."""
        if not self.call("has_collection", alias) or alias in self.call("list_collections"):
            return None
        return str(self.call("describe_alias", alias)["collection_name"])

    def point(self, alias: str, collection: str) -> None:
        """Let an alias stand for a collection, in one step."""
        known = self.target_of(alias)
        self.call("alter_alias" if known else "create_alias", collection, alias)

    def create(self, name: str, dimension: int) -> Table:
        """Make an empty collection of passages that is not searched yet."""
        from pymilvus import DataType, MilvusClient

        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=LONGEST_TEXT)
        schema.add_field("number", DataType.INT64)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
        schema.add_field("title", DataType.VARCHAR, max_length=LONGEST_TEXT)
        schema.add_field("text", DataType.VARCHAR, max_length=LONGEST_TEXT)
        schema.add_field("metadata", DataType.JSON)
        self.call("create_collection", name, schema=schema, consistency_level="Strong", num_shards=1)
        return Table(self, name)

    def drop(self, name: str) -> None:
        """Take a collection away, if it is there."""
        if self.call("has_collection", name):
            self.call("drop_collection", name)


class Table:
    """A collection of passages: rows with id, number, vector, title, text and metadata.

    Args:
        connection: to Milvus.
        name: of the collection.
    """

    def __init__(self, connection: MilvusConnection, name: str) -> None:
        self.connection = connection
        self.name = name

    def serve(self, settings: SearchSettings) -> None:
        """Index what is there and make it searchable."""
        params = self.connection.call("prepare_index_params")
        build = {"params": settings.build}  # nested, as every Milvus reads them; Lite overlooks them otherwise
        params.add_index("vector", index_type=settings.type, metric_type="IP", params=build)
        self._call("flush")
        self._call("create_index", params)
        self.load()

    def load(self) -> None:
        """Make it searchable after a restart of Milvus."""
        self._call("load_collection")

    def insert(self, rows: Sequence[Row]) -> None:
        """Add rows whose ids are new."""
        for batch in in_batches(rows, MOST_ROWS, MOST_BYTES):
            self._call("insert", batch)

    def upsert(self, rows: Sequence[Row]) -> None:
        """Put rows in the place of those with the same ids; those of one message all at once."""
        for batch in in_batches(rows, MOST_ROWS, MOST_BYTES):
            self._call("upsert", batch)

    def delete(self, ids: Sequence[str]) -> None:
        """Take rows out."""
        for start in range(0, len(ids), IDS_AT_ONCE):
            self._call("delete", filter=ids_expression(ids[start : start + IDS_AT_ONCE]))

    def get(self, ids: Sequence[str], fields: Sequence[str]) -> list[Row]:
        """Return the rows of ids, in any order; ids that are not there are left out."""
        found: list[Row] = []
        for start in range(0, len(ids), IDS_AT_ONCE):
            found += self.where(ids_expression(ids[start : start + IDS_AT_ONCE]), fields)
        return found

    def where(self, expression: str, fields: Sequence[str], limit: int = MOST_HITS) -> list[Row]:
        """Return the rows that an expression holds of, in any order, at most `limit`."""
        return [dict(row) for row in self._call("query", filter=expression, output_fields=list(fields), limit=limit)]

    def count(self, expression: str = "") -> int:
        """Return the number of rows, or of those that an expression holds of."""
        return int(self._call("query", filter=expression, output_fields=["count(*)"])[0]["count(*)"])

    def search(self, queries: Any, limit: int, expression: str, params: Mapping[str, int]) -> list[list[Row]]:
        """Return for each query [Q, D] the rows with the highest inner products: id, number, vector, distance."""
        found = self._call(
            "search",
            data=[query.tolist() for query in queries],
            anns_field="vector",
            filter=expression,
            limit=limit,
            output_fields=["number", "vector"],
            search_params={"metric_type": "IP", "params": dict(params)},
        )
        return [[{"id": hit["id"], "distance": hit["distance"], **hit["entity"]} for hit in hits] for hits in found]

    def compact(self) -> None:
        """Let Milvus free what deleted rows take."""
        self._call("flush")
        self._call("compact")

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self.connection.call(method, self.name, *args, **kwargs)


def check_exists(place: MilvusPlace) -> None:
    """Make sure that the file of a place is there: Milvus Lite would make one.

    Raises:
        InputError: it is not.
    """
    if place.lite and not Path(place.uri).exists():
        raise InputError("no such Milvus Lite file; make one with 'cosup index'", place.uri)


def _said(error: BaseException) -> str:
    """Return the first line of what a library says."""
    text = str(getattr(error, "message", "") or error)
    return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)[:300]


@contextlib.contextmanager
def _heard(name: str) -> Iterator[list[BaseException]]:
    """Catch the errors that a library logs and does not pass on."""
    found: list[BaseException] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and record.exc_info[1]:
                found.append(record.exc_info[1])

    logger, ear = logging.getLogger(name), Ear()
    passed_on, logger.propagate = logger.propagate, False
    logger.addHandler(ear)
    try:
        yield found
    finally:
        logger.removeHandler(ear)
        logger.propagate = passed_on
