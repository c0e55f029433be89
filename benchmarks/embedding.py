"""Embedding throughput: cosup's whole way from passages to shards beside the bare forward pass and SentenceTransformer.

    python benchmarks/embedding.py --model runs/train/model --passages data/squad/passages.jsonl

Three sides, one after another in every round, the order turned round each time; a ratio is the median over the rounds:

    bare                   the embedder's forward pass alone, on cosup's own batches, on the device beforehand
    cosup                  `embed_corpus`: reads passages from a store, tokenises, batches, embeds, writes shards
    sentence_transformers  `SentenceTransformer.encode` of the same model folder, from texts in memory

`ratio_bare` and `ratio_sentence_transformers` are cosup's rate over theirs. A rate counts the real tokens of cosup's
encoding. `padded` and `packed` are the bare pass on the same batches padded, and end to end in one row.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from machine import about

from cosup.data.writing import write_json

if TYPE_CHECKING:
    import torch

    from cosup.data.store import PassageStore
    from cosup.modeling import CoSupervisedModel

logger = logging.getLogger(__name__)

SIDES = ("bare", "cosup", "sentence_transformers")
LAYOUTS = ("padded", "packed")


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Attributes:
        model: a model folder.
        passages: file of passages.
        count: so many of them, spread over the file; 0 for all.
        rounds: how often every side is run.
        tokens_per_batch: of cosup and of the bare pass.
        st_batch_size: passages of a batch of SentenceTransformer; 32 is its own default.
        threads: of the processor.
        device: `cpu` or `cuda`.
        dtype: of the weights.
    """

    model: str
    passages: str
    count: int = 512
    rounds: int = 3
    tokens_per_batch: int = 0
    st_batch_size: int = 32
    threads: int = 2
    device: str = "cpu"
    dtype: str = "float32"


