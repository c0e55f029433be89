"""Write docs/performance.md from the records of the benchmarks.

    python benchmarks/performance_page.py

Reads from docs/performance/ `training.json` and `training_loss.json` (training.py), `embedding.json` and
`embedding_small.json` (embedding.py), `gpu_mfu.json`, `gpu_gradcache.json`, `gpu_lora_memory.json` and
`lora_memory.json` (gpu_training.py), `two_nodes.json` (two_nodes.py), `retrieval.json` (retrieval.py),
`answering.json`, `answering_bf16.json` and `answering_demo.json` (answering.py), `gpu_decoding.json` (gpu_decoding.py),
`evaluation.json` (evaluation.py), `serving.json` (serving.py) and `ratios.json` (ratios.py). A section whose record is
not there stays as it is on the page, which says so: no machine has measured everything.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import retrieval
from answering import table as answering_table
from embedding import table as embedding_table
from evaluation import table as evaluation_table
from gpu_decoding import table as decoding_table
from serving import table as serving_table
from training import table

Record = Mapping[str, Any]
RECORDS = Path(__file__).parents[1] / "docs/performance"


def main() -> None:
    """Read the records and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=Path, default=RECORDS, help="folder of the JSON files")
    parser.add_argument("--page", type=Path, default=Path("docs/performance.md"), help="page to write")
    found = parser.parse_args()
    records = read_records(found.records)
    earlier = sections(found.page.read_text(encoding="utf-8")) if found.page.is_file() else {}
    if not records and not earlier:
        raise SystemExit(f"{found.records} holds no record; expected one of {', '.join(f'{n}.json' for n in SECTIONS)}")
    found.page.write_text(page(records, earlier), encoding="utf-8")


def read_records(folder: Path) -> dict[str, Record]:
    """Return the records of a folder by the names of their sections."""
    paths = {name: folder / f"{name}.json" for name in SECTIONS}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.is_file()}


def page(records: Mapping[str, Record], earlier: Mapping[str, str]) -> str:
    """Return the page's text.

    Args:
        records: by name, see `SECTIONS`.
        earlier: sections of a page written before, by name; each stands where it has no record.
    """
    parts = ["# Speed and memory\n\n" + " ".join(introduction(records, earlier))]
    for name, section in SECTIONS.items():
        if name in records:
            parts.append(f"<!-- {name} -->\n" + "\n".join(section(records[name])))
        elif name in earlier:
            parts.append(f"<!-- {name} -->\n{earlier[name]}")
    return "\n\n".join(parts) + "\n"


def introduction(records: Mapping[str, Record], earlier: Mapping[str, str]) -> list[str]:
    """Return what the page says of itself: where its records are, and which sections have none."""
    lines = [
        "Written by `benchmarks/performance_page.py` from the records in `docs/performance/`; nothing here is typed by "
        "hand. A section ends with its commit (`+`: with changes that were not committed), its machine and its command."
    ]
    lost = [f"*{heading(body)}*" for name, body in earlier.items() if name not in records]
    if lost:
        lines.append(
            "The records of these were not kept, so that their figures can be checked by running their commands alone: "
            + "; ".join(lost)
            + "."
        )
    return lines


def heading(section: str) -> str:
    """Return the heading of a section of the page."""
    return section.splitlines()[0].lstrip("# ")


def model_of(record: Record) -> str:
    """Return the model of a record's command by the name of its run: `RUN/model` are too many."""
    words = shlex.split(record["command"])
    if "--model" not in words:
        return str(record["settings"]["model"])
    path = Path(words[words.index("--model") + 1])
    return path.parent.name if path.name == "model" and path.parent.name else path.name


def sections(text: str) -> dict[str, str]:
    """Return the sections of a page by the names that stand before them."""
    _, *found = re.split(r"^<!-- (\w+) -->\n", text, flags=re.MULTILINE)
    return {name: body.strip() for name, body in zip(found[::2], found[1::2], strict=True)}


