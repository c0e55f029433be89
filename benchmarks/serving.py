"""Load on a server: how many answers a second one client gets and how many many do, and how long each waits.

    python benchmarks/serving.py --model runs/demo/model --index runs/demo/index --questions runs/demo/questions.jsonl

Starts `cosup serve` as a process of its own on a free port of this machine, with its defaults, and asks it over HTTP
from clients that each send the next question as soon as the last is answered. Server and clients share the processor.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from machine import about

from cosup.data.reading import read_questions
from cosup.data.writing import write_json

logger = logging.getLogger(__name__)

SECONDS = 30.0


@dataclass
class Load:
    """What clients met with: seconds of each answer, and statuses."""

    clients: int
    took: float = 0.0
    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    def to_dict(self) -> dict[str, Any]:
        """Return figures: answers a second, and percentiles of seconds an answer."""
        cuts = quantiles(self.seconds, n=100) if len(self.seconds) > 1 else [0.0] * 99
        return {
            "clients": self.clients,
            "answers": len(self.seconds),
            "answers_per_second": round(len(self.seconds) / self.took, 2),
            "p50_seconds": round(median(self.seconds or [0.0]), 4),
            "p95_seconds": round(cuts[94], 4),
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
        }


@contextlib.contextmanager
def server(model: Path, index: Path, *options: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Run `cosup serve` on a free port; yield the port and the process."""
    command = [sys.executable, "-m", "cosup", "serve", "--model", str(model), "--index", str(index), "--port", "0"]
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        if not address:
            raise SystemExit("the server did not start")
        yield int(address.rpartition(":")[2]), process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> tuple[int, bytes]:
    """Send one request over an open connection; return status and body."""
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    length = next(int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length"))
    return int(lines[0].split()[1]), await reader.readexactly(length)


async def load(port: int, clients: int, questions: Sequence[str], seconds: float = SECONDS) -> Load:
    """Ask from many clients at once for some seconds."""
    found, bodies = Load(clients), [body_of(question) for question in questions]
    began = time.perf_counter()

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        turn = number
        while time.perf_counter() - began < seconds:
            started = time.perf_counter()
            status, _ = await ask(reader, writer, bodies[turn % len(bodies)])
            turn += clients
            found.statuses[status] += 1
            if status == 200:
                found.seconds.append(time.perf_counter() - started)
        writer.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    found.took = time.perf_counter() - began
    return found


def body_of(question: str) -> bytes:
    """Return the request of a question."""
    return json.dumps({"model": "served", "messages": [{"role": "user", "content": question}]}).encode()


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Ask with each number of clients; return the loads and the memory that the server ends with."""
    questions = [question.question for question in read_questions(args.questions)]
    with server(args.model, args.index, "--name", "served") as (port, process):
        asyncio.run(load(port, 4, questions, 2.0))  # warm
        loads = [asyncio.run(load(port, clients, questions, args.seconds)).to_dict() for clients in args.clients]
        pages = int(Path(f"/proc/{process.pid}/statm").read_text(encoding="ascii").split()[1])
    return {"loads": loads, "resident_gb": round(pages * os.sysconf("SC_PAGE_SIZE") / 1e9, 3)}


def table(record: Mapping[str, Any]) -> list[str]:
    """Return the figures as lines of Markdown."""
    alone = record["loads"][0]["answers_per_second"]
    lines = [
        "| clients | answers | answers/s | of one client's | median, ms | p95, ms | refused (429) | other errors |"
    ]
    lines.append("|---:|" + "---:|" * 7)
    for load_ in record["loads"]:
        others = sum(count for status, count in load_["statuses"].items() if status not in ("200", "429"))
        lines.append(
            f"| {load_['clients']} | {load_['answers']:,} | {load_['answers_per_second']:.1f} "
            f"| {load_['answers_per_second'] / alone:.1f}x | {1000 * load_['p50_seconds']:.0f} "
            f"| {1000 * load_['p95_seconds']:.0f} | {load_['statuses'].get('429', 0)} | {others} |"
        )
    return lines


def main() -> None:
    """Measure, print the table, write the file."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logger.setLevel(logging.INFO)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("model", "index", "questions"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--json", type=Path, help="file to write")
    found = parser.parse_args()
    record = {"settings": {"seconds": found.seconds}, **about(sys.argv), **measure(found)}
    logger.info("%s", "\n".join(table(record)))
    if found.json:
        write_json(found.json, record)


if __name__ == "__main__":
    main()
