"""Try made-up and damaged input on everything that reads, by hypothesis and by atheris, and record what came of it.

    python benchmarks/fuzz.py                                       all of it: an hour or more
    python benchmarks/fuzz.py indexes http --engine hypothesis      some of it

Each engine runs in processes of its own (tests/fuzz/campaign.py); atheris (`pip install 'cosup[fuzz]'`) guides itself
by which lines of cosup an input reaches. An input that is neither read nor refused in words goes to runs/fuzz/; once
that is mended it belongs into tests/fuzz/found/, where the tests try it again.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from reliability import RECORDS, Trial, chosen

from cosup.data.writing import write_json

HOUSE = Path(__file__).parents[1]
sys.path.insert(0, str(HOUSE))  # for the targets, which are the tests'
ENGINES = ("hypothesis", "atheris")
GROUPS = {
    "data": "cosup's own files of passages, questions, examples, predictions and ids; Parquet, Markdown, stores",
    "formats": "every format of `cosup convert`",
    "settings": "recipes, values of a command line, suites, experiments, filters, files of API keys",
    "outputs": "what a model writes, predictions to score, official records, reports, interrupted answers, verdicts",
    "indexes": "every file of an index, under a manifest whose checksums fit",
    "models": "cosup.json, what an embedder's folder says, heads of safetensors and .gguf files, configurations",
    "http": "requests with damaged bodies and paths, and bytes that are no HTTP",
}
HOLDS = {
    "http": "a documented status and an error in OpenAI's form, never 500; the server lives on",
    "": "a valid value or an error in words; no other exception, no hang, nothing half-written",
}

logger = logging.getLogger("fuzz")


def main() -> None:
    """Run the groups and engines that are asked for, and write a record of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}; all of them if left out")
    parser.add_argument("--engine", choices=ENGINES, help="both if left out")
    parser.add_argument("--cases", type=int, default=10_000, help="of each target (a twentieth of what loads weights)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    parser.add_argument("--records", type=Path, default=RECORDS, help="folder of the records")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    open_faults = 0
    for group in chosen(parser, asked.groups, GROUPS, "group"):
        for engine in [asked.engine] if asked.engine else ENGINES:
            open_faults += recorded(group, engine, asked)
    sys.exit(1 if open_faults else 0)


def recorded(group: str, engine: str, asked: argparse.Namespace) -> int:
    """Run a group by an engine, write its record, and return how many faults are open."""
    began = time.monotonic()
    names = targets_of(group)
    parts = [names[job :: asked.jobs] for job in range(asked.jobs) if names[job :: asked.jobs]]
    with ThreadPoolExecutor(len(parts)) as pool:
        runs = pool.map(lambda part: run(engine, asked.cases, asked.seed, part), parts)
        results = sorted((result for part in runs for result in part), key=lambda result: names.index(result["target"]))
    faults = [f"{result['target']}: {fault} (open)" for result in results for fault in result["faults"]]
    keep(results)
    trial = Trial(
        kind="fuzz",
        name=f"fuzz-{group}-{engine}",
        tried=f"{GROUPS[group]}: {len(names)} targets, by {engine}",
        times=sum(result["cases"] for result in results),
        found=[*faults, *(kept_inputs(names) if engine == ENGINES[0] else [])],
        holds=HOLDS.get(group, HOLDS[""]),
        seconds=time.monotonic() - began,
    )
    shown = [{key: value for key, value in result.items() if key != "faults"} for result in results]
    record = trial.record(["benchmarks/fuzz.py", *sys.argv[1:]]) | {"engine": engine, "seed": asked.seed}
    write_json(asked.records / f"{trial.name}.json", record | {"targets": shown})
    logger.info("%s: %d cases, %d open faults, %.0f s", trial.name, trial.times, len(faults), trial.seconds)
    return len(faults)


def targets_of(group: str) -> list[str]:
    """Return the names of a group's targets."""
    from tests.fuzz.targets import GROUPS as TARGETS

    return [target.name for target in TARGETS[group]]


def run(engine: str, cases: int, seed: int, names: Sequence[str]) -> list[dict[str, Any]]:
    """Run targets in a process of their own and return their results."""
    command = [sys.executable, "-m", "tests.fuzz.campaign", engine, str(cases), str(seed), *names]
    done = subprocess.run(command, cwd=HOUSE, capture_output=True, text=True, check=False)
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    missing = set(names) - {result["target"] for result in results}
    if missing:
        raise SystemExit(f"{', '.join(sorted(missing))} came to no end:\n{done.stderr[-2000:]}")
    return results


def keep(results: Sequence[dict[str, Any]]) -> None:
    """Write the inputs of open faults to runs/fuzz/."""
    for result in results:
        for number, (fault, data) in enumerate(result["faults"].items()):
            path = HOUSE / "runs" / "fuzz" / f"{result['target']}-{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.encode("latin-1"))
            logger.info("%s: %s (see %s)", result["target"], fault, path)


def kept_inputs(names: Sequence[str]) -> list[str]:
    """Return a line for each target that was at fault once: what it stumbled over."""
    from tests.fuzz.targets import TARGETS

    found = []
    for name in names:
        inputs = [kept.replace("-", " ") for kept in TARGETS[name].kept()]
        found += [f"{name}: {', '.join(inputs)} (mended; kept)"] if inputs else []
    return found


if __name__ == "__main__":
    main()
