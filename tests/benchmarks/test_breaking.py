"""benchmarks/faults.py finds what it looks for, and finds nothing in cosup."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import faults
import numpy as np
import pytest
from breaking.checks import odd_times, temporaries, unreadable
from breaking.disks import may_mount
from breaking.forks import Ended
from breaking.trials import Findings
from safetensors.numpy import save_file

from tests.pairs import TinyWorld

HOUSE = Path(__file__).parents[2]


def test_half_written_files_are_found_and_temporaries_are_not(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}')
    (tmp_path / "b.jsonl").write_text('{"a": 1}\n')
    save_file({"x": np.ones(100)}, tmp_path / "c.safetensors")
    (tmp_path / ".d.json.1234.tmp").write_text('{"a')
    assert unreadable(str(tmp_path)) == []
    assert temporaries(str(tmp_path)) == [".d.json.1234.tmp"]
    for name in ("a.json", "b.jsonl", "c.safetensors"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-3])
    (tmp_path / "report.html").write_text("<html>")
    found = unreadable(str(tmp_path))
    assert [Path(line.partition(": ")[0]).name for line in found] == [
        "a.json",
        "b.jsonl",
        "c.safetensors",
        "report.html",
    ]


def test_an_index_is_read_by_its_manifest(tiny_world: TinyWorld, tmp_path: Path) -> None:
    """A segment that no manifest names is nobody's; a byte of one that is named is missed."""
    import shutil

    folder = tmp_path / "index"
    shutil.copytree(tiny_world.index, folder)
    (folder / "segment-half").mkdir()
    (folder / "segment-half" / "passages.jsonl").write_text("{")
    assert unreadable(str(tmp_path)) == []
    file = next(p for p in sorted(folder.glob("segment-*/*")) if p.parent.name != "segment-half")
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert "index.json" in unreadable(str(tmp_path))[0]


def test_negative_times_are_found(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps({"log": [{"train_runtime": -3599.0, "loss": -1.0}]}))
    (tmp_path / "seconds.json").write_text("2.5\n")
    assert odd_times(str(tmp_path)) == ["metrics.json: train_runtime is -3599.0"]


@pytest.mark.parametrize(
    ("code", "err", "right"),
    [
        (2, "warning: old\nerror: the disk is full\n", True),
        (2, "one: indexing: 20/20 passages, 5.1 passages/s, 0:00 left\nerror: a\nb\n", True),
        (1, "error: the disk is full\n", False),
        (2, "Traceback (most recent call last):\nerror: x\n", False),
        (2, "error: a\nb\nc\n", False),
        (2, "", False),
    ],
)
def test_a_refusal_is_one_or_two_lines_and_code_2(code: int, err: str, right: bool) -> None:
    from breaking.disks import expect_refusal

    findings = Findings()
    expect_refusal(findings, "here", Ended(code, "", err, 0.1))
    assert (findings.found == []) == right


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kill", "full-disk", "read-only", "unreadable", "clock", "two", "memory"])
def test_every_fault_once(kind: str, tmp_path: Path) -> None:
    """As `benchmarks/faults.py` does it twenty times for the page of reliability."""
    cases = [name for name in faults.cases() if name.startswith(f"{kind}-")]
    if kind == "full-disk" and not may_mount():
        cases = [name for name in cases if name.endswith(("train", "index"))]  # small files fit below any limit
    command = [sys.executable, "benchmarks/faults.py", *cases, "--times", "1", "--records", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HOUSE, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    records = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    assert sorted(record["name"] for record in records) == sorted(cases)
    assert all(record["times"] for record in records if record["name"] != "two-change")
