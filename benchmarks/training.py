"""Speed and memory of training: the yardstick and cosup on the same data, from the same weights, one after another.

    python benchmarks/training.py --passages data/squad/passages.jsonl --questions data/squad/questions.train.jsonl

Three runs, each in a process of its own, see the same examples in the same order: `baseline` (yardstick.py: the paper's
code as it is described), `cosup` (our defaults; with bf16, where the device has instructions for it) and
`cosup_same_supervision` (the same with passages supervised, as the baseline does). Then each is run again for a few
steps in the opposite order, so that a machine that slows down or speeds up on the way favours none. A rate is that of
all steps together, the first of each run left out. Tokens are the real tokens of both models; padding counts in
`padding_share` alone.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from machine import about
from training_pair import Setting, build_pair, load_data, train_tokenizer

from cosup.data.writing import write_json

if TYPE_CHECKING:
    import torch

    from cosup.modeling import CoSupervisedModel
    from cosup.records import Example, Passage

logger = logging.getLogger(__name__)

RUNS = ("baseline", "cosup", "cosup_same_supervision")


def main() -> None:
    """Run what was asked for, print the table, write the file."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    found = arguments(sys.argv[1:])
    setting = setting_of(found)
    if found.run:
        result = run(found.run, setting)
        found.json.write_text(json.dumps(result), encoding="utf-8")
        return
    names = [found.only] if found.only else list(RUNS)
    with tempfile.TemporaryDirectory() as folder:
        if not setting.tokenizer:
            setting = replace(setting, tokenizer=str(train_tokenizer(setting, Path(folder) / "tokenizer")))
        runs = measure(names, setting, found.repeat_steps)
    record = {"settings": _shown(setting, found), **about(sys.argv, setting.device)}
    record |= summary(_kept(found.json, record) | runs if found.only else runs)
    logger.info("%s", "\n".join(table(record)))
    if found.json:
        write_json(found.json, record)


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--passages", default="data/squad/passages.jsonl", help="file of passages")
    add("--questions", default="data/squad/questions.train.jsonl", help="file of questions")
    add("--tokenizer", default="", help="folder or hub id; by default a BPE is trained on the data")
    add("--steps", type=int, default=Setting.steps, help="optimizer steps of each run")
    add("--repeat-steps", type=int, default=3, help="steps of each run's repetition; 0 does not repeat")
    add("--batch-size", type=int, default=Setting.batch_size, help="questions a step")
    add("--learning-rate", type=float, default=Setting.learning_rate, help="of AdamW, constant")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)), help="processor threads")
    add("--layers", type=int, default=Setting.layers, help="layers of each model")
    add("--hidden", type=int, default=Setting.hidden, help="width of each model")
    add("--vocabulary", type=int, default=Setting.vocabulary, help="rows of the embedding matrices")
    add("--held-out", type=int, default=Setting.held_out, help="last questions of the file, for the loss")
    add("--seed", type=int, default=Setting.seed, help="of the weights and the order")
    add("--device", choices=("cpu", "cuda"), default=Setting.device, help="where to train")
    add("--precision", choices=("auto", "bf16", "fp32"), default="auto", help="of cosup's runs")
    add("--only", choices=RUNS, help="run one of the three and keep the file's others")
    add("--json", type=Path, help="file to write")
    add("--set", dest="options", action="append", default=[], metavar="KEY=VALUE", help="training setting of cosup")
    add("--run", choices=RUNS, help=argparse.SUPPRESS)
    found = parser.parse_args(words)
    found.options = parse_options(found.options)
    return found


def setting_of(found: argparse.Namespace) -> Setting:
    """Return the setting that a command line names."""
    setting = Setting(**{name: getattr(found, name) for name in Setting.__annotations__})
    return replace(setting, precision=_quick(setting.device)) if setting.precision == "auto" else setting


def _quick(device: str) -> str:
    import torch

    from cosup.devices import has_fast_bfloat16

    return "bf16" if has_fast_bfloat16(torch.device(device)) else "fp32"


