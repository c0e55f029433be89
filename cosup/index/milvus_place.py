"""Where an index in Milvus is: in a local file of Milvus Lite, or on a server or cluster.

    corpus.db                                   the index `cosup` in a file of Milvus Lite
    corpus.db:recipes                           another index in the same file
    milvus://host:19530/recipes                 on a server; `?db=NAME` for a database other than the default
    milvus://user:password@host/recipes?secure=true&index_type=hnsw

User and password, or a token, are better kept in the environment: MILVUS_USER, MILVUS_PASSWORD, MILVUS_TOKEN.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from cosup.errors import UsageError, did_you_mean

DEFAULT_NAME = "cosup"
DEFAULT_PORT = 19530
LONGEST_NAME = 200  # of 255 that Milvus allows; cosup adds to it
INDEX_TYPES = ("auto", "flat", "autoindex", "hnsw", "ivf-flat", "ivf-sq")

_LITE = re.compile(r"(?P<path>.+\.db)(:(?P<name>[^:/\\]*))?")
_SERVER = re.compile(r"milvus:/+")  # a Path makes one slash of two
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPTIONS = ("db", "secure", "index_type")


def is_milvus_place(place: str | Path) -> bool:
    """Whether a place names an index in Milvus rather than a folder."""
    return bool(_SERVER.match(str(place)) or _LITE.fullmatch(str(place)))


def shown_place(place: str | Path) -> str:
    """Return what people are told of an index's place: an address without its password.

    Raises:
        UsageError: it is an address that nothing can be at.
    """
    return MilvusPlace.parse(place).shown if is_milvus_place(place) else str(place)


@dataclass(frozen=True)
class MilvusPlace:
    """An index in Milvus.

    Attributes:
        uri: what `MilvusClient` takes: a path, or `http(s)://host:port`.
        name: of the index.
        shown: what messages call it; without a password.
        lite: whether it is a local file.
        database: on the server; empty for the default one.
        user: and `password` or `token`: credentials.
        index_type: one of `INDEX_TYPES`.
    """

    uri: str
    name: str
    shown: str
    lite: bool
    database: str = ""
    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    index_type: str = "auto"

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or len(self.name) > LONGEST_NAME:
            raise UsageError(
                f"{self.shown}: an index in Milvus is named '{self.name}'; expected at most {LONGEST_NAME} letters, "
                "digits and underscores, a letter or underscore first"
            )
        check_index_type(self.index_type)

    @classmethod
    def parse(cls, place: str | Path) -> MilvusPlace:
        """Read a place; see the top of the file for its forms.

        Raises:
            UsageError: it has no such form; says what was found.
        """
        found = _LITE.fullmatch(str(place))
        if found and not _SERVER.match(str(place)):
            path, name = found["path"], found["name"]
            return cls(path, DEFAULT_NAME if name is None else name, str(place), lite=True)
        return cls._of_server(urlsplit(_SERVER.sub("milvus://", str(place), count=1)))

    @classmethod
    def _of_server(cls, parts: SplitResult) -> MilvusPlace:
        name = parts.path.strip("/")
        try:
            host, port = parts.hostname, parts.port or DEFAULT_PORT
        except ValueError as error:
            raise UsageError(f"milvus://{parts.netloc.rpartition('@')[2]}: {error}") from error
        shown = f"milvus://{host}:{port}/{name}"
        if not host or not name:
            raise UsageError(f"{shown}: expected milvus://HOST:PORT/NAME")
        options = _options(parts.query, shown)
        scheme = "https" if options.get("secure") == "true" else "http"
        return cls(
            f"{scheme}://{host}:{port}",
            name,
            shown,
            lite=False,
            database=options.get("db", ""),
            user=unquote(parts.username or "") or os.environ.get("MILVUS_USER", ""),
            password=unquote(parts.password or "") or os.environ.get("MILVUS_PASSWORD", ""),
            token=os.environ.get("MILVUS_TOKEN", ""),
            index_type=options.get("index_type", "auto"),
        )

    @property
    def work_folder(self) -> Path:
        """Where the unfinished work for this index lies: hidden, beside the file or in the working folder."""
        if self.lite:
            path = Path(self.uri)
            return path.with_name(f".{path.name}.{self.name}.partial")
        host = re.sub(r"[^A-Za-z0-9.-]", "_", self.uri.partition("//")[2])
        return Path(f".milvus.{host}.{self.database or 'default'}.{self.name}.partial")


def check_index_type(index_type: str) -> None:
    """Raise `UsageError` where Milvus has no such type of index here."""
    if index_type not in INDEX_TYPES:
        hint = did_you_mean(index_type, INDEX_TYPES)
        raise UsageError(f"index type is '{index_type}'{hint}; in Milvus expected one of {', '.join(INDEX_TYPES)}")


def check_vector_dtype(dtype: str) -> None:
    """Raise `UsageError` where vectors of this type would not be kept so: they would be less precise for nothing."""
    if dtype != "float32":
        raise UsageError(
            f"vector dtype is '{dtype}'; in Milvus vectors are kept as float32, which is what to leave it at"
        )


def _options(query: str, shown: str) -> dict[str, str]:
    options = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
    for name in options:
        if name not in _OPTIONS:
            hint = did_you_mean(name, _OPTIONS)
            raise UsageError(f"{shown}: no option '{name}'{hint}; expected {', '.join(_OPTIONS)}")
    if options.get("secure", "false") not in ("true", "false"):
        raise UsageError(f"{shown}: secure is '{options['secure']}'; expected true or false")
    return options
