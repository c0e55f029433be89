"""Trials: a command is broken into again and again, and what is found is collected."""

from __future__ import annotations

import logging
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from breaking.activities import ACTIVITIES, Activity
from breaking.checks import unreadable
from breaking.forks import Ended, asked, import_everything, run, start
from breaking.world import World, make_world

logger = logging.getLogger(__name__)


@dataclass
class Findings:
    """What trials come to.

    Attributes:
        times: how often the fault struck.
        found: what went wrong, a line each.
        notes: what else was seen, by name.
    """

    times: int = 0
    found: list[str] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)

    def expect(self, holds: bool, otherwise: str) -> None:
        """Keep a line where something does not hold."""
        if not holds:
            self.found.append(otherwise)
            logger.warning("found: %s", otherwise)

    def count(self, name: str, more: int = 1) -> None:
        """Count something that was seen."""
        self.notes[name] = self.notes.get(name, 0) + more


class Bench:
    """A world, and folders for trials in it.

    Args:
        folder: scratch space.
        seed: of all moments and sizes.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        import_everything()
        self.folder = folder
        self.seed = seed
        self.log = folder / "log"
        (folder / "world").mkdir()
        self.world = World(folder / "world")
        asked(make_world, str(folder / "world"), log=self.log)
        answered = ACTIVITIES["generate"].words(self.world, folder / "world", 0)
        done = run(answered, self.log)
        if done.code:
            raise RuntimeError(f"the world has no predictions: {done.told}")
        self._whole: dict[tuple[str, int], tuple[Any, float, int]] = {}

    def chance(self, number: int) -> random.Random:
        """Return the random numbers of a trial."""
        return random.Random(f"{self.seed}-{number}")

    @contextmanager
    def fresh(self, activity: Activity) -> Iterator[Path]:
        """Give a folder for one trial, at a place that is the same every time: reports name their files."""
        place = self.folder / "trial"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        if activity.begin is not None:
            activity.begin(self.world, place)
        yield place
        shutil.rmtree(place, ignore_errors=True)

    def whole(self, name: str, number: int) -> tuple[Any, float, int]:
        """Return the result of a run that nobody breaks, its seconds, and the bytes it leaves."""
        activity = ACTIVITIES[name]
        key = (name, number % activity.kinds)
        if key not in self._whole:
            with self.fresh(activity) as place:
                done = run(activity.words(self.world, place, number), self.log)
                if done.code:
                    raise RuntimeError(f"{name} fails by itself: {done.told}")
                result = asked(activity.result, str(place), log=self.log)
                self._whole[key] = (result, done.seconds, size_of(place))
        return self._whole[key]

    def finish(self, name: str, number: int, place: Path, findings: Findings, after: str) -> Ended:
        """Run a broken command again, to its end, and compare its result with that of one that nobody broke."""
        activity = ACTIVITIES[name]
        for line in asked(unreadable, str(place), log=self.log):
            findings.expect(False, f"{after}: {line.replace(str(place), '')}")
        done = run(activity.words(self.world, place, number), self.log)
        over = done.code == 2 and any(part in done.err for part in activity.over)
        findings.expect(over or done.code == 0, f"{after}: the same command ended with {done.told}")
        findings.count("was done already", int(over))
        if over or done.code == 0:
            same = asked(activity.result, str(place), log=self.log) == self.whole(name, number)[0]
            findings.expect(same, f"{after}: the result of the same command is another than that of an unbroken run")
        return done


def size_of(folder: Path) -> int:
    """Return the bytes of a folder's files, each a whole number of pages, as on a disk in memory."""
    return sum(-(-p.stat().st_size // 4096) * 4096 for p in folder.rglob("*") if p.is_file())


def kills(bench: Bench, name: str, times: int) -> Findings:
    """Kill a command at random moments; then whoever reads its files, and the same command, must find nothing odd."""
    findings, activity, number = Findings(), ACTIVITIES[name], 0
    while findings.times < times and number < 4 * times:
        chance, (_, seconds, _) = bench.chance(number), bench.whole(name, number)
        with bench.fresh(activity) as place:
            child = start(activity.words(bench.world, place, number), bench.log)
            time.sleep(chance.uniform(0, 0.95 * seconds))
            if child.signalled():
                after = f"killed {time.monotonic() - child.began:.2f} s into {activity.does}"
                child.wait()
                findings.times += 1
                bench.finish(name, number, place, findings, after)
                logger.info("%d of %d: %s", findings.times, times, after)
            child.wait()
        number += 1
    return findings
