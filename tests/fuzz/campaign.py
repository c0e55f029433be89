"""Runs of many cases: what benchmarks/fuzz.py asks for, in processes of their own.

python -m tests.fuzz.campaign ENGINE COUNT SEED TARGET..    prints one JSON line a target
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SLOWER = 20  # times fewer cases of what takes a quarter of a second each
MEMORY = 24 * 2**30  # bytes of address space: an input that needs more is a fault, and no danger to the machine


def main() -> None:
    """Run the targets that are named, one after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=["hypothesis", "atheris"])
    parser.add_argument("count", type=int)
    parser.add_argument("seed", type=int)
    parser.add_argument("targets", nargs="*")
    args = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    logging.disable(logging.ERROR)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    if args.engine == "hypothesis":
        from tests.fuzz.targets import TARGETS

        for name in args.targets or TARGETS:
            report(_by_hypothesis(TARGETS[name], _count(TARGETS[name], args.count), args.seed))
        return
    import atheris

    with atheris.instrument_imports(include=["cosup"]):
        from tests.fuzz.targets import TARGETS
    for name in args.targets or TARGETS:
        child = os.fork()  # libFuzzer ends its process
        if child == 0:
            _by_atheris(TARGETS[name], _count(TARGETS[name], args.count), args.seed)
        _, status = os.waitpid(child, 0)
        if status:
            report({"target": name, "cases": 0, "faults": {f"the process ended with status {status}": ""}})


def _count(target: Any, count: int) -> int:
    return max(1, count // SLOWER) if target.slow else count


def report(record: dict[str, Any]) -> None:
    """Print one target's result."""
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()


def _by_hypothesis(target: Any, count: int, seed: int) -> dict[str, Any]:
    from tests.fuzz.running import Outcome, drawn, noted

    outcome, began, round_ = Outcome(), time.monotonic(), 0
    with target.opened() as run:
        while outcome.cases < count:  # it ends early where it believes to have seen all
            drawn(target, count - outcome.cases, seed + round_, lambda data: noted(run, data, outcome))
            round_ += 1
    return _record(target.name, outcome, began)


def _by_atheris(target: Any, count: int, seed: int) -> None:
    import atheris

    from tests.fuzz.running import Outcome, noted

    outcome, began = Outcome(), time.monotonic()
    with target.opened() as run, tempfile.TemporaryDirectory() as corpus:
        for number, data in enumerate([*target.whole(), *target.kept().values()]):
            (Path(corpus) / str(number)).write_bytes(data)

        def one(data: bytes) -> None:
            noted(run, data, outcome)
            if outcome.cases >= count:
                report(_record(target.name, outcome, began))
                os._exit(0)

        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 2)
        limits = [f"-seed={seed}", "-max_len=4096", "-len_control=0", "-timeout=120", "-rss_limit_mb=0"]
        atheris.Setup(["fuzz", *limits, corpus], one)
        atheris.Fuzz()


def _record(name: str, outcome: Any, began: float) -> dict[str, Any]:
    return {
        "target": name,
        "cases": outcome.cases,
        "valid": outcome.valid,
        "refused": outcome.refused,
        "seconds": round(time.monotonic() - began, 1),
        "faults": {fault: data.decode("latin-1") for fault, data in outcome.faults.items()},
    }


if __name__ == "__main__":
    main()
