"""A long run of a server, under mixed load and a corpus that changes: is memory flat, and is every citation true?

    python benchmarks/soak.py --demo runs/demo

Starts `cosup serve` over a copy of the demo's index. Clients ask, stream, search, embed, read passages, send what is
wrong and hang up in the middle of answers; now and then many of them come at once. Passages are added, replaced and
taken out, by requests and in the index folder behind the server's back. Every citation must point to a passage that
was in the corpus at some moment of its answer, with the title that it had then. At the end no answer may be left in
the batch.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import httpx2 as httpx  # comes with `openai`, of the extra `dev`
from breaking.clients import ADMIN, HEADERS, Clients, Soak
from reliability import RECORDS, Trial
from serving import server

from cosup.data.reading import read_passages, read_questions

logger = logging.getLogger("soak")

FLAT = 0.05  # how much more memory the last sixth of a run may take than the second, as a share


def figures(text: str) -> dict[str, float]:
    """Return the gauges of `/metrics`."""
    found = re.findall(r"^cosup_(queue_length|running|passages) (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in found}


def sample(pid: int) -> dict[str, float]:
    """Return what a process holds: resident memory in MB, open files, threads."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return {
        "resident_mb": round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1),
        "files": sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
        "threads": sum(1 for _ in Path(f"/proc/{pid}/task").iterdir()),
    }


async def soaked(port: int, pid: int, folder: Path, args: argparse.Namespace) -> tuple[Soak, list[dict[str, float]]]:
    """Load a server for `args.seconds`; return what was seen, and samples of what its process held."""
    soak, samples, rng = Soak(), [], random.Random(args.seed)
    began, ends = time.time(), time.time() + args.seconds
    for passage in read_passages(folder / "given.jsonl"):
        soak.born(passage.id, passage.title, 0.0)
    questions = [question.question for question in read_questions(args.demo / "questions.jsonl")]
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=20)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=180, limits=limits) as http:
        clients = Clients(soak, http, questions, folder / "index", rng)
        does, weights = zip(*clients.kinds(), strict=True)

        async def repeat(pause: float, what: Callable[[], Awaitable[None]]) -> None:
            while time.time() < ends:
                try:
                    await what()
                except httpx.HTTPError as error:
                    soak.fault(f"{type(error).__name__}: {error}")
                await asyncio.sleep(min(rng.expovariate(1 / pause), max(0.0, ends - time.time())))

        async def some() -> None:
            await rng.choices(does, weights)[0]()

        async def crowd() -> None:
            await asyncio.gather(*(clients.ask() for _ in range(args.crowd)))
            soak.counts["crowds"] += 1

        async def watch() -> None:
            while time.time() < ends:
                metrics = await http.get("/metrics", headers=HEADERS)
                samples.append({"seconds": round(time.time() - began), **sample(pid), **figures(metrics.text)})
                logger.info("%s %s", json.dumps(samples[-1]), dict(soak.counts))
                await asyncio.sleep(args.every)

        await asyncio.gather(
            *(repeat(args.pause, some) for _ in range(args.clients)),
            repeat(8 * args.pause, clients.change),
            repeat(300 * args.pause, crowd),
            watch(),
        )
        await quiet(http, soak)
    return soak, samples


async def quiet(http: httpx.AsyncClient, soak: Soak) -> None:
    """Note a fault where an answer is left in the batch or in the queue once nobody asks any more."""
    left: dict[str, float] = {}
    for _ in range(60):
        left = figures((await http.get("/metrics", headers=HEADERS)).text)
        if not left["running"] and not left["queue_length"]:
            return
        await asyncio.sleep(1)
    soak.fault(f"a minute after the last request there are still {left}")


def growth(samples: Sequence[Mapping[str, float]], name: str) -> tuple[float, float]:
    """Return the medians of a figure in the second sixth of a run, when it is warm, and in the last."""
    sixth = max(1, len(samples) // 6)
    early, late = samples[sixth : 2 * sixth] or samples, samples[-sixth:]
    return median(s[name] for s in early), median(s[name] for s in late)


def measure(args: argparse.Namespace) -> Trial:
    """Run the server under load and return what came of it."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        shutil.copytree(args.demo / "index", folder / "index")
        shutil.copyfile(args.demo / "passages.jsonl", folder / "given.jsonl")
        (folder / "admin").write_text(f"{ADMIN}\n", encoding="utf-8")
        options = ("--name", "served", "--admin-keys", str(folder / "admin"))
        with server(args.demo / "model", folder / "index", *options) as (port, process):
            soak, samples = asyncio.run(soaked(port, process.pid, folder, args))
        if process.returncode:
            soak.fault(f"the server ended with {process.returncode}")
    for name in ("resident_mb", "files", "threads"):
        early, late = growth(samples, name)
        if late > early * (1 + FLAT) + (2 if name != "resident_mb" else 0):
            soak.fault(f"{name} grew from {early:g} to {late:g}")
    return trial_of(soak, samples, time.perf_counter() - began)


def trial_of(soak: Soak, samples: Sequence[Mapping[str, float]], seconds: float) -> Trial:
    """Return what is kept of a run."""
    early, late = growth(samples, "resident_mb")
    changes = sum(soak.counts[name] for name in ("added", "replaced", "deleted", "added on disk"))
    return Trial(
        kind="soak",
        name="soak",
        tried=f"{seconds / 3600:.1f} hours of mixed load, with clients that hang up; {changes:,} corpus changes",
        times=sum(soak.counts[name] for name in ("answers", "streams", "hung up")),
        found=sorted(set(soak.faults)),
        holds=f"{soak.counts['citations']:,} citations, each of a passage that was there; memory {early:,.0f} MB"
        f" early, {late:,.0f} MB late; no answer left in the batch; longest answer {soak.longest:.1f} s",
        seconds=seconds,
        details={
            "counts": dict(sorted(soak.counts.items())),
            "statuses": {str(status): count for status, count in sorted(soak.statuses.items())},
            "samples": list(samples),
        },
    )


def main() -> None:
    """Run, and write the record; ends with 1 where something was found."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logger.setLevel(logging.INFO)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--demo", type=Path, required=True, help="folder that `cosup demo` wrote")
    parser.add_argument("--seconds", type=float, default=7200.0)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument(
        "--pause", type=float, default=1.0, help="seconds that a client waits between requests, on average"
    )
    parser.add_argument("--crowd", type=int, default=64, help="clients that come at once now and then")
    parser.add_argument("--every", type=float, default=30.0, help="seconds between two samples of the server's memory")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--records", type=Path, default=RECORDS, help="folder for the record")
    args = parser.parse_args()
    trial = measure(args)
    trial.write(["benchmarks/soak.py", *sys.argv[1:]], args.records)
    if trial.found:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
