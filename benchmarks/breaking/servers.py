"""A server whose corpus is changed over HTTP, killed at random moments."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import re
import shutil
import threading
import time
from pathlib import Path

from breaking.checks import unreadable
from breaking.forks import Child, asked, start
from breaking.trials import Bench, Findings

logger = logging.getLogger(__name__)

KEY = "admin"
LONGEST = 1.5  # seconds of changes before the kill


def kill_server(bench: Bench, times: int) -> Findings:
    """Kill a server while its corpus is changed: what it has confirmed is there, the change on its way whole or not."""
    findings = Findings()
    place = bench.folder / "served"
    shutil.copytree(bench.world.index, place / "index")
    (place / "keys").write_text(f"{KEY}\n", encoding="utf-8")
    words = ["serve", "--model", bench.world.model, "--index", str(place / "index"), "--port", "0"]
    words += ["--admin-keys", str(place / "keys"), "--dtype", "float32"]
    held = set(asked(ids_of, str(place / "index"), log=bench.log))
    for number in range(times):
        child = start(words, bench.log)
        port = _port_of(child)
        if port is None:
            findings.expect(False, f"the server does not start again: {child.wait().told}")
            break
        confirmed, coming = held, held
        killer = threading.Timer(bench.chance(number).uniform(0, LONGEST), child.signalled)
        killer.start()
        with contextlib.suppress(OSError, http.client.HTTPException):
            for change in range(10_000):
                coming = _changed(confirmed, number, change)
                status = _send(port, confirmed, coming)
                findings.expect(status == 200, f"a change was answered with {status}")
                confirmed = coming
                findings.count("changes")
        killer.join()
        child.wait()
        findings.times += 1
        for line in asked(unreadable, str(place), log=bench.log):
            findings.expect(False, f"the server was killed: {line.replace(str(place), '')}")
        held = set(asked(ids_of, str(place / "index"), log=bench.log))
        whole = held in (confirmed, coming)
        findings.expect(whole, f"the server was killed: {len(held ^ confirmed)} passages off what was confirmed")
        findings.count("the change on its way was made", int(held == coming != confirmed))
        logger.info("%d of %d: %s", findings.times, times, findings.notes)
    return findings


def ids_of(place: str) -> list[str]:
    """Return the ids of an index, every byte of which is as it was written."""
    from cosup.index.faiss_index import FaissIndex

    index = FaissIndex.load(Path(place), None)
    index.manifest.verify(index.folder)
    return [passage.id for passage in index]


def _changed(held: set[str], number: int, change: int) -> set[str]:
    """Return what is there after the next change: five passages more, or one less."""
    own = {f"served-{number}-{change}-{i}" for i in range(5)}
    added = sorted(i for i in held if i.startswith("served-"))
    return held - {added[change % len(added)]} if added and change % 3 == 2 else held | own


def _send(port: int, before: set[str], after: set[str]) -> int:
    """Ask the server for a change and return its status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        if gone := before - after:
            connection.request("DELETE", f"/v1/passages/{gone.pop()}", headers=headers)
        else:
            passages = [{"id": i, "title": i, "text": f"{i} is a passage."} for i in sorted(after - before)]
            connection.request("POST", "/v1/passages", json.dumps({"passages": passages}).encode(), headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status


def _port_of(child: Child) -> int | None:
    """Wait until a server says where it is."""
    while not child.ended():
        if found := re.search(r"http://127\.0\.0\.1:(\d+)", child.log.with_suffix(".out").read_text(encoding="utf-8")):
            return int(found.group(1))
        time.sleep(0.02)
    return None
