"""Disks that are full, disks that cannot be written, inputs that cannot be read."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import random
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from breaking.activities import ACTIVITIES
from breaking.forks import Ended, asked, run
from breaking.trials import Bench, Findings

logger = logging.getLogger(__name__)

PLENTY = 512 * 2**20
ENDLESS = "/proc/self/mem"  # every read of its beginning is an input/output error


def full_disk(bench: Bench, name: str, times: int) -> Findings:
    """Let the disk run full at a random byte of what a command writes; then give it room and run it again."""
    findings, activity, number = Findings(), ACTIVITIES[name], 0
    while findings.times < times and number < 4 * times:
        _, _, size = bench.whole(name, number)
        with bench.fresh(activity) as place, small_disk(place, bench.chance(number), size) as (limit, grow):
            done = run(activity.words(bench.world, place, number), bench.log, limit)
            if done.code:
                findings.times += 1
                after = f"full disk, {activity.does}"
                expect_refusal(findings, after, done)
                grow()
                bench.finish(name, number, place, findings, after)
                logger.info("%d of %d: %s", findings.times, times, done.told)
        number += 1
    return findings


@contextlib.contextmanager
def small_disk(
    place: Path, chance: random.Random, size: int
) -> Iterator[tuple[Callable[[], None] | None, Callable[[], None]]]:
    """Make a folder a disk in memory that is too small for `size` bytes more; without root, keep files small.

    Yields:
        What is to be called in the process that writes (or None), and what makes room.
    """
    if not may_mount():
        most = int(chance.uniform(0, size / 4))
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY)), lambda: None
        return
    before = _copied_away(place)
    there = sum(-(-p.stat().st_size // 4096) * 4096 + 4096 for p in before.rglob("*"))
    room = there + int(chance.uniform(0.02, 0.98) * (size - there if size > there else size))
    _mount("-t", "tmpfs", "-o", f"size={max(4096, room)}", "tmpfs", str(place))
    try:
        shutil.copytree(before, place, dirs_exist_ok=True)
        yield None, lambda: _mount("-o", f"remount,size={PLENTY}", str(place))
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
        shutil.rmtree(before)


def read_only(bench: Bench, name: str, times: int) -> Findings:
    """Let a command write to a folder that cannot be written, at the beginning and where it was killed before."""
    findings, activity = Findings(), ACTIVITIES[name]
    for number in range(times):
        with bench.fresh(activity) as place:
            before = sorted(str(p) for p in place.rglob("*"))
            with closed(place):
                done = run(activity.words(bench.world, place, number), bench.log, without_privileges)
                findings.times += 1
                expect_refusal(findings, f"read-only folder, {activity.does}", done)
                now = sorted(str(p) for p in place.rglob("*"))
                findings.expect(before == now, f"read-only folder, {activity.does}: {set(now) ^ set(before)} changed")
            bench.finish(name, number, place, findings, "read-only folder")
            logger.info("%d of %d: %s", findings.times, times, done.told)
    return findings


def unreadable_input(bench: Bench, name: str, times: int) -> Findings:
    """Take the right to read an input away, or let every read of it fail; then give it back and run again."""
    findings, activity = Findings(), ACTIVITIES[name]
    inputs = [Path(bench.world.folder / own) for own in activity.inputs]
    for number in range(6 * times):
        if findings.times == times:
            break
        chance = bench.chance(number)
        own, fails = inputs[number % len(inputs)], chance.random() < 0.5
        files = sorted(p for p in own.rglob("*") if p.is_file()) if own.is_dir() else [own]
        file = chance.choice(files)
        with bench.fresh(activity) as place:
            with failing(file) if fails else forbidden(file):
                done = run(activity.words(bench.world, place, number), bench.log, without_privileges)
            after = f"{'failing' if fails else 'forbidden'} {file.relative_to(bench.world.folder)}, {activity.does}"
            if done.code == 0:
                findings.count(f"not needed: {file.name}")  # as `generation_config.json`
                same = asked(activity.result, str(place), log=bench.log) == bench.whole(name, number)[0]
                findings.expect(same, f"{after}: taken as something else")
                continue
            findings.times += 1
            expect_refusal(findings, after, done)
            named = file.name in done.err or (file != own and str(file.parent) in done.err)
            findings.expect(named, f"{after}: neither the file nor its folder is named: {done.told}")
            bench.finish(name, number, place, findings, after)
            logger.info("%d of %d: %s", findings.times, times, done.told)
    return findings


def expect_refusal(findings: Findings, after: str, done: Ended) -> None:
    """One or two lines, exit code 2."""
    told = done.complaints
    right = done.code == 2 and 1 <= len(told) <= 2 and told[0].startswith("error: ") and "Traceback" not in done.err
    findings.expect(right, f"{after}: {done.told}")


def may_mount() -> bool:
    """Whether this process may mount disks in memory."""
    tried = subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True)
    return os.geteuid() == 0 and tried.returncode == 0


def without_privileges() -> None:
    """Let root obey permissions like everybody: give up all capabilities of this process."""
    if os.geteuid() != 0:
        return
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3 of the call, this process
    nothing = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, nothing):
        raise OSError(ctypes.get_errno(), "capset")


@contextlib.contextmanager
def closed(folder: Path) -> Iterator[None]:
    """Take away the right to write into a folder and into all below it."""
    places = [folder, *(p for p in folder.rglob("*") if p.is_dir())]
    for place in places:
        place.chmod(0o555)
    try:
        yield
    finally:
        for place in places:
            place.chmod(0o755)


@contextlib.contextmanager
def forbidden(file: Path) -> Iterator[None]:
    """Take away the right to read a file."""
    mode = file.stat().st_mode
    file.chmod(0)
    try:
        yield
    finally:
        file.chmod(mode)


@contextlib.contextmanager
def failing(file: Path) -> Iterator[None]:
    """Let every read of a file fail with an input/output error."""
    aside = file.with_name(f".aside-{file.name}")
    file.rename(aside)
    file.symlink_to(ENDLESS)
    try:
        yield
    finally:
        file.unlink()
        aside.rename(file)


def _copied_away(place: Path) -> Path:
    before = place.with_name(f"{place.name}-before")
    shutil.rmtree(before, ignore_errors=True)
    shutil.copytree(place, before)
    return before


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)