def origin(record: Record) -> list[str]:
    """Return what every section ends with: machine, versions, commit and command."""
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    where = f"Commit {record['commit']}; {record['hardware']}; {versions}."
    return ["", where, "", "```sh", record["command"], "```"]


def training(record: Record) -> list[str]:
    """The yardstick and cosup on the same data."""
    own = record["settings"]
    lines = [
        "## Training against the paper's procedure",
        "",
        "`baseline` is the procedure of the paper's code as it is described, written anew "
        "(`benchmarks/yardstick.py`): float32, padded to the longest row, logits at every position. `cosup` are our "
        f"defaults with {own['precision']}; `cosup same supervision` supervises the passages too, as the baseline "
        f"does. Generator and embedder have {own['layers']} layers x {own['hidden']} and a vocabulary of "
        f"{own['vocabulary']:,}, the same first weights, and {own['batch_size']} questions of `{own['questions']}` a "
        f"step in the same order; learning rate {own['learning_rate']:g}; {own['threads']} threads, {own['device']}. "
        "A rate counts the real tokens of both models, over all steps but each run's first. The loss is that of "
        "[Ret], claims, [Ce] and final text of "
        f"{own['held_out']} held-out questions.",
        "",
        *table(record),
    ]
    named = {"loss_ratio": "cosup", "loss_ratio_same_supervision": "cosup same supervision"}
    ratios = [f"{title}: {record[name]:.3f}" for name, title in named.items() if name in record]
    if ratios:
        lines += ["", f"Held-out loss over the baseline's: {'; '.join(ratios)}."]
    return lines + origin(record)


def embedding(record: Record) -> list[str]:
    """From passages to vectors."""
    own = record["settings"]
    layouts = ", ".join(f"{name} {rate:.0f}" for name, rate in record["layouts"].items())
    return [
        f"## Embedding a corpus with {model_of(record)}",
        "",
        f"{record['passages']:,} passages of `{own['passages']}` ({record['tokens']:,} real tokens), {own['dtype']}, "
        f"{own['threads']} threads, {own['device']}; medians over {own['rounds']} rounds. `bare` is "
        "the embedder's forward pass alone on the same length-sorted batches; cosup reads passages from disk, "
        "tokenises, embeds and writes shards; SentenceTransformer encodes the same folder and texts "
        f"({own['st_batch_size']} a batch).",
        "",
        *embedding_table(record),
        "",
        f"In the processor's time: {record['ratio_bare_processor']:.2f}x of the bare pass, "
        f"{record['ratio_sentence_transformers_processor']:.2f}x of SentenceTransformer. The bare pass by layout, real "
        f"tokens/s: {layouts}. Largest difference between the two libraries' vectors: "
        f"{record['largest_difference']:.1e}.",
        *origin(record),
    ]


def training_loss(record: Record) -> list[str]:
    """The loss of the same three after more steps; the machine was shared, so no rate is told."""
    steps = record["settings"]["steps"]
    lines = [
        f"## Held-out loss after {steps} steps",
        "",
        "As above, but run beside other work and on one thread: losses depend on neither, rates do and are left out.",
        "",
        "| run | held-out loss | over the baseline's |",
        "|---|---:|---:|",
    ]
    for name, suffix in (("baseline", None), ("cosup", ""), ("cosup_same_supervision", "_same_supervision")):
        if name in record:
            ratio = 1.0 if suffix is None else record[f"loss_ratio{suffix}"]
            own = record[name]
            lines.append(f"| {name.replace('_', ' ')} | {own['loss']:.3f} | {ratio:.3f} |")
    return lines + origin(record)


def mfu(record: Record) -> list[str]:
    """Arithmetic of one large GPU."""
    part = record["setting"]["mfu"]
    sizes = record["runs"]["mfu"]["matrix_parameters"]
    side = part["matmul"]
    return [
        f"## Arithmetic used ({part['device']})",
        "",
        f"A pair of {sizes['generator'] / 1e9:.2f} B and {sizes['embedder'] / 1e9:.2f} B parameters (matrices of the "
        f"bodies), {part['batch_size']} examples a step, bf16. Model FLOPs: {record['formula']}.",
        "",
        f"| real tokens/s | TFLOP/s | {side}^3 bf16 product, TFLOP/s | share | peak memory, GB |",
        "|---:|---:|---:|---:|---:|",
        f"| {record['tokens_per_second']:.0f} | {record['flops'] / 1e12:.1f} | {record['matmul_flops'] / 1e12:.1f} | "
        f"{100 * record['mfu']:.1f}% | {record['peak_memory_gb']:.1f} |",
        *origin(record),
    ]


