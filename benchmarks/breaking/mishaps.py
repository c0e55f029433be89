"""Clocks that jump, two processes at one place, memory that runs out, a process of several that is killed."""

from __future__ import annotations

import logging
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from breaking.activities import ACTIVITIES
from breaking.checks import odd_times
from breaking.disks import expect_refusal
from breaking.forks import Child, asked, run, start
from breaking.trials import Bench, Findings

logger = logging.getLogger(__name__)

HOUR = 3600.0
BOUND = 60.0  # seconds within which the rest of a run must have ended
HOLDERS = {"train": "run/.lock.holder", "index": "index/.partial.lock.holder", "change": "index/.lock.holder"}


def clock_jumps(bench: Bench, name: str, times: int) -> Findings:
    """Let the wall clock go back an hour at a random moment of a command."""
    findings, activity = Findings(), ACTIVITIES[name]
    for number in range(times):
        _, seconds, _ = bench.whole(name, number)
        moment = bench.chance(number).uniform(0, 0.9 * seconds)
        with bench.fresh(activity) as place:
            done = run(activity.words(bench.world, place, number), bench.log, lambda after=moment: turn_back(after))
            findings.times += 1
            after = f"the clock went back {moment:.2f} s into {activity.does}"
            findings.expect(done.code == 0, f"{after}: {done.told}")
            for line in asked(odd_times, str(place), log=bench.log):
                findings.expect(False, f"{after}: {line}")
            bench.finish(name, number, place, findings, after)
            logger.info("%d of %d: %s", findings.times, times, after)
    return findings


def turn_back(after: float) -> None:
    """Let the wall clock of this process go back an hour after some seconds; what is measured otherwise goes on."""
    real, real_ns, since = time.time, time.time_ns, time.monotonic()

    def lag() -> float:
        return HOUR if time.monotonic() - since > after else 0.0

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) - timedelta(seconds=lag())

    time.time = lambda: real() - lag()
    time.time_ns = lambda: real_ns() - int(lag() * 1e9)
    for module in list(sys.modules.values()):
        if getattr(module, "datetime", None) is datetime and module.__name__.startswith("cosup"):
            module.datetime = Clock  # type: ignore[attr-defined]


def two_at_once(bench: Bench, name: str, times: int) -> Findings:
    """Start a command twice: the second is told who is at it; the first is killed, and then the command goes on."""
    findings, activity = Findings(), ACTIVITIES[name]
    for number in range(times):
        with bench.fresh(activity) as place:
            first = start(activity.words(bench.world, place, number), bench.log.with_name("first"))
            if not _stopped_when(first, (place / HOLDERS[name]).exists):
                first.wait()
                findings.count("the first was too quick")
                continue
            findings.times += 1
            second = run(activity.words(bench.world, place, number), bench.log)
            after = f"two at {activity.does}"
            expect_refusal(findings, after, second)
            told = rf"by process {first.pid} on {re.escape(os.uname().nodename)} since \d{{4}}-\d\d-\d\d \d\d:\d\d"
            findings.expect(bool(re.search(told, second.err)), f"{after}: not told who holds it: {second.told}")
            first.signalled(signal.SIGKILL)
            first.wait()
            bench.finish(name, number, place, findings, f"{after}, the first killed")
            logger.info("%d of %d: %s", findings.times, times, second.told)
    return findings


def _stopped_when(child: Child, arrived: Callable[[], bool]) -> bool:
    """Stop a process as soon as something is so; return whether it was."""
    while not child.ended():
        if arrived():
            return child.signalled(signal.SIGSTOP) and arrived()
    return False


def no_memory(bench: Bench, name: str, times: int) -> Findings:
    """Leave a command too little memory for a random part of its work; the same command with more then ends well."""
    findings, activity, number = Findings(), ACTIVITIES[name], 0
    more = {"train": ("--per_device_train_batch_size", "200"), "index": ("--batch-tokens", "1000000")}[name]
    keys = {"train": ("micro_batch_tokens", "per_device_train_batch_size", "max_length"), "index": ("--batch-tokens",)}
    while findings.times < times and number < 6 * times:
        room = int(bench.chance(number).uniform(20, 140 if name == "train" else 70) * 2**20)
        with bench.fresh(activity) as place:
            words = [*activity.words(bench.world, place, number), *more]
            done = run(words, bench.log, lambda room=room: leave_room(room))
            after = f"{room >> 20} MiB left for {activity.does}"
            if done.code:
                findings.times += 1
                expect_refusal(findings, after, done)
                findings.expect("out of memory" in done.err, f"{after}: not told what ran out: {done.told}")
                advised = all(key in done.err for key in keys[name]) or "micro_batch_tokens" in done.err
                findings.expect(advised, f"{after}: not told what to lower: {done.told}")
                findings.count("during a step", int(all(key in done.err for key in keys[name])))
                if name != "train":  # a run of another batch size is another run
                    bench.finish(name, number, place, findings, after)
            logger.info("%d of %d: %s: %s", findings.times, times, after, done.told)
        number += 1
    return findings


def leave_room(size: int) -> None:
    """Let this process take so many bytes of memory more, and no more."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + size, resource.RLIM_INFINITY))


def rank_killed(bench: Bench, times: int) -> Findings:
    """Kill one of two processes under torchrun at a random moment: the other ends in time; the command goes on."""
    findings = Findings()
    activity = ACTIVITIES["train"]
    with bench.fresh(activity) as place:
        seconds = time.monotonic()
        whole = torchrun(activity.words(bench.world, place, 0), bench.log)
        code = whole.wait()
        seconds = time.monotonic() - seconds
        if code:
            raise RuntimeError(f"torchrun fails by itself: {_tail(bench.log)}")
        expected = asked(activity.result, str(place), log=bench.log)
    for number in range(times):
        chance = bench.chance(number)
        with bench.fresh(activity) as place:
            words = activity.words(bench.world, place, 0)
            running = torchrun(words, bench.log)
            time.sleep(chance.uniform(0.2, 0.9) * seconds)
            ranks = children_of(running.pid)
            if not ranks:
                running.wait()
                findings.count("torchrun had ended")
                continue
            os.kill(chance.choice(ranks), signal.SIGKILL)
            began = time.monotonic()
            findings.times += 1
            try:
                code = running.wait(BOUND)
            except subprocess.TimeoutExpired:
                findings.expect(False, f"a rank was killed: the rest went on for more than {BOUND:.0f} s")
                running.kill()
            took = time.monotonic() - began
            said = _tail(bench.log, 20_000)
            findings.expect(code != 0, "a rank was killed: torchrun called it a success")
            findings.expect("SIGKILL" in said or "lost another one" in said, f"a rank was killed: {said[-300:]}")
            code = torchrun(words, bench.log).wait()
            findings.expect(code == 0, f"a rank was killed: the same command ended with {_tail(bench.log)}")
            same = code == 0 and asked(activity.result, str(place), log=bench.log) == expected
            findings.expect(same, "a rank was killed: the result of the same command is another")
            logger.info("%d of %d: the rest ended after %.1f s", findings.times, times, took)
    return findings


def torchrun(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start `cosup WORDS` as two processes on this machine's processor."""
    run_words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with log.with_suffix(".err").open("wb") as stream:
        return subprocess.Popen(
            [*run_words, "-m", "cosup", *words], stdout=stream, stderr=stream, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            after = place.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue
        if int(after[1]) == pid and after[0] != "Z":
            found.append(int(place.parent.name))
    return found


def _tail(log: Path, most: int = 400) -> str:
    return log.with_suffix(".err").read_text(encoding="utf-8", errors="replace")[-most:]
