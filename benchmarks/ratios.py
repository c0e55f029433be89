"""Ratios that a change must not lower: what cosup gains by working as it does, on made-up data, on one thread.

    python benchmarks/ratios.py              # measures, compares with the record, fails where one fell (2 minutes)
    python benchmarks/ratios.py --record     # measures several times, each in a fresh process, and writes the record
    python benchmarks/performance_page.py    # the record -> docs/performance.md

A ratio is of two sides of the same work, a slow one and ours. They take turns in one process, the order turned round
each time, and a timing is short, so that what disturbs one side disturbs the other; the ratio is the median over the
pairs. Time is the processor's own, which waiting for other work does not lengthen. What the record
(`docs/performance/ratios.json`) keeps of each processor is the median over the repetitions and their spread.

A ratio has fallen below `LIMIT` of the record: the geometric middle of no loss and a loss of a fifth, so that noise
has as much room as a loss has. One that seems to have fallen is measured again before that is said.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from machine import about
from ratio_sides import RATIOS, Work, World

from cosup.data.writing import write_json

logger = logging.getLogger(__name__)

RECORD = Path(__file__).parents[1] / "docs/performance/ratios.json"
LIMIT = math.sqrt(0.8)
LEAST = 0.1  # seconds of the processor that one timing takes
Pair = tuple[float, float]
HOW_TO_RECORD = "python benchmarks/ratios.py --record"


# -- measuring ---------------------------------------------------------------------------------------------------------


def measure(names: Collection[str], slowed: Mapping[str, float] | None = None) -> dict[str, list[Pair]]:
    """Return the seconds of both sides of each ratio, pair by pair.

    Args:
        names: of the ratios.
        slowed: for a trial of this benchmark itself: our side of a ratio takes so many times as long.
    """
    import torch

    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        world = World(Path(scratch))
        for name in names:
            begun = time.process_time()
            slow, ours = RATIOS[name].sides(world)
            found[name] = paired(slow, stretched(ours, (slowed or {}).get(name, 1.0)), RATIOS[name].pairs)
            took = time.process_time() - begun
            logger.info("%-10s %7.2f   %.0f s of the processor", name, ratio(found[name]), took)
    return found


def paired(slow: Work, ours: Work, pairs: int) -> list[Pair]:
    """Return the seconds of the slow side and of ours for each pair; both are run once before, untimed."""
    slow(), ours()
    found = []
    for number in range(pairs):
        if number % 2:
            mine = timed(ours)
            found.append((timed(slow), mine))
        else:
            found.append((timed(slow), timed(ours)))
    return found


def ratio(pairs: Sequence[Pair]) -> float:
    """Return the median of the slow side's time over ours."""
    return median(slow / ours for slow, ours in pairs)


def timed(work: Work) -> float:
    """Return the seconds of the processor that a work takes; a short one is done until `LEAST` are over."""
    gc.collect()
    done, begun = 0, time.process_time()
    while not done or time.process_time() - begun < LEAST:
        work()
        done += 1
    return (time.process_time() - begun) / done


def stretched(work: Work, times: float) -> Work:
    """Return a work that keeps the processor busy for `times` as long."""
    if times == 1:
        return work

    def longer() -> None:
        begun = time.process_time()
        work()
        end = begun + times * (time.process_time() - begun)
        while time.process_time() < end:
            pass

    return longer


# -- the record --------------------------------------------------------------------------------------------------------


def recorded_for(record: Mapping[str, Any], processor: str) -> tuple[str, dict[str, float]]:
    """Return what now is compared with: the processor's own record, or of those of all others the lowest ratios.

    Returns:
        Whose it is, and the ratios by name.
    """
    of = {name: {ratio: own["value"] for ratio, own in one["ratios"].items()} for name, one in record.items()}
    if processor in of:
        return processor, of[processor]
    lowest = {ratio: min(one[ratio] for one in of.values() if ratio in one) for one in of.values() for ratio in one}
    return f"another processor ({', '.join(sorted(of))})", lowest