def gradcache(record: Record) -> list[str]:
    """Tokens a second with few and with many negatives."""
    parts, runs = record["setting"], record["runs"]
    lines = [
        f"## Many in-batch negatives ({parts['few']['device']})",
        "",
        f"At most {parts['few']['options']['micro_batch_tokens']:,} tokens a pack.",
        "",
        "| candidates a step | real tokens/s | peak memory, GB | times slower |",
        "|---:|---:|---:|---:|",
    ]
    for name, slower in (("few", 1.0), ("many", record["slowdown"])):
        rate, memory = runs[name]["tokens_per_second"], runs[name]["peak_memory_gb"]
        lines.append(f"| {parts[name]['batch_size']:,} | {rate:.0f} | {memory:.1f} | {slower:.2f} |")
    return lines + origin(record)


def lora_memory(record: Record) -> list[str]:
    """Two adapters on one base against full training."""
    part = record["setting"]["full"]
    shape = part["shape"]
    return [
        f"## Two adapters on one base ({part['device']})",
        "",
        f"Models of {shape['layers']} layers x {shape['hidden']}, {part['batch_size']} sequences a step, activation "
        f"checkpointing in both.",
        "",
        "| full training of two models, peak GB | two LoRA adapters, peak GB | share |",
        "|---:|---:|---:|",
        f"| {record['full_peak_memory_gb']:.2f} | {record['lora_peak_memory_gb']:.2f} | {record['memory_ratio']:.2f} |",
        *origin(record),
    ]


def two_nodes(record: Record) -> list[str]:
    """Two namespaces against one process."""
    found = "equal" if record["equal"] else "not equal"
    options = "".join(f", {name}={value}" for name, value in record["options"].items())
    return [
        "## Two nodes",
        "",
        f"`torchrun --nnodes 2` in two network namespaces joined by a virtual link (gloo{options}), against one "
        f"process with the same {record['batch_size']} examples a step, {record['steps']} steps: {found}.",
        "",
        "| largest difference of a logged loss | distance of the weights, of the way | MB over the link | seconds |",
        "|---:|---:|---:|---:|",
        f"| {100 * record['loss_difference']:.4f}% (at most {100 * record['loss_tolerance']:g}%) | "
        f"{100 * record['weight_distance']:.4f}% (at most {100 * record['weight_tolerance']:g}%) | "
        f"{record['link_megabytes']:.1f} | {record['seconds']:.0f} |",
        *origin(record),
    ]


def search(record: Record) -> list[str]:
    """Search at several sizes, and how it grows."""
    own = record["settings"]
    lines = [
        "## Search among many passages",
        "",
        f"Corpora drawn from a model of real vectors (`{own['embeddings']}`: mean, {own['factors']} leading "
        f"directions, even noise); {own['queries']} held-out real vectors, moved by {own['moved']:g} of the spread, "
        f"each searched by itself; stored as {own['vector_dtype']}; {own['threads']} threads. Memory is that of a "
        "fresh process, mapped files included; recall is against exact search.",
        "",
        *retrieval.table(record),
    ]
    if "growth" in record:
        found = record["growth"]
        build, median = found["build_seconds"], found["median_ms"]
        lines += [
            "",
            f"Extrapolated from these sizes, at {record['growth_to']:,} passages: {build['value'] / 60:.0f} minutes to "
            f"build (n^{build['exponent']:.2f}), {median['value']:.1f} ms a search (n^{median['exponent']:.2f}), "
            f"{found['resident_gb']['value']:.1f} GB resident, {found['disk_gb']['value']:.0f} GB on disk.",
        ]
    return lines + origin(record)


