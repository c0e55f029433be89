"""Two nodes on one machine: train across two network namespaces and compare with one process.

    sudo .venv/bin/python benchmarks/two_nodes.py --json docs/performance/two_nodes.json

Makes two network namespaces that see each other over a virtual link alone, starts `torchrun --nnodes 2` in each (gloo,
rendezvous over the link), trains a tiny pair on the atlas through `cosup train`, trains the same in one process with
the same global batch, and compares loss curves and weights. Namespaces, link and processes are gone at the end,
whatever happens. Needs root and `ip` (iproute2). With `--selftest` the nodes only add up a number.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import about
from training import parse_options

from cosup.data.writing import write_json

logger = logging.getLogger(__name__)

SUBNET, PORT = "10.213.77", 29_411
LOSSES = ("loss", "ntp_loss", "nsp_loss")
GRACE_SECONDS = 10


@dataclass(frozen=True)
class Node:
    """One namespace with its end of the link."""

    namespace: str
    interface: str
    address: str


@dataclass(frozen=True)
class Tolerance:
    """What counts as equal.

    Attributes:
        loss: largest difference of a logged loss, as a share of it.
        weights: distance of the two results, as a share of the way from the first weights to the result.
    """

    loss: float = 1e-3
    weights: float = 2e-2


def main() -> None:
    """Run the nodes, print a verdict; exit code 1 where the two results differ."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    found = _arguments()
    if found.add_up:
        add_up()
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    if os.geteuid() != 0:
        sys.exit("network namespaces need root; run this script with sudo")
    if found.selftest:
        with two_namespaces() as nodes, tempfile.TemporaryDirectory() as folder:
            run_nodes(nodes, [str(Path(__file__).resolve()), "--add-up"], Path(folder), found.timeout)
        logger.info("both nodes joined over the link and added up 1 + 2 = 3")
        return
    with tempfile.TemporaryDirectory() as folder:
        record = {**about(sys.argv), **compare(Path(folder), found)}
    logger.info("%s", verdict(record))
    if found.json:
        write_json(found.json, record)
    sys.exit(0 if record["equal"] else 1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--json", type=Path, help="file to write")
    add("--steps", type=int, default=20, help="optimizer steps")
    add("--batch-size", type=int, default=16, help="examples a step, both nodes together")
    add("--timeout", type=float, default=300, help="seconds that a run may take")
    add("--selftest", action="store_true", help="only let the nodes add up a number")
    add("--set", dest="options", action="append", default=[], metavar="KEY=VALUE",
        help="recipe setting of the two-node run alone, such as fsdp=full_shard")  # fmt: skip
    add("--add-up", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


# -- the nodes ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def two_namespaces() -> Iterator[list[Node]]:
    """Make two namespaces joined by a virtual link, and take them down again."""
    own = os.getpid()
    nodes = [Node(f"cosup-{own}-{side}", f"cs{own}{side}", f"{SUBNET}.{n}") for n, side in enumerate("ab", start=1)]
    with contextlib.ExitStack() as undo:
        for node in nodes:
            _ip("netns", "add", node.namespace)
            undo.callback(_ip, "netns", "del", node.namespace)
        _ip("link", "add", nodes[0].interface, "type", "veth", "peer", "name", nodes[1].interface)
        undo.callback(_remove_link, nodes[0].interface)
        for node in nodes:
            _ip("link", "set", node.interface, "netns", node.namespace)
            _ip("-n", node.namespace, "addr", "add", f"{node.address}/24", "dev", node.interface)
            for interface in ("lo", node.interface):
                _ip("-n", node.namespace, "link", "set", interface, "up")
        yield nodes


def _ip(*words: str) -> str:
    try:
        return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout
    except FileNotFoundError:
        sys.exit("there is no 'ip' command; install iproute2")
    except subprocess.CalledProcessError as error:
        sys.exit(f"'ip {' '.join(words)}' failed: {error.stderr.strip()}")


def _remove_link(interface: str) -> None:
    """Remove the link where it has not gone into a namespace; those that have go with it."""
    subprocess.run(["ip", "link", "del", interface], check=False, capture_output=True)


def bytes_sent(node: Node) -> int:
    """Return how many bytes a node has put on the link."""
    found = json.loads(_ip("-n", node.namespace, "-s", "-j", "link", "show", node.interface))
    return int(found[0]["stats64"]["tx"]["bytes"])


def torchrun(nodes: Sequence[Node], rank: int, words: Sequence[str]) -> list[str]:
    """Return the command of one node: `words` in one process, rendezvous at the first node's address."""
    node = nodes[rank]
    run = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"]
    run += ["--nproc-per-node", "1", "--rdzv-id", "cosup", "--rdzv-backend", "c10d"]
    run += ["--rdzv-endpoint", f"{nodes[0].address}:{PORT}", "--rdzv-conf", f"is_host={int(rank == 0)}"]
    run += ["--local-addr", node.address]
    return ["ip", "netns", "exec", node.namespace, *run, *words]


def run_nodes(nodes: Sequence[Node], words: Sequence[str], folder: Path, timeout: float) -> None:
    """Run the same command on both nodes; ends both and exits where one fails or neither ends in time."""
    logs = [folder / f"node{rank}.log" for rank in range(len(nodes))]
    with contextlib.ExitStack() as undo:
        running = []
        for rank, node in enumerate(nodes):
            environment = os.environ | {"GLOO_SOCKET_IFNAME": node.interface, "OMP_NUM_THREADS": "1"}
            stream = undo.enter_context(logs[rank].open("w"))
            process = subprocess.Popen(
                torchrun(nodes, rank, words),
                env=environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            undo.callback(_end, process)
            running.append(process)
        codes = wait(running, timeout)
    if codes != [0] * len(codes):
        tails = "\n".join(f"--- {log.stem}\n{log.read_text(encoding='utf-8')[-3000:]}" for log in logs)
        sys.exit(f"{tails}\nthe nodes ended with exit codes {codes} (None: not yet)")


def wait(running: Sequence[subprocess.Popen[bytes]], timeout: float) -> list[int | None]:
    """Wait until all have ended or one has failed, at most `timeout` seconds; return exit codes, None for none yet."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        codes = [process.poll() for process in running]
        if any(codes):
            end = min(end, time.monotonic() + GRACE_SECONDS)  # lets the others say why they end
        if None not in codes:
            return codes
        time.sleep(0.2)
    return [process.poll() for process in running]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it has started; all of it is one process group."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
            return


def add_up() -> None:
    """Add up rank + 1 over all processes (run under torchrun)."""
    import torch
    import torch.distributed as dist

    from cosup.processes import leave

    dist.init_process_group("gloo")
    number = torch.tensor([dist.get_rank() + 1.0])
    dist.all_reduce(number)
    if number.item() != 3:
        sys.exit(f"the sum over two nodes is {number.item():.0f}; expected 3")
    leave(0)


# -- the training ------------------------------------------------------------------------------------------------------


def compare(folder: Path, found: argparse.Namespace) -> dict[str, Any]:
    """Train in one process and on two nodes, and return how far they are apart."""
    recipe = write_recipe(folder, found.steps)
    half = found.batch_size // 2
    logger.info("one process: %d steps of %d examples", found.steps, 2 * half)
    one = folder / "one"
    run_one(train_words(recipe, one, 2 * half, {}), folder, found.timeout)
    logger.info("two nodes: %d steps of %d examples each", found.steps, half)
    two = folder / "two"
    options = parse_options(found.options)
    with two_namespaces() as nodes:
        start = time.monotonic()
        run_nodes(nodes, train_words(recipe, two, half, options), folder, found.timeout)
        record = {"seconds": time.monotonic() - start, "link_megabytes": sum(map(bytes_sent, nodes)) / 1e6}
    curves = [read_curve(path) for path in (one, two)]
    distance = weight_distance(folder / "base", one / "model", two / "model")
    record |= {"steps": found.steps, "batch_size": 2 * half, "options": options}
    return record | judge(*curves, distance, Tolerance())


def write_recipe(folder: Path, steps: int) -> Path:
    """Write a tiny base model, a made-up corpus and the recipe that trains on it."""
    import torch
    import yaml
    from transformers import LlamaConfig, LlamaForCausalLM

    from cosup.data.atlas import build_atlas
    from cosup.data.encoding import PROMPT
    from cosup.data.wordlevel import build_word_tokenizer
    from cosup.data.writing import write_jsonl

    atlas = build_atlas(seed=0, train_entities=400, test_entities=20)
    write_jsonl(folder / "passages.jsonl", atlas.train_passages)
    write_jsonl(folder / "questions.jsonl", atlas.train_questions)
    words = build_word_tokenizer([*atlas.train_texts, PROMPT, "search for the passage quote: begin end of quote."])
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    words.save_pretrained(folder / "base")
    base, recipe = str(folder / "base"), folder / "recipe.yaml"
    data = {"passages": str(folder / "passages.jsonl"), "questions": str(folder / "questions.jsonl")}
    training = {"max_steps": steps, "learning_rate": 1e-3, "lr_scheduler_type": "constant", "logging_steps": 1}
    training |= {"save_strategy": "no", "use_cpu": True, "seed": 0}
    record = {
        "generator": base,
        "embedder": base,
        "data": data | {"max_length": 256, "max_passage_length": 96},
        "training": training,
    }
    recipe.write_text(yaml.safe_dump(record), encoding="utf-8")
    return recipe


def train_words(recipe: Path, output: Path, batch_size: int, options: Mapping[str, Any]) -> list[str]:
    """Return what follows `python` (or torchrun) to train the recipe."""
    words = ["-m", "cosup", "train", str(recipe), "--output_dir", str(output)]
    words += ["--per_device_train_batch_size", str(batch_size)]
    return words + [word for name, value in options.items() for word in (f"--{name}", json.dumps(value))]


def run_one(words: Sequence[str], folder: Path, timeout: float) -> None:
    """Run python with `words`; exits with its output where it fails."""
    log = folder / "one.log"
    with log.open("w") as stream:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, *words]
        done = subprocess.run(
            command, check=False, env=environment, stdout=stream, stderr=subprocess.STDOUT, timeout=timeout
        )
    if done.returncode:
        sys.exit(f"{log.read_text(encoding='utf-8')[-3000:]}\nthe run in one process failed")


def read_curve(run: Path) -> list[dict[str, float]]:
    """Return the losses of each logged step of a run folder."""
    log = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["log"]
    return [{name: entry[name] for name in LOSSES if name in entry} for entry in log if "ntp_loss" in entry]


def weight_distance(base: Path, one: Path, two: Path) -> dict[str, float]:
    """Return the largest difference of a weight of two model folders, and their distance as a share of the way.

    The way is the distance of the first result from where training began, over the weights that the base has too.
    """
    from safetensors.torch import load_file

    start = load_file(base / "model.safetensors")
    largest = apart = way = 0.0
    for part in ("generator", "embedder"):
        a, b = (load_file(folder / part / "model.safetensors") for folder in (one, two))
        for name, first in a.items():
            difference = (first - b[name]).double()
            largest = max(largest, float(difference.abs().max()))
            old = start.get(name, start.get(f"model.{name}"))
            if old is not None and old.shape == first.shape:
                apart += float(difference.square().sum())
                way += float((first - old).double().square().sum())
    return {"largest_weight_difference": largest, "weight_distance": (apart / way) ** 0.5 if way else float("nan")}


def judge(
    one: Sequence[Mapping[str, float]],
    two: Sequence[Mapping[str, float]],
    distance: Mapping[str, float],
    tolerance: Tolerance,
) -> dict[str, Any]:
    """Return the curves' largest difference and whether both runs are equal within the tolerance."""
    same_steps = bool(one) and len(one) == len(two) and all(a.keys() == b.keys() for a, b in zip(one, two, strict=True))
    apart = [
        abs(a[name] - b[name]) / max(abs(a[name]), 1e-6)
        for a, b in zip(one, two, strict=False)
        for name in a
        if name in b
    ]
    largest = max(apart, default=0.0) if all(map(math.isfinite, apart)) else float("nan")
    equal = same_steps and largest <= tolerance.loss and distance["weight_distance"] <= tolerance.weights
    limits = {"loss_tolerance": tolerance.loss, "weight_tolerance": tolerance.weights}
    curves = {"one_process": list(one), "two_nodes": list(two)}
    return {"equal": equal, "loss_difference": largest, **distance, **limits, "curves": curves}


def verdict(record: Mapping[str, Any]) -> str:
    """Say in one line what was found."""
    found = "equal" if record["equal"] else "NOT EQUAL"
    return (
        f"{found}: over {record['steps']} steps no logged loss differs by more than "
        f"{100 * record['loss_difference']:.4f}% (at most {100 * record['loss_tolerance']:g}%), and the weights lie "
        f"{100 * record['weight_distance']:.4f}% of the way apart (at most {100 * record['weight_tolerance']:g}%); "
        f"{record['link_megabytes']:.1f} MB over the link in {record['seconds']:.0f} s"
    )


if __name__ == "__main__":
    main()
