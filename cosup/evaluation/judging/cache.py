"""Verdicts kept on disk by content, so that nothing is asked twice.

A folder has one file for each judge, one line a verdict:

    FOLDER/roberta-nli-1f0c5d7a9b3e.jsonl    {"key": sha256 of judge, premise and hypothesis, "entailed": .., ..}

Lines are only ever added, a chunk at a time under a lock. JSON lines rather than SQLite, whose write-ahead log needs
memory shared by all processes and so is not to be used on the network file systems that clusters have; and there is
nothing to be updated or searched. A line that was torn by a kill or a full disk is no whole JSON object: it is passed
over and its pair is asked again, as is every pair whose line does not read as a verdict.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from filelock import FileLock

from cosup.errors import NOTICE, UsageError
from cosup.evaluation.judging.base import Decision, Judge, Pair

logger = logging.getLogger(__name__)

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the number of distinct pairs that are decided and of all distinct pairs of a call."""

CHUNK = 64  # pairs asked before their verdicts are kept: as many are asked again at most after a kill


class VerdictFile:
    """The kept verdicts of one judge, by key; several processes may add to it at once.

    Args:
        folder: made where it is missing.
        judge: the judge's name.

    Raises:
        UsageError: the folder cannot be made or read.
    """

    def __init__(self, folder: str | Path, judge: str) -> None:
        self._judge = judge
        words = re.sub(r"[^A-Za-z0-9._-]+", "-", judge)[:60].strip("-.")
        digest = hashlib.sha256(_bytes_of(judge)).hexdigest()[:12]
        self.path = Path(folder).expanduser() / f"{words}-{digest}.jsonl"
        self._verdicts: dict[str, Decision] = {}
        self._read_to = 0
        self._damaged = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot keep verdicts in {folder}: {error.strerror or error}") from error

    def key(self, pair: Pair) -> str:
        """Return what a verdict on `pair` is kept under."""
        return hashlib.sha256(_bytes_of(self._judge, *pair)).hexdigest()

    def read(self) -> Mapping[str, Decision]:
        """Return all verdicts by key, those included that other processes have added since the last call.

        Raises:
            UsageError: the file cannot be read.
        """
        try:
            with self.path.open("rb") as stream:
                stream.seek(self._read_to)
                added = stream.read()
        except FileNotFoundError:
            return self._verdicts
        except OSError as error:
            raise UsageError(f"cannot read verdicts from {self.path}: {error.strerror or error}") from error
        whole = added[: added.rfind(b"\n") + 1]
        self._read_to += len(whole)
        before = self._damaged
        self._verdicts.update(self._parsed(whole))
        if self._damaged > before:
            logger.log(NOTICE, "%s: damaged lines: %d; those pairs are asked again", self.path, self._damaged - before)
        return self._verdicts

    def _parsed(self, data: bytes) -> Iterator[tuple[str, Decision]]:
        for line in data.split(b"\n"):
            found = _verdict_of(line)
            if found is not None:
                yield found
            elif line.strip():
                self._damaged += 1

    def add(self, verdicts: Mapping[str, Decision]) -> None:
        """Keep verdicts; after a torn line they begin on a line of their own.

        Raises:
            UsageError: the disk is full, or the folder is not to be written to.
        """
        data = b"".join(_line_of(key, decision) for key, decision in verdicts.items())
        try:
            with FileLock(self.path.with_suffix(".lock")), self.path.open("ab+") as stream:
                if stream.seek(0, os.SEEK_END):
                    stream.seek(-1, os.SEEK_END)
                    data = data if stream.read(1) == b"\n" else b"\n" + data
                stream.write(data)
        except OSError as error:
            raise UsageError(f"cannot keep verdicts in {self.path}: {error.strerror or error}") from error


class CachedJudge:
    """A judge that is asked only what it has not decided before; undecided pairs are asked again by the next call.

    Args:
        judge: who decides.
        folder: where verdicts are kept.
        progress: called at the beginning of each call of `decide` and after each chunk.
        chunk: pairs that are asked before their verdicts are kept.

    Attributes:
        asked: pairs that the judge was asked so far.
        found: distinct pairs whose verdict was there already.

    Raises:
        UsageError: the folder cannot be used.
    """

    def __init__(self, judge: Judge, folder: str | Path, progress: Progress | None = None, chunk: int = CHUNK) -> None:
        self._judge = judge
        self._progress = progress
        self._chunk = chunk
        self._file = VerdictFile(folder, judge.name)
        self.asked = 0
        self.found = 0

    @property
    def name(self) -> str:
        """The judge's own."""
        return self._judge.name

    @property
    def path(self) -> Path:
        """The file with this judge's verdicts."""
        return self._file.path

    def decide(self, pairs: Sequence[Pair]) -> list[Decision]:
        """Return a decision for each pair, in order; a pair that stands there twice is asked once.

        Raises:
            UsageError: the judge cannot be asked, or the verdicts cannot be read or written.
        """
        keys = [self._file.key(pair) for pair in pairs]
        distinct = dict(zip(keys, pairs, strict=True))
        kept = self._file.read()
        decided = {key: kept[key] for key in distinct if key in kept}
        self.found += len(decided)
        self._tell(len(decided), len(distinct))
        # Of like length together: a model pads the pairs of a batch to the longest.
        missing = sorted(distinct.keys() - decided.keys(), key=lambda key: (-sum(map(len, distinct[key])), key))
        for start in range(0, len(missing), self._chunk):
            decided |= self._ask({key: distinct[key] for key in missing[start : start + self._chunk]})
            self._tell(len(decided), len(distinct))
        return [decided[key] for key in keys]

    def _ask(self, pairs: Mapping[str, Pair]) -> dict[str, Decision]:
        found = self._judge.decide(list(pairs.values()))
        if len(found) != len(pairs):
            raise UsageError(f"the judge ({self.name}) gave {len(found)} decisions for {len(pairs)} pairs")
        self.asked += len(pairs)
        decisions = dict(zip(pairs, found, strict=True))
        self._file.add({key: decision for key, decision in decisions.items() if decision.entailed is not None})
        return decisions

    def _tell(self, done: int, total: int) -> None:
        if self._progress is not None and total:
            self._progress(done, total)


def default_folder() -> Path:
    """Return where verdicts are kept if nothing else is said: `cosup/verdicts` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "cosup" / "verdicts"


def _bytes_of(*texts: str) -> bytes:
    """Return bytes that no other texts give: as JSON, where a half of a surrogate pair has a form as well."""
    return json.dumps(texts).encode("ascii")


def _line_of(key: str, decision: Decision) -> bytes:
    record = {"key": key, "entailed": decision.entailed, "score": decision.score, "reason": decision.reason}
    return json.dumps(record).encode("ascii") + b"\n"


def _verdict_of(line: bytes) -> tuple[str, Decision] | None:
    """Read a line, or return None where it is not one that `_line_of` wrote."""
    try:
        record = json.loads(line)
        key, entailed, score, reason = (record[name] for name in ("key", "entailed", "score", "reason"))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    usable = isinstance(key, str) and isinstance(entailed, bool) and isinstance(reason, str)
    if not usable or not (score is None or (isinstance(score, int | float) and 0 <= score <= 1)):
        return None
    return key, Decision(entailed, reason, score)
