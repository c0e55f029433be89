"""Do to real processes of cosup what a bad day does, on tiny pairs, and record what came of it.

    python benchmarks/faults.py kill-train --times 20

Each case is repeatable by its seed, apart from when the machine gets round to what. Without root, disks in memory are
not mounted: files are then kept from growing instead.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from breaking.activities import ACTIVITIES
from breaking.disks import full_disk, read_only, unreadable_input
from breaking.mishaps import HOLDERS, clock_jumps, no_memory, rank_killed, two_at_once
from breaking.servers import kill_server
from breaking.trials import Bench, Findings, kills
from reliability import RECORDS, Trial

logger = logging.getLogger("breaking")

REFUSED = "one or two lines and exit code 2"
WHOLE = "the same command ends with what an unbroken run gives"


@dataclass(frozen=True)
class Case:
    """A fault.

    Attributes:
        tried: what is done, in one line.
        holds: what must hold, in one line.
        run: does it `times` times on a bench.
    """

    tried: str
    holds: str
    run: Callable[..., Findings]


def cases() -> dict[str, Case]:
    """Return every fault by its name."""
    found = {}
    for name, activity in ACTIVITIES.items():
        found[f"kill-{name}"] = Case(
            f"kill -9 at random moments of {activity.does}, then the same command again",
            f"whatever is there reads whole; {WHOLE}",
            partial(kills, name=name),
        )
        found[f"full-disk-{name}"] = Case(
            f"a disk that is full at a random byte of {activity.does}, then the same command with room",
            f"{REFUSED}; {WHOLE}",
            partial(full_disk, name=name),
        )
        found[f"read-only-{name}"] = Case(
            f"an output folder that cannot be written, for {activity.does}",
            f"{REFUSED}; nothing changes",
            partial(read_only, name=name),
        )
        found[f"unreadable-{name}"] = Case(
            f"an input of {activity.does} that may not be read, or whose reading fails",
            f"{REFUSED}, which name the file; {WHOLE}",
            partial(unreadable_input, name=name),
        )
        found[f"clock-{name}"] = Case(
            f"a wall clock that goes back an hour at a random moment of {activity.does}",
            "the result is that of any other run; no duration is negative",
            partial(clock_jumps, name=name),
        )
        if name in HOLDERS:
            found[f"two-{name}"] = Case(
                f"a second process at {activity.does} in the same place; then the first is killed",
                "the second is told process, host and since when, and ends with code 2; a killed one does not block",
                partial(two_at_once, name=name),
            )
    for name in ("train", "index"):
        found[f"memory-{name}"] = Case(
            f"too little memory for {ACTIVITIES[name].does} (RLIMIT_AS), at random allocations",
            f"{REFUSED}, which name the settings to lower",
            partial(no_memory, name=name),
        )
    return found | {
        "kill-serve": Case(
            "kill -9 at random moments of a server whose corpus is changed over HTTP",
            "every change that was confirmed is there, the one on its way whole or not at all; it starts again",
            kill_server,
        ),
        "kill-rank": Case(
            "kill -9 of one of two training processes under torchrun, then the same command again",
            "the rest ends within a minute and says so; the same command ends with what an unbroken run gives",
            rank_killed,
        ),
    }


def main() -> None:
    """Run cases and write their records; ends with 1 where something was found."""
    known = cases()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", nargs="+", choices=sorted(known), metavar="CASE", help=", ".join(known))
    parser.add_argument("--times", type=int, default=20, help="how often a fault strikes")
    parser.add_argument("--seed", type=int, default=0, help="of moments and sizes")
    parser.add_argument("--records", type=Path, default=RECORDS, help="folder for the records")
    parser.add_argument("--more", action="store_true", help="add to the record that is there; take another seed")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logger.setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # disks in memory and scratch space go as well
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), asked.seed)
        found = [done for name in asked.cases for done in struck(bench, name, known[name], asked)]
    sys.exit(bool(found))


def struck(bench: Bench, name: str, case: Case, asked: argparse.Namespace) -> list[str]:
    """Run a case, write its record and return what was found."""
    began = time.monotonic()
    findings = case.run(bench, times=asked.times)
    seconds = time.monotonic() - began
    told = sorted({line.replace(f"{bench.folder}/", "") for line in findings.found})
    trial = Trial("fault", name, case.tried, findings.times, told, case.holds, seconds)
    command = ["benchmarks/faults.py", name, "--times", str(asked.times), "--seed", str(asked.seed)]
    path = trial.write(command, asked.records, adds=asked.more)
    logger.info("%s: %d times, %d found, %s: %s", name, findings.times, len(findings.found), findings.notes, path)
    return findings.found


if __name__ == "__main__":
    main()