def answering(record: Record) -> list[str]:
    """The engine against the paper's inference and against plain generation."""
    own = record["settings"]
    theirs, ours = (
        f"{100 * right['share']:.0f}% ({100 * right['low']:.0f} to {100 * right['high']:.0f})"
        for right in (record["baseline_right"], record["right"])
    )
    return [
        f"## Answering ({model_of(record)}, {own['dtype']})",
        "",
        "`baseline` is the paper's inference as it is described, written anew (`benchmarks/answering_yardstick.py`): "
        "float32, one question at a time, everything read again after each retrieval. `plain generate` writes as many "
        "tokens after the same prompts and passages; overhead is its rate over cosup's. "
        f"{own['count']} questions, of which {own['alone']} for one at a time; {own['threads']} threads; greedy; "
        f"medians over {own['rounds']} rounds.",
        "",
        *answering_table(record),
        "",
        f"The same text as the baseline's: {100 * record['same_text']:.0f}% with 32 at once, "
        f"{100 * record['same_text_1']:.0f}% one at a time. Answers that hold a gold answer (95% interval): baseline "
        f"{theirs}, cosup {ours} on the same questions.",
        *origin(record),
    ]


def decoding(record: Record) -> list[str]:
    """Decoding against the memory's bandwidth."""
    own = record["settings"]
    return [
        f"## Decoding ({own['device']})",
        "",
        f"A Llama-shaped generator of {own['layers']} layers x {own['hidden']} with random bf16 weights over the "
        f"engine's slots, each row with {own['context']} tokens before; the share is of the bandwidth that a copy has.",
        "",
        *decoding_table(record),
        *origin(record),
    ]


def evaluation(record: Record) -> list[str]:
    """Scoring many short answers."""
    own = record["settings"]
    return [
        "## Scoring",
        "",
        f"`cosup evaluate` on {own['count']:,} made-up short answers over {own['passages']:,} passages, ten hits and a "
        "citation each: reading, every measure with its interval, all four files written. No judge, no ROUGE.",
        "",
        *evaluation_table(record),
        *origin(record),
    ]


def serving(record: Record) -> list[str]:
    """Load on a server."""
    return [
        "## Serving",
        "",
        "`cosup serve` with its defaults, a process of its own, asked over HTTP on this machine by clients that "
        f"send the next question as soon as the last is answered, for {record['settings']['seconds']:g} seconds each. "
        f"Server and clients share the processor. The server ends with {record['resident_gb']:.2f} GB resident.",
        "",
        *serving_table(record),
        *origin(record),
    ]


def ratios(record: Record) -> list[str]:
    """Return the section of the ratios that no change may lower."""
    lines = [
        "## Ratios that no change may lower",
        "",
        "Each is the time of a slow way over that of ours, on made-up data and small models, on one thread; the median "
        "over repetitions in fresh processes. `python benchmarks/ratios.py` measures them anew and fails where one "
        "fell by a fifth (a test under `bench` runs it).",
    ]
    for processor, own in record.items():
        lines += ["", f"| {processor} | ratio | spread of the repetitions |", "|---|---:|---:|"]
        lines += [f"| {r['meaning']} | {r['value']:.2f}x | {100 * r['spread']:.1f}% |" for r in own["ratios"].values()]
        lines += origin(own)
    return lines


SECTIONS: dict[str, Callable[[Record], list[str]]] = {
    "training": training,
    "training_loss": training_loss,
    "embedding": embedding,
    "embedding_small": embedding,
    "gpu_mfu": mfu,
    "gpu_gradcache": gradcache,
    "gpu_lora_memory": lora_memory,
    "lora_memory": lora_memory,
    "two_nodes": two_nodes,
    "retrieval": search,
    "answering": answering,
    "answering_bf16": answering,
    "answering_demo": answering,
    "gpu_decoding": decoding,
    "evaluation": evaluation,
    "serving": serving,
    "ratios": ratios,
}


if __name__ == "__main__":
    main()
