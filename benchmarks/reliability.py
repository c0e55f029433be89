"""What every record of reliability carries: what was tried, how often, what was found, what holds."""

from __future__ import annotations

import json
import re
from argparse import ArgumentParser
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from machine import about

from cosup.data.writing import write_json

RECORDS = Path(__file__).parents[1] / "docs" / "reliability"
AT = re.compile(r"at [0-9a-f]{7,}\+?: ")
KINDS = ("fault", "fuzz", "soak", "security")


@dataclass(frozen=True)
class Trial:
    """What was tried and what came of it.

    Attributes:
        kind: one of `KINDS`.
        name: of the record, and of its file.
        tried: one line.
        times: how often.
        found: what went wrong, a line each.
        holds: what holds now, in one line.
        seconds: that it took.
        details: what else the record keeps, by name.
    """

    kind: str
    name: str
    tried: str
    times: int
    found: Sequence[str]
    holds: str
    seconds: float
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}; expected one of {', '.join(KINDS)}")

    def record(self, words: Sequence[str]) -> dict[str, Any]:
        """Return the record as JSON.

        Args:
            words: of the command that made it, the script first.
        """
        origin = about(words)
        command = origin.pop("command")
        own = {**vars(self), "found": list(self.found), "seconds": round(self.seconds, 1)}
        details = own.pop("details")
        return {**own, "command": command, "environment": origin, **details}

    def write(self, words: Sequence[str], folder: Path = RECORDS, adds: bool = False) -> Path:
        """Write the record as `NAME.json` into a folder and return its path.

        What an earlier record there has found, and this one not, stays, with the commit that it was found at.

        Args:
            words: see `record`.
            folder: where to.
            adds: add what was tried to an earlier record of the same commit: long trials come in pieces.
        """
        path, record = folder / f"{self.name}.json", self.record(words)
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            record = together(before, record) if adds and same_place(before, record) else record
            record["found"] += earlier(before, record)
        write_json(path, record)
        return path


def chosen(parser: ArgumentParser, asked: Sequence[str], known: Collection[str], what: str) -> Sequence[str]:
    """Return the names that a command line asks for, all where it names none; it ends where one is unknown."""
    if unknown := sorted(set(asked) - set(known)):
        parser.error(f"no {what} {', '.join(unknown)}; there are {', '.join(known)}")
    return asked or list(known)


def same_place(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two records are of the same commit, machine and versions."""
    return bool(one["environment"] == other["environment"])


def together(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return one record of two pieces of the same trial."""
    found = list(dict.fromkeys([*before["found"], *now["found"]]))
    numbers = {"times": before["times"] + now["times"], "seconds": round(before["seconds"] + now["seconds"], 1)}
    return {**now, **numbers, "found": found, "command": f"{before['command']}; {now['command']}"}


def earlier(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what an earlier record has found and a new one not, each line with the commit that it was found at."""
    commit = before["environment"]["commit"]
    if commit == now["environment"]["commit"]:
        return []
    lines = [line if AT.match(line) else f"at {commit}: {line}" for line in before["found"]]
    return [line for line in lines if AT.sub("", line) not in now["found"]]
