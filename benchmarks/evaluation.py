"""Time and memory of scoring many short answers: no judge, no ROUGE.

    python benchmarks/evaluation.py --count 100000 --json docs/performance/evaluation.json

Made-up questions with one gold passage each, predictions with ten hits and a citation; `cosup evaluate` reads the three
files, measures and writes its reports, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from machine import about

from cosup.data.writing import write_json

logger = logging.getLogger(__name__)

PASSAGES = 20_000


def main() -> None:
    """Measure, print, write the file."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000, help="answers")
    parser.add_argument("--json", type=Path, help="file to write")
    found = parser.parse_args()
    record = {"settings": {"count": found.count, "passages": PASSAGES}, **about(sys.argv), **measure(found.count)}
    logger.info("%s", "\n".join(table(record)))
    if found.json:
        write_json(found.json, record)


def measure(count: int) -> dict[str, Any]:
    """Write the files, score them in a fresh process and return its figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_world(folder, count)
        words = ["--predictions", "predictions.jsonl", "--questions", "questions.jsonl", "--passages", "passages.jsonl"]
        code = (
            "import sys; from cosup.cli import main; code = main(sys.argv[1:]);"
            "print([l for l in open('/proc/self/status') if l.startswith('VmHWM')][0].split()[1], file=sys.stderr);"
            "sys.exit(code)"
        )
        begun = time.perf_counter()
        command = [sys.executable, "-c", code, "evaluate", *words, "--output", "report", "--quiet"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - begun
        if done.returncode:
            raise SystemExit(done.stderr)
        report = json.loads((folder / "report" / "report.json").read_text(encoding="utf-8"))
        page = (folder / "report" / "report.html").stat().st_size
        return {
            "seconds": seconds,
            "peak_memory_gb": int(done.stderr.split()[-1]) * 1024 / 1e9,
            "measures": len(report["metrics"]),
            "page_mb": page / 1e6,
        }


def write_world(folder: Path, count: int) -> None:
    """Write passages, questions and predictions, half of which are right."""
    draw = random.Random(0)
    names = [f"{draw.choice('BCDFGLMNRST')}{draw.choice('aeiou')}{draw.randrange(10**6)}" for _ in range(PASSAGES)]
    texts = [f"{name} lies at the river {names[i - 1]}, in the north of the country." for i, name in enumerate(names)]
    with (folder / "passages.jsonl").open("w", encoding="utf-8") as stream:
        for i, text in enumerate(texts):
            stream.write(json.dumps({"id": f"p{i}", "title": names[i], "text": text}) + "\n")
    with (
        (folder / "questions.jsonl").open("w", encoding="utf-8") as asked,
        (folder / "predictions.jsonl").open("w", encoding="utf-8") as given,
    ):
        for i in range(count):
            gold = i % PASSAGES
            evidence = [{"passage_id": f"p{gold}", "sentence": texts[gold]}]
            question = {"id": f"q{i}", "question": f"At which river lies {names[gold]}?", "answers": [names[gold - 1]]}
            asked.write(json.dumps(question | {"evidence": evidence}) + "\n")
            found = gold if draw.random() < 0.5 else draw.randrange(PASSAGES)
            hits = [{"passage_id": f"p{(found + k) % PASSAGES}", "score": 1.0 - k / 10} for k in range(10)]
            claim = texts[found]
            citation = {
                "n": 1,
                "passage_id": f"p{found}",
                "claim": claim,
                "start": 0,
                "end": len(claim) - 1,
                "score": 1,
            }
            answer = {"id": f"q{i}", "text": f"{claim[:-1]} [1]. {names[found - 1]}", "answer": names[found - 1]}
            answer |= {"citations": [citation], "retrievals": [{"position": 0, "hits": hits}]}
            given.write(json.dumps(answer) + "\n")


def table(record: Mapping[str, Any]) -> Sequence[str]:
    """Return the figures as lines of a Markdown table."""
    return [
        "| answers | seconds | peak memory, GB | figures | report.html, MB |",
        "|---:|---:|---:|---:|---:|",
        f"| {record['settings']['count']:,} | {record['seconds']:.1f} | {record['peak_memory_gb']:.2f} | "
        f"{record['measures']} | {record['page_mb']:.1f} |",
    ]


if __name__ == "__main__":
    main()
