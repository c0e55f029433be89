"""Search among a million vectors: time to build, memory while searching, recall and time of a search, at three sizes.

    python benchmarks/retrieval.py --model MODEL --passages data/squad/passages.jsonl --embeddings data/real.npy
    python benchmarks/retrieval.py --embeddings data/real.npy --json docs/performance/retrieval.json

The first command embeds real passages (MODEL is a model folder, or a checkpoint that is embedded with as it is). The
second draws corpora from a model of these vectors: their mean, the leading directions of their covariance, and even
noise for the rest. The queries are real vectors that the model was not fitted to, each moved by a draw from it. Every
size is built in one process and searched in a fresh one, one query at a time.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosup.data.writing import write_json
from cosup.experiments.provenance import commit, processor
from cosup.records import Passage

logger = logging.getLogger(__name__)

KILT = 30_000_000
WORDS_A_PASSAGE = 100
FINGERPRINT = "0" * 64
K = 10
_CHUNK = 50_000

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Setting:
    """What all sizes share.

    Attributes:
        embeddings: file of real vectors, [M, D].
        sizes: passages of each corpus.
        index_type: of `cosup index --index-type`.
        vector_dtype: of the stored vectors.
        queries: held out.
        factors: leading directions of the covariance.
        moved: how far a query is moved, in the spread of the vectors.
        threads: of the processor.
        seed: of the draws.
    """

    embeddings: str
    sizes: tuple[int, ...] = (100_000, 300_000, 1_000_000)
    index_type: str = "ivf-pq"  # what `auto` chooses for the largest; growth is that of one type
    vector_dtype: str = "float16"
    queries: int = 500
    factors: int = 128
    moved: float = 0.3
    threads: int = 2
    seed: int = 0


@dataclass(frozen=True)
class World:
    """A model of real vectors.

    Attributes:
        mean: [D].
        factors: [K, D] the leading directions, each as long as the spread along it.
        noise: spread along every other direction.
    """

    mean: Vectors
    factors: Vectors
    noise: float

    @classmethod
    def fit(cls, vectors: Vectors, factors: int) -> World:
        """Fit a model to [M, D] vectors."""
        mean = vectors.mean(axis=0)
        _, lengths, directions = np.linalg.svd(vectors - mean, full_matrices=False)
        spread = lengths / math.sqrt(len(vectors))
        rest = math.sqrt(float((spread[factors:] ** 2).sum()) / vectors.shape[1])
        return cls(mean, (spread[:factors, None] * directions[:factors]).astype(np.float32), rest)

    def deviations(self, count: int, random: np.random.Generator) -> Vectors:
        """Draw [count, D] deviations from the mean."""
        along = random.standard_normal((count, len(self.factors)), dtype=np.float32) @ self.factors
        return along + self.noise * random.standard_normal((count, len(self.mean)), dtype=np.float32)

    def draw(self, count: int, random: np.random.Generator) -> Vectors:
        """Draw [count, D] vectors of unit length."""
        return unit(self.mean + self.deviations(count, random))


class Passages(Sequence[Passage]):
    """As many passages as vectors, their texts as long as real ones; made when asked for."""

    def __init__(self, count: int) -> None:
        self._count = count
        words = np.random.default_rng(0).integers(97, 123, size=(4000, 5), dtype=np.uint8)
        self._words = [bytes(word).decode() for word in words]

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: Any) -> Any:
        start = row * 37 % (len(self._words) - WORDS_A_PASSAGE)
        return Passage(f"passage-{row}", f"Title {row}", " ".join(self._words[start : start + WORDS_A_PASSAGE]))

    def __iter__(self) -> Iterator[Passage]:
        return (self[row] for row in range(self._count))


def unit(vectors: Vectors) -> Vectors:
    """Bring vectors to unit length."""
    return np.ascontiguousarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def split(setting: Setting) -> tuple[World, Vectors]:
    """Return the model of the real vectors, and the queries: held-out real vectors, moved."""
    random = np.random.default_rng(setting.seed)
    real = unit(random.permutation(np.load(setting.embeddings, allow_pickle=False).astype(np.float32)))
    if len(real) < 2 * setting.queries:
        raise SystemExit(f"{setting.embeddings} has {len(real)} vectors; expected at least {2 * setting.queries}")
    world = World.fit(real[setting.queries :], setting.factors)
    return world, unit(real[: setting.queries] + setting.moved * world.deviations(setting.queries, random))


# -- one size ----------------------------------------------------------------------------------------------------------


def draw_corpus(setting: Setting, size: int, folder: Path) -> None:
    """Write the vectors of a corpus, the queries and the rows of their exact nearest into `folder`."""
    from cosup.index.structures import exact_rows
    from cosup.index.vectors import VectorFile

    world, queries = split(setting)
    random = np.random.default_rng(setting.seed + size)
    with (folder / "vectors.bin").open("wb") as stream:
        for start in range(0, size, _CHUNK):
            stream.write(world.draw(min(_CHUNK, size - start), random).astype("<f2").data)
    np.save(folder / "queries.npy", queries)
    np.save(
        folder / "truth.npy", exact_rows(queries, VectorFile(folder / "vectors.bin", queries.shape[1], "float16"), K)
    )


def build(setting: Setting, size: int, folder: Path) -> dict[str, Any]:
    """Build the index of a corpus that was drawn, in this process."""
    from cosup.index.faiss_index import FaissIndex
    from cosup.index.structures import IndexSettings

    dimension = np.load(folder / "queries.npy").shape[1]
    vectors = np.memmap(folder / "vectors.bin", "<f2", "r", shape=(size, dimension))
    settings = IndexSettings(setting.index_type, setting.vector_dtype)
    started = time.perf_counter()
    index = FaissIndex.build(folder / "index", Passages(size), vectors, FINGERPRINT, "cosine", settings)
    seconds = time.perf_counter() - started
    structure = index.manifest.segments[0].structure
    return {
        "build_seconds": seconds,
        "build_peak_gb": memory_gb("VmHWM"),
        "disk_gb": index.manifest.size / 1e9,
        "type": index.manifest.type,
        "structure": None if structure is None else asdict(structure),
    }


def search(folder: Path) -> dict[str, Any]:
    """Open the index and search it with every query by itself, in this process."""
    from cosup.index.faiss_index import FaissIndex

    queries, truth = np.load(folder / "queries.npy"), np.load(folder / "truth.npy")
    started = time.perf_counter()
    index = FaissIndex.load(folder / "index", FINGERPRINT)
    opened = time.perf_counter() - started
    milliseconds, found = [], []
    for query in queries:
        started = time.perf_counter()
        hits = index.search(query[None], K)[0]
        milliseconds.append(1000 * (time.perf_counter() - started))
        found.append({int(hit.passage_id.rpartition("-")[2]) for hit in hits})
    return {
        "open_seconds": opened,
        "recall": float(
            np.mean([len(rows.intersection(own.tolist())) / K for rows, own in zip(found, truth, strict=True)])
        ),
        "median_ms": float(np.median(milliseconds)),
        "p95_ms": float(np.quantile(milliseconds, 0.95)),
        "resident_gb": memory_gb("VmRSS"),
        "resident_peak_gb": memory_gb("VmHWM"),
    }


def memory_gb(name: str) -> float:
    """Return what /proc says of this process: `VmRSS`, resident now, or `VmHWM`, at most; mapped files count."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:"))) * 1024 / 1e9