def fallen(recorded: Mapping[str, float], now: Mapping[str, float]) -> list[str]:
    """Return the names of the ratios that are below `LIMIT` of the record, or not in it."""
    return [name for name, value in now.items() if not value >= LIMIT * recorded.get(name, math.inf)]


def complaint(name: str, recorded: Mapping[str, float], now: float, whose: str) -> str:
    """Return what is said of a ratio that fell."""
    if name not in recorded:
        return f"{name}: {now:.2f} now, never recorded; record it: {HOW_TO_RECORD}"
    was = recorded[name]
    return (
        f"{name} ({RATIOS[name].meaning}) fell by {1 - now / was:.0%}: recorded {was:.2f} on {whose}, now {now:.2f}, "
        f"at least {LIMIT * was:.2f} expected. Find the change that slowed it; where that is meant: {HOW_TO_RECORD}"
    )


def compare(
    record: Mapping[str, Any], processor: str, measured: Callable[[Collection[str]], Mapping[str, Sequence[Pair]]],
    names: Collection[str] = tuple(RATIOS),
) -> list[str]:  # fmt: skip
    """Measure, again where a ratio seems to have fallen, and return a complaint for each that fell."""
    whose, recorded = recorded_for(record, processor)
    now = {name: ratio(pairs) for name, pairs in measured(names).items()}
    if seeming := fallen(recorded, now):
        again = {name: ratio(pairs) for name, pairs in measured(seeming).items()}
        now |= {name: max(now[name], value) for name, value in again.items()}
    return [complaint(name, recorded, now[name], whose) for name in fallen(recorded, now)]


def summary(repeats: Sequence[Mapping[str, Sequence[Pair]]]) -> dict[str, Any]:
    """Return each ratio's median over the repetitions, its spread (largest over smallest, less 1), and all of them."""
    found = {}
    for name in repeats[0]:
        values = [ratio(one[name]) for one in repeats]
        meaning, spread = RATIOS[name].meaning, max(values) / min(values) - 1
        found[name] = {"meaning": meaning, "value": median(values), "spread": spread, "repeats": values}
    return found


def processor_name() -> str:
    """Return the processor's name, without its number of cores, and whether it multiplies in bf16.

    One name may be of several generations, whose instructions, and so ratios, are others.
    """
    import torch

    from cosup.devices import has_fast_bfloat16
    from cosup.experiments.provenance import processor

    kind = "with" if has_fast_bfloat16(torch.device("cpu")) else "without"
    return f"{processor().rpartition(',')[0]}, {kind} bf16"


def in_fresh_process(names: Collection[str]) -> dict[str, list[Pair]]:
    """Measure in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "pairs.json"
        command = [sys.executable, __file__, "--only", *names, "--pairs", str(out)]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        found: dict[str, list[Pair]] = json.loads(out.read_text(encoding="utf-8"))
        return found


def main() -> None:
    """Measure; compare with the record, or write it."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logger.setLevel(logging.INFO)
    found = arguments(sys.argv[1:])
    record: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    if found.pairs:
        write_json(found.pairs, measure(found.only))
    elif found.record:
        ratios = summary([in_fresh_process(found.only) for _ in range(found.repeats)])
        record[processor_name()] = {**about(["benchmarks/ratios.py", "--record"]), "ratios": ratios}
        for name, own in ratios.items():
            logger.info("%-10s %7.2f   spread %.1f%%", name, own["value"], 100 * own["spread"])
        write_json(RECORD, record)
    else:
        slowed = {name: float(times) for name, _, times in (word.partition("=") for word in found.slow)}
        if told := compare(record, processor_name(), lambda names: measure(names, slowed), found.only):
            raise SystemExit("\n".join(told))


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--only", nargs="+", choices=tuple(RATIOS), default=list(RATIOS), help="measure these")
    add("--record", action="store_true", help="write the record of this processor")
    add("--repeats", type=int, default=5, help="repetitions for the record")
    add("--slow", nargs="+", default=[], metavar="NAME=TIMES", help="make ours slower, to see this fail")
    add("--pairs", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