def parse_options(words: Sequence[str]) -> dict[str, Any]:
    """Read `KEY=VALUE` words; values are YAML, as in a recipe."""
    import yaml

    return {name: yaml.safe_load(value) for name, _, value in (word.partition("=") for word in words)}


def _shown(setting: Setting, found: argparse.Namespace) -> dict[str, Any]:
    shown = asdict(setting) | {"repeat_steps": found.repeat_steps, "tokenizer": found.tokenizer or "byte-level BPE"}
    return shown | {name: Path(shown[name]).name for name in ("passages", "questions")}


def _kept(path: Path | None, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the runs of an earlier call with the same settings, commit and machine."""
    if path is None or not path.is_file():
        return {}
    earlier = json.loads(path.read_text(encoding="utf-8"))
    same = all(earlier.get(name) == record[name] for name in ("settings", "commit", "hardware", "versions"))
    return {name: earlier[name] for name in RUNS if name in earlier} if same else {}


# -- one run -----------------------------------------------------------------------------------------------------------


def run(name: str, setting: Setting) -> dict[str, Any]:
    """Train as `name` says, in this process, and return its figures."""
    import torch
    from yardstick import Meter, held_out_loss, peak_memory_gb

    torch.set_num_threads(setting.threads)
    device = torch.device(setting.device)
    passages, examples, held_out = load_data(setting)
    model = build_pair(setting)
    meter = Meter(device)
    if name == "baseline":
        _run_baseline(model.to(device), passages, examples, setting, meter)
    else:
        supervise = {"supervise_passages": name == "cosup_same_supervision"}
        train_cosup(model, passages, examples, cosup_options(setting) | supervise, meter)
    figures = meter.report() | {"peak_memory_gb": peak_memory_gb(device)}
    encoder = _encoder(model)
    figures["loss"] = held_out_loss(model.generator, [encoder.example(e, passages) for e in held_out])
    return figures


def _encoder(model: CoSupervisedModel) -> Any:
    from cosup.data.encoding import ExampleEncoder

    own = model.settings
    return ExampleEncoder(model.generator_tokenizer, model.control, own.prompt, own.max_length, own.max_passage_length)


def _run_baseline(
    model: CoSupervisedModel, passages: dict[str, Passage], examples: Sequence[Example], setting: Setting, meter: Any
) -> None:
    from yardstick import Yardstick, train

    from cosup.data.collate import ExampleDataset

    pads = (int(t.pad_token_id) for t in (model.generator_tokenizer, model.embedder_tokenizer))
    settings = Yardstick(setting.learning_rate, setting.batch_size, *pads)
    dataset: Any = ExampleDataset(examples, passages, _encoder(model))
    train(
        (model.generator, model.embedder),
        dataset,
        lambda passage_id: model.encode_passage(passages[passage_id].rendered),
        settings,
        meter,
    )


def cosup_options(setting: Setting) -> dict[str, Any]:
    """Return what cosup is told; everything else are its defaults."""
    return {
        "max_steps": setting.steps,
        "per_device_train_batch_size": setting.batch_size,
        "learning_rate": setting.learning_rate,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "bf16": setting.precision == "bf16",
        "seed": setting.seed,
        "use_cpu": setting.device == "cpu",
        **setting.options,
    }


def train_cosup(
    model: CoSupervisedModel,
    passages: Mapping[str, Passage],
    examples: Sequence[Example],
    options: Mapping[str, Any],
    meter: Any,
) -> None:
    """Train with `CoSupervisionTrainer` on the examples in their order; the meter sees every step."""
    from torch.utils.data import SequentialSampler
    from transformers import PrinterCallback, TrainerCallback
    from yardstick import count_batch

    from cosup.training.config import CoSupervisionConfig
    from cosup.training.trainer import CoSupervisionTrainer

    class InOrder(CoSupervisionTrainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)

        def training_step(self, model: Any, inputs: dict[str, Any], *more: Any, **named: Any) -> torch.Tensor:
            meter.add(count_batch(inputs))
            return super().training_step(model, inputs, *more, **named)

    class Timer(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            meter.start()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            meter.end_step()

    with tempfile.TemporaryDirectory() as folder:
        quiet = {"save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True, "output_dir": folder}
        args = CoSupervisionConfig(**quiet, **options)
        trainer = InOrder(model, args, list(examples), passages, callbacks=[Timer()])
        trainer.remove_callback(PrinterCallback)
        trainer.train()


# -- all runs ----------------------------------------------------------------------------------------------------------


def measure(names: Sequence[str], setting: Setting, repeat_steps: int) -> dict[str, Any]:
    """Run each name in a process of its own, then again for a few steps in the opposite order; return their figures."""
    runs = {}
    for name in names:
        logger.info("%s: %d steps", name, setting.steps)
        runs[name] = in_own_process(name, setting)
    if repeat_steps:
        again = replace(setting, steps=repeat_steps)
        for name in reversed(names):
            short = in_own_process(name, again)
            runs[name]["repeated_rates"] = short["rates"]
            runs[name]["tokens_per_second"] = joint_rate([runs[name], short])
    return runs


def joint_rate(runs: Sequence[Mapping[str, Any]]) -> float:
    """Return the real tokens a second over the timed steps of all runs; a step counts by the time it takes."""
    tokens = sum(run["timed_tokens"] for run in runs)
    return float(tokens / sum(run["timed_tokens"] / run["tokens_per_second"] for run in runs))


def in_own_process(name: str, setting: Setting) -> dict[str, Any]:
    """Run `name` in a fresh process, so that no run sees another's memory."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        words = [str(Path(__file__).resolve()), *child_words(name, setting, result)]
        environment = os.environ | {"OMP_NUM_THREADS": str(setting.threads), "TOKENIZERS_PARALLELISM": "false"}
        if subprocess.run([sys.executable, *words], check=False, env=environment).returncode:
            raise SystemExit(f"the run '{name}' failed")
        found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return found


def child_words(name: str, setting: Setting, result: Path) -> list[str]:
    """Return the arguments that make this script run `name` alone and write its figures to `result`."""
    words = ["--run", name, "--json", str(result)]
    for key, value in asdict(setting).items():
        if key != "options":
            words += [f"--{key.replace('_', '-')}", str(value)]
    return words + [word for k, v in setting.options.items() for word in ("--set", f"{k}={json.dumps(v)}")]


def summary(runs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the runs with what follows from them, as far as they are there."""
    found = {name: runs[name] for name in RUNS if name in runs}
    base = found.get("baseline")
    for name, suffix in (("cosup", ""), ("cosup_same_supervision", "_same_supervision")):
        if base is None or name not in found:
            continue
        own = found[name]
        found[f"speedup{suffix}"] = own["tokens_per_second"] / base["tokens_per_second"]
        found[f"memory_ratio{suffix}"] = own["peak_memory_gb"] / base["peak_memory_gb"]
        found[f"loss_ratio{suffix}"] = own["loss"] / base["loss"]
    return found


def table(record: Mapping[str, Any]) -> list[str]:
    """Return the runs as lines of a Markdown table."""
    steps = record["settings"]["steps"]
    lines = [
        f"| run | real tokens/s | padding | peak memory, GB | held-out loss after {steps} steps | speedup | memory |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, suffix in zip(RUNS, (None, "", "_same_supervision"), strict=True):
        if name not in record:
            continue
        own = record[name]
        cells = [f"{own['tokens_per_second']:.0f}", f"{100 * own['padding_share']:.1f}%"]
        cells += [f"{own['peak_memory_gb']:.2f}", f"{own['loss']:.3f}"]
        speed, memory = record.get(f"speedup{suffix}"), record.get(f"memory_ratio{suffix}")
        cells += ["" if speed is None else f"{speed:.2f}x", "" if memory is None else f"{memory:.2f}x"]
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
