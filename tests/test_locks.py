"""Locks: the second is told who holds it; what a killed process has left does not block."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cosup.errors import UsageError
from cosup.locks import held, holder_of
from tests.training.test_run_folder import full_disk

HOLDS = """
import sys, time
from pathlib import Path
from cosup.locks import held
with held(Path(sys.argv[1]), "it is used"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_is_told_who_holds_it_and_a_killed_one_does_not_block(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(lock)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UsageError) as found, held(lock, "it is used"):
            pass
        other.send_signal(signal.SIGKILL)
    host = re.escape(socket.gethostname())
    told = rf"it is used by process {other.pid} on {host} since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d; wait"
    assert re.match(told, str(found.value))
    with held(lock, "it is used"):
        assert f"process {os.getpid()} on " in holder_of(lock)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"process": 3}'])
def test_a_holder_that_is_not_known_is_another_process(text: str, tmp_path: Path) -> None:
    (tmp_path / ".lock.holder").write_text(text)
    assert holder_of(tmp_path / ".lock") == "another process"


def test_a_full_disk_does_not_keep_a_lock_from_being_held(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with full_disk(0), held(lock, "it is used"), pytest.raises(UsageError, match="it is used by another process; "):
        held(lock, "it is used").__enter__()
    with held(lock, "it is used"):
        pass


def test_it_is_released_when_the_block_fails(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="no"), held(tmp_path / ".lock", "it is used"):
            raise ValueError("no")
