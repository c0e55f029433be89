"""Retrieval by words: BM25 over the corpus, with bm25s (extra `retrievers`).

    bm25/               the scores of every word and passage, as bm25s writes them; memory-mapped
    passages.jsonl      the passages in the order of their rows
    store/              where each of them begins
    bm25.json           count, what it was made from, and the size of each file

Shapes: N passages.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosup.data.store import PassageStore
from cosup.data.writing import write_jsonl
from cosup.errors import InputError, UsageError, needs_extra
from cosup.generation.retrieval import RetrievalRequest, check_query_text, query_text
from cosup.index.base import check_target
from cosup.index.filters import Filter
from cosup.records import Hit, Passage

FORMAT = 1
MANIFEST, SCORES, PASSAGES, STORE = "bm25.json", "bm25", "passages.jsonl", "store"
OWN_NAMES = frozenset({MANIFEST, SCORES, PASSAGES, STORE, f".{STORE}.lock"})
_QUIET: dict[str, Any] = {"show_progress": False}


class BM25Retriever:
    """Finds the passages whose words are those of the text so far.

    Args:
        folder: what `build` wrote.
        query: what of a request is asked: `text`, `question` or `last_sentence`.

    Raises:
        InputError: the folder is missing or damaged.
        UsageError: bm25s is not installed, or `query` is unknown.
    """

    def __init__(self, folder: str | Path, query: str = "text") -> None:
        check_query_text(query)
        library = _bm25s()
        self.folder = Path(folder)
        self.query = query
        self.source = str(_manifest(self.folder)["source"])
        self._scores: Any = library.BM25.load(str(self.folder / SCORES), mmap=True, **_QUIET)
        self._tokenize = library.tokenize
        self._store = PassageStore.build(self.folder / PASSAGES, self.folder / STORE)
        self._matching: dict[Filter, NDArray[np.int64]] = {}

    @classmethod
    def build(
        cls, passages: Iterable[Passage], folder: str | Path, source: str = "", query: str = "text"
    ) -> BM25Retriever:
        """Index passages and open the result; the folder appears whole or not at all.

        Args:
            passages: N passages with distinct ids, as they are spliced; read once.
            folder: where to; may hold an older one, nothing else.
            source: names what the passages were, to tell later whether the folder is up to date.
            query: as above.

        Raises:
            InputError: there are no passages, or two have one id.
            UsageError: `folder` cannot be used, or bm25s is not installed.
        """
        library, folder = _bm25s(), Path(folder)
        check_target(folder, OWN_NAMES)
        draft = folder.absolute().with_name(f".{folder.absolute().name}.{secrets.token_hex(4)}.tmp")
        try:
            draft.mkdir(parents=True)
            write_jsonl(draft / PASSAGES, passages)
            count = _write_scores(library, draft)
            sizes = {p.relative_to(draft).as_posix(): p.stat().st_size for p in draft.rglob("*") if p.is_file()}
            record = {"format": FORMAT, "count": count, "source": source, "bm25s": library.__version__, "sizes": sizes}
            (draft / MANIFEST).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            draft.rename(folder)
        except OSError as error:
            raise UsageError(f"cannot write to {folder}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return cls(folder, query)

    def __len__(self) -> int:
        return len(self._store)

    def passage(self, passage_id: str) -> Passage:
        """Return a passage. Raises `InputError` where no passage has this id."""
        return self._store.at(self._row(passage_id))

    def search(self, requests: Sequence[RetrievalRequest], k: int) -> list[list[Hit]]:
        """Search request by request; passages without a word of the query score 0 and come last, in order."""
        return [self._search(request, k) for request in requests]

    def _search(self, request: RetrievalRequest, k: int) -> list[Hit]:
        scores = self._score(query_text(request, self.query))
        rows = self._allowed(request)
        best = _best(scores if rows is None else scores[rows], k)
        found = best if rows is None else rows[best]
        return [Hit(self._store.at(int(row)).id, float(scores[row])) for row in found]

    def _score(self, text: str) -> NDArray[np.float32]:
        """Return the score of every passage [N]."""
        words = self._tokenize([text], return_ids=False, **_QUIET)[0]
        ids = self._scores.get_tokens_ids(words)
        if not ids:
            return np.zeros(len(self), dtype=np.float32)
        return np.asarray(self._scores.get_scores_from_ids(ids), dtype=np.float32)

    def _allowed(self, request: RetrievalRequest) -> NDArray[np.int64] | None:
        """Return the rows that a request may find, ascending; None for all."""
        if request.candidates is None:
            return None if request.filter is None else self._matches(request.filter)
        rows = sorted({self._row(passage_id) for passage_id in request.candidates})
        if request.filter is not None:
            rows = [row for row in rows if request.filter.holds(self._store.at(row).metadata)]
        return np.array(rows, dtype=np.int64)

    def _matches(self, filter: Filter) -> NDArray[np.int64]:
        """Return the rows that meet a filter; found once by reading every passage."""
        if filter not in self._matching:
            rows = [row for row, passage in enumerate(self._store.in_order()) if filter.holds(passage.metadata)]
            self._matching[filter] = np.array(rows, dtype=np.int64)
        return self._matching[filter]

    def _row(self, passage_id: str) -> int:
        try:
            return self._store.row(passage_id)
        except KeyError:
            raise InputError(f"no passage {passage_id!r} among the {len(self):,} of the index") from None


def is_current(folder: Path, source: str) -> bool:
    """Whether a folder holds a whole index of what `source` names."""
    try:
        return bool(_manifest(folder)["source"] == source)
    except InputError:
        return False


def check_bm25() -> None:
    """Make sure that bm25s is installed.

    Raises:
        UsageError: it is not; names the extra.
    """
    _bm25s()


def _bm25s() -> Any:
    try:
        import bm25s
    except ImportError:
        raise UsageError(needs_extra("BM25", "retrievers", "bm25s")) from None
    return bm25s


def _write_scores(library: Any, draft: Path) -> int:
    """Score the passages of `passages.jsonl` into `bm25/` and return their number."""
    store = PassageStore.build(draft / PASSAGES, draft / STORE)
    texts = (passage.rendered for passage in store.in_order())  # read one by one: bm25s keeps their words alone
    corpus = library.tokenize(texts, **_QUIET)
    if not corpus.vocab:
        raise InputError("the passages have no words of two letters or more; BM25 has nothing to go by")
    scores = library.BM25()
    scores.index(corpus, **_QUIET)
    scores.save(str(draft / SCORES), **_QUIET)
    shutil.rmtree(draft / STORE)  # it names its file by its whole path, which changes
    (draft / f".{STORE}.lock").unlink(missing_ok=True)
    return len(store)


def _manifest(folder: Path) -> dict[str, Any]:
    """Read `bm25.json` and compare the size of each file."""
    path = folder / MANIFEST
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in record["sizes"]}
        whole = record["format"] == FORMAT and sizes == record["sizes"] and isinstance(record["source"], str)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError("no whole BM25 index; build it again", folder) from error
    if not whole:
        raise InputError("no whole BM25 index; build it again", folder)
    return dict(record)


def _best(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return the places of the `k` highest scores, best first, equal ones in order."""
    if k < len(scores):
        bar = np.partition(scores, len(scores) - k)[len(scores) - k]
        above = np.flatnonzero(scores > bar)
        places = np.concatenate([above, np.flatnonzero(scores == bar)[: k - len(above)]])
    else:
        places = np.arange(len(scores))
    return places[np.lexsort((places, -scores[places]))]