def in_own_process(task: str, setting: Setting, size: int, folder: Path) -> dict[str, Any]:
    """Run a task in a fresh process."""
    words = [sys.executable, __file__, "--task", task, "--folder", str(folder), "--sizes", str(size)]
    words += ["--embeddings", setting.embeddings, "--index-type", setting.index_type]
    words += ["--vector-dtype", setting.vector_dtype, "--queries", str(setting.queries), "--seed", str(setting.seed)]
    words += ["--factors", str(setting.factors), "--moved", str(setting.moved)]
    environment = os.environ | {"OMP_NUM_THREADS": str(setting.threads), "OPENBLAS_NUM_THREADS": str(setting.threads)}
    subprocess.run(words, check=True, env=environment)
    return dict(json.loads((folder / f"{task}.json").read_text(encoding="utf-8")))


def run_task(task: str, setting: Setting, size: int, folder: Path) -> None:
    """Do what `in_own_process` asked for and leave the figures in `folder`."""
    figures: Mapping[str, Any] = {}
    if task == "draw":
        draw_corpus(setting, size, folder)
    else:
        figures = build(setting, size, folder) if task == "build" else search(folder)
    (folder / f"{task}.json").write_text(json.dumps(figures), encoding="utf-8")


def measure(setting: Setting, size: int, scratch: Path | None) -> dict[str, Any]:
    """Measure one size."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        figures: dict[str, Any] = {"passages": size}
        for task in ("draw", "build", "search"):
            logger.info("%s passages: %s", f"{size:,}", task)
            figures |= in_own_process(task, setting, size, folder)
    return figures


# -- the record --------------------------------------------------------------------------------------------------------


def growth(runs: Sequence[Mapping[str, Any]], size: int = KILT) -> dict[str, dict[str, float]]:
    """Fit how figures grow with the corpus, and say what that gives at `size` passages.

    Times are fitted by a power of the number of passages, memory and disk by a line.

    Returns:
        For each figure its `value` at `size`, and the `exponent` or the bytes `a_passage`.
    """
    sizes = np.array([run["passages"] for run in runs], dtype=np.float64)
    found = {}
    for name in ("build_seconds", "median_ms"):
        exponent, first = np.polyfit(np.log(sizes), np.log([run[name] for run in runs]), 1)
        found[name] = {"value": float(np.exp(first + exponent * np.log(size))), "exponent": float(exponent)}
    for name in ("resident_gb", "disk_gb"):
        slope, first = np.polyfit(sizes, [run[name] for run in runs], 1)
        found[name] = {"value": float(first + slope * size), "a_passage": float(slope * 1e9)}
    return found


def about(words: Sequence[str]) -> dict[str, Any]:
    """Return what every record carries: command, commit, hardware and the versions of the libraries."""
    versions = {name: version(name) for name in ("faiss-cpu", "numpy")}
    return {
        "command": shlex.join(["python", *words]),
        "commit": commit(),
        "hardware": processor(),
        "versions": versions,
    }


def table(record: Mapping[str, Any]) -> list[str]:
    """Return a Markdown table of the sizes."""
    lines = [
        "| passages | type | build, s | disk, GB | resident while searching, GB | recall@10 | median, ms | p95, ms |",
        "|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for run in record["runs"]:
        lines.append(
            f"| {run['passages']:,} | {run['type']} | {run['build_seconds']:.0f} | {run['disk_gb']:.2f} | "
            f"{run['resident_gb']:.2f} | {run['recall']:.3f} | {run['median_ms']:.2f} | {run['p95_ms']:.2f} |"
        )
    return lines


def embed(model: str, passages: Sequence[str], target: Path, count: int) -> None:
    """Embed `count` of the passages, drawn at random, and write their vectors."""
    import torch

    from cosup.data.reading import read_all, read_passages
    from cosup.devices import has_fast_bfloat16
    from cosup.index.embed import embed_passages
    from cosup.model_folder import PairSettings
    from cosup.modeling import CoSupervisedModel

    corpus = read_all(read_passages, passages)
    rows = np.random.default_rng(0).permutation(len(corpus))[:count]
    if (Path(model) / "cosup.json").is_file():
        pair = CoSupervisedModel.from_pretrained(model)
    else:
        pair = CoSupervisedModel.from_base(model, model, PairSettings(max_length=256, max_passage_length=64))
    if has_fast_bfloat16(torch.device("cpu")):
        pair.to(torch.bfloat16)
    with torch.inference_mode():
        vectors = embed_passages(pair.eval(), [corpus[row] for row in rows])
    target.parent.mkdir(parents=True, exist_ok=True)
    np.save(target, vectors)


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--embeddings", required=True, help=".npy file of real vectors, [M, D]")
    add("--model", help="embed with this model and write --embeddings")
    add("--passages", nargs="+", default=[], help="files of passages, for --model")
    add("--embed", type=int, default=8000, help="passages to embed, for --model")
    add("--sizes", type=_sizes, default=Setting.sizes, help="passages of each corpus, joined by commas")
    add("--index-type", default=Setting.index_type, help="of the index")
    add("--vector-dtype", default=Setting.vector_dtype, help="of the stored vectors")
    add("--queries", type=int, default=Setting.queries, help="held-out queries")
    add("--factors", type=int, default=Setting.factors, help="leading directions of the covariance")
    add("--moved", type=float, default=Setting.moved, help="how far queries are moved")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)), help="processor threads")
    add("--seed", type=int, default=Setting.seed, help="of the draws")
    add("--scratch", type=Path, help="folder for the corpora while they are measured")
    add("--json", type=Path, help="file to write")
    add("--task", choices=("draw", "build", "search"), help=argparse.SUPPRESS)
    add("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(words)


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.replace("_", "").split(","))


def main() -> None:
    """Measure, print the table, write the file."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    logging.getLogger("faiss").setLevel(logging.WARNING)  # it says which of its builds it loads
    found = arguments(sys.argv[1:])
    if found.model:
        embed(found.model, found.passages, Path(found.embeddings), found.embed)
        return
    setting = Setting(**{name: getattr(found, name) for name in Setting.__annotations__})
    if found.task:
        run_task(found.task, setting, setting.sizes[0], found.folder)
        return
    runs = [measure(setting, size, found.scratch) for size in setting.sizes]
    record = {"settings": asdict(setting) | {"embeddings": Path(setting.embeddings).name}, **about(sys.argv)}
    record |= {"runs": runs} | ({"growth": growth(runs), "growth_to": KILT} if len(runs) > 1 else {})
    logger.info("%s", "\n".join(table(record)))
    if found.json:
        write_json(found.json, record)


if __name__ == "__main__":
    main()
