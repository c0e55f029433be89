"""Write docs/demo.json and docs/demo.md from the reports of `cosup demo --compare`.

    cosup demo --compare --output runs/demo
    python benchmarks/demo_page.py --run runs/demo

Without `--run` the page is written anew from the record.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cosup.data.writing import write_json
from cosup.experiments.provenance import commit, processor

MEASURES = ("recall@1", "exact_match", "citation_precision", "citation_recall")
GROUPS = ("", "single_hop.", "two_hop.")
KEPT = ("seed", "passages", "parameters", "steps", "batch_size", "train_seconds", "total_seconds")  # of the settings


def main() -> None:
    """Read the reports, or the record of earlier ones, and write both."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, help="folder that the demo wrote")
    parser.add_argument("--page", type=Path, default=Path("docs/demo.md"), help="page, its record beside it")
    found = parser.parse_args()
    file = found.page.with_suffix(".json")
    if found.run is not None:
        write_json(file, record(found.run))
    elif not file.is_file():
        parser.error(f"no record {file}; name the folder of a demo with --run")
    found.page.write_text(page(json.loads(file.read_text(encoding="utf-8"))), encoding="utf-8")


def record(run: Path) -> dict[str, Any]:
    """Return what is kept of a demo: its figures, and where they come from."""
    compared = (run / "compare" / "report.json").is_file()
    return {
        "command": f"cosup demo{' --compare' if compared else ''} --output {run}",
        "commit": commit(),
        "hardware": processor(),
        "systems": {
            "co-supervised": _kept(run),
            **({"separate supervision": _kept(run / "compare")} if compared else {}),
        },
    }


def _kept(folder: Path) -> dict[str, Any]:
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    names = [group + measure for group in GROUPS for measure in MEASURES]
    return {
        "count": report["count"],
        "metrics": {name: report["metrics"][name] for name in names},
        "settings": {name: report["settings"][name] for name in KEPT if name in report["settings"]},
    }


def page(record: Mapping[str, Any]) -> str:
    """Return the page's text."""
    systems = record["systems"]
    first, heads = systems["co-supervised"], list(systems)
    settings = first["settings"]
    lines = [
        "# The demo's figures",
        "",
        "Written by `benchmarks/demo_page.py` from `docs/demo.json`; nothing here is typed by hand. Figures in "
        "percent, times in seconds.",
        "",
        f"`{record['command']}`, seed {settings['seed']}: {first['count']} questions "
        f"over {settings['passages']} unseen passages; {settings['parameters']:,} parameters in the pair, "
        f"{settings['steps']} steps of {settings['batch_size']} questions. Commit {record['commit']}; "
        f"{record['hardware']}.",
        "",
        f"| measure | {' | '.join(heads)} |",
        f"|---|{'---:|' * len(heads)}",
    ]
    for name in first["metrics"]:
        lines.append(f"| {name} | {' | '.join(format(own['metrics'][name], '.1f') for own in systems.values())} |")
    for name in ("train_seconds", "total_seconds"):
        lines.append(f"| {name} | {' | '.join(format(own['settings'][name], '.0f') for own in systems.values())} |")
    lines += [
        "",
        "Separate supervision trains one generator on next-token prediction alone and another pair on next-sequence "
        "prediction alone, each for as many steps, from the same start, on the same examples in the same order: twice "
        "the training. At `[Ret]` the second pair reads the text so far by itself to make the query.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
