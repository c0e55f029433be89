"""Verdicts on disk: nothing is asked twice, and neither a kill nor a second process costs more than a chunk."""

from __future__ import annotations

import errno
import json
import logging
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from cosup.errors import CosupError, UsageError
from cosup.evaluation.judging import cache
from cosup.evaluation.judging.base import Decision, Pair
from cosup.evaluation.judging.cache import CachedJudge, VerdictFile, default_folder

PAIRS = [("It rains in Oslo.", "It rains."), ("It rains.", "It snows."), ("", "ünïcode \ud800")]


class Recorder:
    """Says yes where the premise contains the hypothesis, knows nothing of "?", and keeps what it is asked."""

    def __init__(self, name: str = "recorder") -> None:
        self.name = name
        self.asked: list[Pair] = []

    def decide(self, pairs: Sequence[Pair]) -> list[Decision]:
        self.asked += pairs
        return [self._one(*pair) for pair in pairs]

    def _one(self, premise: str, hypothesis: str) -> Decision:
        if hypothesis == "?":
            return Decision(None, "no idea")
        return Decision(hypothesis in premise, f"of {hypothesis!r}", 0.25)


def test_a_second_run_asks_nothing_and_says_the_same(tmp_path: Path) -> None:
    first, second = Recorder(), Recorder()
    decided = CachedJudge(first, tmp_path).decide(PAIRS)
    assert sorted(first.asked) == sorted(PAIRS)
    cached = CachedJudge(second, tmp_path)
    assert cached.decide(PAIRS) == decided == Recorder().decide(PAIRS)
    assert (second.asked, cached.asked, cached.found) == ([], 0, 3)
    assert cached.name == "recorder"


def test_only_the_same_judge_premise_and_hypothesis_is_found(tmp_path: Path) -> None:
    CachedJudge(Recorder(), tmp_path).decide([("a b", "c")])
    for name, pair in (("other", ("a b", "c")), ("recorder", ("a", "b c")), ("recorder", ("a b ", "c"))):
        judge = Recorder(name)
        CachedJudge(judge, tmp_path).decide([pair])
        assert judge.asked == [pair]
    assert len(list(tmp_path.glob("*.jsonl"))) == 2


def test_judges_of_like_names_have_files_of_their_own(tmp_path: Path) -> None:
    paths = {CachedJudge(Recorder(name), tmp_path).path for name in ("a/b", "a:b", "a b", "x" * 300, "x" * 301, "../a")}
    assert len(paths) == 6
    assert {path.parent for path in paths} == {tmp_path}


def test_a_pair_that_stands_there_twice_is_asked_once(tmp_path: Path) -> None:
    judge = Recorder()
    found = CachedJudge(judge, tmp_path).decide([("ab", "b"), ("ab", "c"), ("ab", "b")])
    assert [d.entailed for d in found] == [True, False, True]
    assert sorted(judge.asked) == [("ab", "b"), ("ab", "c")]


def test_undecided_pairs_are_asked_again(tmp_path: Path) -> None:
    judge = Recorder()
    for _ in range(2):
        found = CachedJudge(judge, tmp_path).decide([("?", "?"), ("a", "a")])
        assert [d.entailed for d in found] == [None, True]
    assert judge.asked.count(("?", "?")) == 2
    assert judge.asked.count(("a", "a")) == 1


def test_progress_counts_distinct_pairs_and_begins_with_those_that_are_kept(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    CachedJudge(Recorder(), tmp_path).decide([("0", "0")])
    pairs = [(str(i), str(i)) for i in range(5)] * 2
    CachedJudge(Recorder(), tmp_path, lambda done, total: told.append((done, total)), chunk=2).decide(pairs)
    assert told == [(1, 5), (3, 5), (5, 5)]


def test_nothing_to_decide_asks_nothing(tmp_path: Path) -> None:
    judge = Recorder()
    assert CachedJudge(judge, tmp_path, lambda done, total: 1 // 0).decide([]) == []
    assert judge.asked == []


def test_the_same_object_finds_what_it_decided_before(tmp_path: Path) -> None:
    judge = Recorder()
    cached = CachedJudge(judge, tmp_path)
    assert cached.decide(PAIRS) == cached.decide(PAIRS)
    assert (len(judge.asked), cached.asked, cached.found) == (3, 3, 3)


PROGRAM = """
import os, signal, sys
from cosup.evaluation.judging import cache
from cosup.evaluation.judging.base import FunctionJudge
from cosup.evaluation.judging.cache import CachedJudge
asked = 0
def judge(premise, hypothesis):
    global asked
    asked += 1
    if asked == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return hypothesis in premise
pairs = [(str(i), "1") for i in range(int(sys.argv[3]), int(sys.argv[4]))]
CachedJudge(FunctionJudge(judge, "shared"), sys.argv[1], chunk=4).decide(pairs)
"""


def started(folder: Path, killed_at: int, first: int, end: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder), str(killed_at), str(first), str(end)])