def main() -> None:
    """Measure, print the table, write the file."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logger.setLevel(logging.INFO)
    found = arguments(sys.argv[1:])
    setting = Setting(**{name: getattr(found, name) for name in Setting.__annotations__})
    record = {"settings": _shown(setting), **about(sys.argv, setting.device), **measure(setting)}
    logger.info("%s", "\n".join(table(record)))
    if found.json:
        write_json(found.json, record)


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--model", required=True, help="model folder")
    add("--passages", default="data/squad/passages.jsonl", help="file of passages")
    add("--count", type=int, default=Setting.count, help="passages, spread over the file; 0 for all")
    add("--rounds", type=int, default=Setting.rounds, help="how often every side is run")
    add("--tokens-per-batch", type=int, default=0, help="of cosup; by default what it takes for the device")
    add("--st-batch-size", type=int, default=Setting.st_batch_size, help="passages of a SentenceTransformer batch")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)), help="processor threads")
    add("--device", choices=("cpu", "cuda"), default=Setting.device, help="where to embed")
    add("--dtype", choices=("float32", "bfloat16"), default=Setting.dtype, help="of the weights")
    add("--json", type=Path, help="file to write")
    return parser.parse_args(words)


def _shown(setting: Setting) -> dict[str, Any]:
    return asdict(setting) | {"model": Path(setting.model).name, "passages": Path(setting.passages).name}


def measure(setting: Setting) -> dict[str, Any]:
    """Run every side and return the figures."""
    import torch

    torch.set_num_threads(setting.threads)
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(setting, Path(scratch))
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in SIDES}
        bench.warm_up()
        for number in range(setting.rounds):
            for name in SIDES if number % 2 == 0 else SIDES[::-1]:
                runs[name].append(timed(getattr(bench, name), bench.synchronise))
            logger.info("round %d: %s", number + 1, {n: round(r[-1]["seconds"], 2) for n, r in runs.items()})
        layouts = {name: timed(getattr(bench, name), bench.synchronise) for name in LAYOUTS if bench.has(name)}
        return summary(runs, bench.tokens, len(bench.store)) | {
            "layouts": {name: bench.tokens / run["seconds"] for name, run in layouts.items()},
            "largest_difference": bench.difference(),
            "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        }


def timed(work: Callable[[], Any], synchronise: Callable[[], None]) -> dict[str, float]:
    """Return how long some work takes: seconds, and seconds of the processor over all threads."""
    synchronise()
    start, processor = time.perf_counter(), time.process_time()
    work()
    synchronise()
    return {"seconds": time.perf_counter() - start, "processor_seconds": time.process_time() - processor}


def summary(runs: Mapping[str, Sequence[Mapping[str, float]]], tokens: int, count: int) -> dict[str, Any]:
    """Return rates, and the ratios round by round."""
    found: dict[str, Any] = {"passages": count, "tokens": tokens, "runs": runs}
    for name in SIDES:
        seconds = median(run["seconds"] for run in runs[name])
        found[name] = {"tokens_per_second": tokens / seconds, "passages_per_second": count / seconds}
    for other in ("bare", "sentence_transformers"):
        for unit, suffix in (("seconds", ""), ("processor_seconds", "_processor")):
            pairs = zip(runs[other], runs["cosup"], strict=True)
            found[f"ratio_{other}{suffix}"] = median(theirs[unit] / own[unit] for theirs, own in pairs)
    return found


class Bench:
    """The three sides over the same passages.

    Args:
        setting: what is measured.
        scratch: for the store and the shards.
    """

    def __init__(self, setting: Setting, scratch: Path) -> None:
        import torch

        from cosup.index.embed import batches_by_length, tokens_for
        from cosup.modeling import CoSupervisedModel

        self.setting = setting
        self.scratch = scratch
        self.device = torch.device(setting.device)
        dtype = getattr(torch, setting.dtype)
        self.model: CoSupervisedModel = CoSupervisedModel.from_pretrained(setting.model, dtype).to(self.device)
        self.store: PassageStore = some_passages(setting, scratch)
        self.budget = setting.tokens_per_batch or tokens_for(self.device)
        self.texts = [passage.rendered for passage in self.store.in_order()]
        self.ids = self.model.encode_passages(self.texts)
        self.tokens = sum(map(len, self.ids))
        self.batches = list(batches_by_length([len(ids) for ids in self.ids], self.budget))
        self.inputs = [self._padded(rows) for rows in self.batches]
        self.other = sentence_transformer(setting, dtype)
        self.vectors: Any = None
        self.theirs: Any = None
        self._number = 0

    def _padded(self, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        from cosup.data.padding import pad_right

        ids, mask = pad_right([self.ids[row] for row in rows], int(self.model.embedder_tokenizer.pad_token_id))
        return ids.to(self.device), mask.to(self.device)

    def has(self, layout: str) -> bool:
        """Whether the embedder can take batches laid out so."""
        return layout == "padded" or self.model.can_pack

    def warm_up(self) -> None:
        """Let every side touch its weights once."""
        import torch

        with torch.inference_mode():
            ids, mask = self.inputs[-1]
            self.model.embedder(input_ids=ids[:2], attention_mask=mask[:2], use_cache=False)
        self.model.embed_ids(self.ids[:2])
        self.other.encode(self.texts[:2])

    def synchronise(self) -> None:
        """Wait for the device."""
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def bare(self) -> None:
        """The forward pass on padded batches."""
        import torch

        with torch.inference_mode():
            for ids, mask in self.inputs:
                self.model.embedder(input_ids=ids, attention_mask=mask, use_cache=False)

    padded = bare

    def packed(self) -> None:
        """The forward pass on the same batches, each end to end in one row."""
        import torch

        from cosup.data.padding import lay_end_to_end

        with torch.inference_mode():
            for rows in self.batches:
                row, lengths = lay_end_to_end([self.ids[i] for i in rows])
                self.model.embed(row.to(self.device), lengths=lengths.to(self.device))

    def cosup(self) -> None:
        """From passages on disk to vectors on disk."""
        from cosup.index.embed import EmbedOptions, embed_corpus

        self._number += 1
        options = EmbedOptions(tokens_per_batch=self.budget)
        self.vectors = embed_corpus(self.model, self.store, self.scratch / f"run-{self._number}", options)

    def sentence_transformers(self) -> None:
        """From texts in memory to vectors in memory."""
        size = self.setting.st_batch_size
        self.theirs = self.other.encode(self.texts, batch_size=size, show_progress_bar=False)

    def difference(self) -> float:
        """Return the largest difference between a number of cosup's vectors and of SentenceTransformer's."""
        return float(abs(self.vectors[:] - self.theirs).max())


def some_passages(setting: Setting, scratch: Path) -> PassageStore:
    """Return a store of `count` passages, spread over the file."""
    from cosup.data.reading import read_passages
    from cosup.data.store import PassageStore
    from cosup.data.writing import write_jsonl

    passages = read_passages(setting.passages)
    step = max(1, len(passages) // setting.count) if setting.count else 1
    chosen = passages[::step][: setting.count or None]
    write_jsonl(scratch / "passages.jsonl", chosen)
    return PassageStore.build(scratch / "passages.jsonl", scratch / "store")


def sentence_transformer(setting: Setting, dtype: torch.dtype) -> Any:
    """Load the embedder folder as users of sentence-transformers do."""
    from sentence_transformers import SentenceTransformer

    folder = str(Path(setting.model) / "embedder")
    return SentenceTransformer(folder, device=setting.device, model_kwargs={"dtype": dtype})


def table(record: Mapping[str, Any]) -> list[str]:
    """Return the sides as lines of a Markdown table."""
    lines = ["| side | real tokens/s | passages/s | cosup's rate over it |", "|---|---:|---:|---:|"]
    for name in SIDES:
        own = record[name]
        ratio = "" if name == "cosup" else f"{record[f'ratio_{name}']:.2f}x"
        rates = f"{own['tokens_per_second']:.0f} | {own['passages_per_second']:.1f}"
        lines.append(f"| {name.replace('_', ' ')} | {rates} | {ratio} |")
    return lines


if __name__ == "__main__":
    main()
