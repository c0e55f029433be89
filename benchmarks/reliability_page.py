"""Write docs/reliability.md from the records of what was tried to break cosup.

    python benchmarks/reliability_page.py

Reads every `docs/reliability/*.json`; `reliability.Trial` says what a record holds and who writes them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reliability import KINDS, RECORDS

Record = Mapping[str, Any]

SHOWN = 3  # findings of a row
FIELDS = ("kind", "name", "tried", "times", "found", "holds", "seconds", "command", "environment")
TITLES = {
    "fault": ("Faults", "Processes killed, disks filled, clocks turned back, memory taken away, on tiny pairs."),
    "fuzz": ("Fuzz", "Made-up and mutated input for everything that reads; seeds of what was found are kept in tests."),
    "soak": ("Long run", "A server under mixed load while its corpus changes."),
    "security": ("Security", "What could harm whoever runs or reads it."),
}
ABOVE = """# A bad day

What was done to cosup on purpose, how often, what that found, and what holds now. Written by
`benchmarks/reliability_page.py` from the records in `docs/reliability/`; nothing here is typed by hand. What was
found `at` an earlier commit has been mended since: the later run under the table found it no more."""


def main() -> None:
    """Read the records and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=Path, default=RECORDS, help="folder of the JSON files")
    parser.add_argument("--page", type=Path, default=RECORDS.with_suffix(".md"), help="page to write")
    found = parser.parse_args()
    found.page.write_text(page(read_records(found.records)), encoding="utf-8")


def read_records(folder: Path) -> list[Record]:
    """Return the records of a folder by kind and name.

    Raises:
        SystemExit: one lacks a field, or its kind is none that the page has; names the file.
    """
    records = []
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        missing = [name for name in FIELDS if name not in record]
        if missing or record["kind"] not in KINDS:
            wrong = f"lacks {', '.join(missing)}" if missing else f"is of kind {record['kind']!r}"
            raise SystemExit(f"{path} {wrong}; expected what benchmarks/reliability.py writes")
        records.append(record)
    return sorted(records, key=lambda record: (KINDS.index(record["kind"]), record["name"]))


def page(records: Sequence[Record]) -> str:
    """Return the page's text: for each kind a table, and where each row comes from."""
    parts = [ABOVE]
    for kind, (title, about) in TITLES.items():
        if own := [record for record in records if record["kind"] == kind]:
            parts += [f"## {title}", about, table(own), origins(own)]
    return "\n\n".join(parts) + "\n"


def table(records: Sequence[Record]) -> str:
    """Return a row for each record."""
    lines = ["| what was tried | times | what was found | what holds now |", "|---|---:|---|---|"]
    for record in records:
        found, holds = _found(record["found"]), _cell(record["holds"])
        lines.append(f"| {_cell(record['tried'])} | {record['times']:,} | {found} | {holds} |")
    return "\n".join(lines)


def _found(lines: Sequence[str]) -> str:
    more = f"; and {len(lines) - SHOWN} more in the record" if len(lines) > SHOWN else ""
    return ("; ".join(map(_cell, lines[:SHOWN])) or "nothing") + more


def origins(records: Sequence[Record]) -> str:
    """Return the command of each record, under where it ran."""
    places: dict[str, list[str]] = {}
    for record in records:
        own = record["environment"]
        versions = ", ".join(f"{name} {number}" for name, number in own["versions"].items())
        where = f"Commit {own['commit']}; {own['hardware']}; {versions}."
        places.setdefault(where, []).append(f"{record['command']}  # {record['seconds']:,.0f} s")
    return "\n\n".join("\n".join([where, "", "```sh", *commands, "```"]) for where, commands in places.items())


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    main()