def test_a_killed_run_keeps_every_chunk_that_was_done(tmp_path: Path) -> None:
    """Killed in its third chunk of 4: 8 verdicts are there, and the next run asks for the other 12."""
    assert started(tmp_path, 10, 0, 20).wait() == -signal.SIGKILL
    judge = Recorder("function shared, threshold 0.5")
    cached = CachedJudge(judge, tmp_path)
    found = cached.decide([(str(i), "1") for i in range(20)])
    assert (cached.found, cached.asked) == (8, 12)
    assert [i for i, d in enumerate(found) if d.entailed] == [1, *range(10, 20)]


def test_two_processes_add_to_one_file(tmp_path: Path) -> None:
    """Each decides 400 pairs, 200 of them the other's as well; every line is whole and every verdict there."""
    both = [started(tmp_path, 0, 0, 400), started(tmp_path, 0, 200, 600)]
    assert [process.wait() for process in both] == [0, 0]
    (file,) = tmp_path.glob("*.jsonl")
    records = [json.loads(line) for line in file.read_text(encoding="ascii").splitlines()]
    assert len({record["key"] for record in records}) == 600
    judge = Recorder("function shared, threshold 0.5")
    found = CachedJudge(judge, tmp_path).decide([(str(i), "1") for i in range(600)])
    assert judge.asked == []
    assert [d.entailed for d in found] == ["1" in str(i) for i in range(600)]


def test_what_another_process_adds_is_found_without_opening_again(tmp_path: Path) -> None:
    judge = Recorder()
    early, late = CachedJudge(judge, tmp_path), CachedJudge(Recorder(), tmp_path)
    early.decide(PAIRS[:1])
    late.decide(PAIRS)
    early.decide(PAIRS)
    assert len(judge.asked) == 1


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_a_torn_line_costs_its_own_verdict_only(tmp_path: Path, cut: int) -> None:
    cached = CachedJudge(Recorder(), tmp_path, chunk=1)
    cached.decide(PAIRS)
    lines = cached.path.read_bytes().splitlines(keepends=True)
    cached.path.write_bytes(b"".join(lines[:2]) + lines[2][:cut])
    again = Recorder()
    CachedJudge(again, tmp_path).decide([*PAIRS, ("new", "new")])
    assert len(again.asked) == 2
    last = Recorder()
    assert CachedJudge(last, tmp_path).decide(PAIRS) == Recorder().decide(PAIRS)
    assert last.asked == []


@pytest.mark.parametrize(
    "line",
    [
        b"\x00\x00\x00", b"null", b"[1]", b"{}", b"\xff\xfe", b"[" * 9999,
        b'{"key": "KEY", "entailed": null, "score": null, "reason": "r"}',
        b'{"key": "KEY", "entailed": "true", "score": null, "reason": "r"}',
        b'{"key": "KEY", "entailed": true, "score": 7, "reason": "r"}',
        b'{"key": "KEY", "entailed": true, "score": NaN, "reason": "r"}',
        b'{"key": "KEY", "entailed": true, "score": null, "reason": 3}',
        b'{"key": "KEY", "entailed": true, "score": null}',
    ],
    ids=range(12),
)  # fmt: skip
def test_a_line_that_is_no_verdict_is_passed_over_and_told(
    tmp_path: Path, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file = VerdictFile(tmp_path, "recorder")
    file.path.write_bytes(line.replace(b"KEY", file.key(PAIRS[1]).encode()) + b"\n")
    judge = Recorder()
    with caplog.at_level(logging.INFO):
        (decision,) = CachedJudge(judge, tmp_path).decide([PAIRS[1]])
    assert judge.asked == [PAIRS[1]]
    assert decision.entailed is False
    assert "damaged lines: 1; those pairs are asked again" in caplog.text


def test_places_that_cannot_hold_verdicts_are_named(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match=f"cannot keep verdicts in {place}"):
        CachedJudge(Recorder(), place)
    cached = CachedJudge(Recorder(), tmp_path)
    cached.path.mkdir()
    with pytest.raises(UsageError, match=f"cannot read verdicts from {cached.path}: Is a directory"):
        cached.decide(PAIRS)


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache, "FileLock", full)
    cached = CachedJudge(Recorder(), tmp_path)
    with pytest.raises(CosupError, match=r"cannot keep verdicts in .*: No space left on device"):
        cached.decide(PAIRS)


def test_a_judge_that_gives_too_few_decisions_is_told(tmp_path: Path) -> None:
    class Short(Recorder):
        def decide(self, pairs: Sequence[Pair]) -> list[Decision]:
            return super().decide(pairs)[1:]

    with pytest.raises(UsageError, match=r"the judge \(recorder\) gave 2 decisions for 3 pairs"):
        CachedJudge(Short(), tmp_path).decide(PAIRS)


def test_verdicts_lie_in_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_folder() == Path("/somewhere/cosup/verdicts")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == Path.home() / ".cache" / "cosup" / "verdicts"
