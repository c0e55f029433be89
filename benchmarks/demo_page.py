"""Write docs/demo.md from the reports of `cosup demo --compare`.

cosup demo --compare --output runs/demo
python benchmarks/demo_page.py --run runs/demo
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from cosup.experiments.provenance import commit, processor

MEASURES = ("recall@1", "exact_match", "citation_precision", "citation_recall")
GROUPS = ("", "single_hop.", "two_hop.")


def main() -> None:
    """Read the reports and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="folder that the demo wrote")
    parser.add_argument("--page", type=Path, default=Path("docs/demo.md"), help="page to write")
    found = parser.parse_args()
    systems = {"co-supervised": found.run, "separate supervision": found.run / "compare"}
    reports = {
        name: json.loads((folder / "report.json").read_text(encoding="utf-8"))
        for name, folder in systems.items()
        if (folder / "report.json").is_file()
    }
    found.page.write_text(page(reports), encoding="utf-8")


def page(reports: dict[str, dict[str, Any]]) -> str:
    """Return the page's text."""
    first = next(iter(reports.values()))
    settings, heads = first["settings"], list(reports)
    lines = [
        "# The demo's figures",
        "",
        "Written by `benchmarks/demo_page.py`; nothing here is typed by hand. Figures in percent, times in seconds.",
        "",
        f"`cosup demo{' --compare' if len(reports) > 1 else ''}`, seed {settings['seed']}: {first['count']} questions "
        f"over {settings['passages']} unseen passages; {settings['parameters']:,} parameters in the pair, "
        f"{settings['steps']} steps of {settings['batch_size']} questions. Commit {commit()}; {processor()}.",
        "",
        f"| measure | {' | '.join(heads)} |",
        f"|---|{'---:|' * len(heads)}",
    ]
    for name in [group + measure for group in GROUPS for measure in MEASURES]:
        cells = [f"{r['metrics'][name]:.1f}" for r in reports.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for name in ("train_seconds", "total_seconds"):
        cells = [f"{r['settings'][name]:.0f}" for r in reports.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "Separate supervision trains one generator on next-token prediction alone and another pair on next-sequence "
        "prediction alone, each for as many steps, from the same start, on the same examples in the same order: twice "
        "the training. At `[Ret]` the second pair reads the text so far by itself to make the query.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
