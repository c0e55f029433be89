"""Write the tables of the documentation that come from code: recipes' keys, what `cosup info` says of them, modules.

    python benchmarks/docs_tables.py

A table stands between `<!-- NAME -->` and `<!-- /NAME -->` on its page; the rest of a page is written by hand.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import io
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from cosup.adapters import LoraSettings
from cosup.cli import main as cosup
from cosup.pooling import POOLINGS
from cosup.training.config import PRESETS, UNSUPPORTED, CoSupervisionConfig
from cosup.training.recipe import OBJECTIVE_KEYS, DataSettings, known_keys

ROOT = Path(__file__).parents[1]

# -- recipes ----------------------------------------------------------------------------------------------------------

# What people set of transformers' own fields, in the words of this project.
COMMON = {
    "output_dir": "the run folder: checkpoints, `metrics.json`, and `model/` at the end",
    "num_train_epochs": "passes over the data; a fraction ends in the middle of one",
    "max_steps": "steps in all, in place of `num_train_epochs`; -1 takes that",
    "per_device_train_batch_size": "examples of a step on a device (times `gradient_accumulation_steps`)",
    "gradient_accumulation_steps": "batches that are put together to one step; negatives come from all of them",
    "learning_rate": "of the generator, and of the embedder unless `embedder_learning_rate` is set",
    "lr_scheduler_type": "`linear`, `cosine`, `constant`, ..",
    "warmup_steps": "steps over which the learning rate rises; below 1 a share of all steps",
    "optim": "the optimizer",
    "weight_decay": "of AdamW",
    "max_grad_norm": "gradients of both models together are clipped to this norm",
    "bf16": "compute in bfloat16; a frozen base is held in it as well",
    "fp16": "compute in half precision with loss scaling",
    "activation_checkpointing": "layers keep their input alone and are run again in the backward pass",
    "fsdp": "`true` shares weights, gradients and optimizer out over the devices (FSDP2)",
    "train_sampling_strategy": "order of examples: `random` or `group_by_length`",
    "eval_strategy": "when held-out data is looked at: `no`, `steps` or `epoch`",
    "eval_steps": "steps between two evaluations, with `eval_strategy: steps`; `null` takes `logging_steps`",
    "per_device_eval_batch_size": "held-out examples run together",
    "save_strategy": "when checkpoints are written: `no`, `steps` or `epoch`",
    "save_steps": "steps between two checkpoints, with `save_strategy: steps`",
    "save_total_limit": "checkpoints kept; `null` keeps all",
    "logging_steps": "steps between two lines of the log",
    "report_to": "a tracker: `tensorboard`, `trackio`, `wandb`, ..; `none` has none",
    "seed": "of the order of examples, of dropout, of fresh weights",
    "ddp_timeout": "seconds after which a process that hangs or is gone ends the others",
    "dataloader_num_workers": "processes that prepare batches besides the training process",
}


def described(kind: type[Any]) -> dict[str, str]:
    """Return what a dataclass's docstring says of each field, in one line each."""
    text = (kind.__doc__ or "").replace("one of `pooling.POOLINGS`", ", ".join(f"`{name}`" for name in POOLINGS))
    text = text.replace("None", "`null`")
    section = re.split(r"^ *(?:Attributes|Args):\n", text, flags=re.MULTILINE)[1]
    found = re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", section, flags=re.MULTILINE)
    return {name: " ".join(line.split()) for name, line in found}


def defaults(kind: type[Any]) -> dict[str, Any]:
    """Return the default of each field of a dataclass that has one."""
    missing = dataclasses.MISSING
    return {f.name: f.default for f in dataclasses.fields(kind) if f.default is not missing}


def spelled(value: Any) -> str:
    """Return a value as a recipe spells it."""
    if isinstance(value, tuple):
        return "none" if not value else f"`{', '.join(map(str, value))}`"
    if value is None:
        return "`null`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return "`" + str(getattr(value, "value", value)).replace("\n", "\\n") + "`"


def key_table(kind: type[Any], names: Iterable[str], meanings: Mapping[str, str], prefix: str) -> str:
    """Return a table of keys with defaults and meanings."""
    own = defaults(kind)
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for name in names:
        meaning = re.sub(r"(?<!\.)\.$", "", meanings[name].replace("|", "\\|"))
        lines.append(f"| `{prefix}{name}` | {spelled(own.get(name))} | {meaning[0].lower()}{meaning[1:]} |")
    return "\n".join(lines)


def data_keys() -> str:
    """The keys of `data`."""
    return key_table(DataSettings, described(DataSettings), described(DataSettings), "data.")


def adapter_keys() -> str:
    """The keys of `adapters`."""
    return key_table(LoraSettings, described(LoraSettings), described(LoraSettings), "adapters.")


def objective_keys() -> str:
    """The keys of `objective`; the preset is none of the configuration's fields."""
    meanings = described(CoSupervisionConfig)
    meanings["preset"] = "where the other keys start from: `default`, or `paper` (below)"
    table = key_table(CoSupervisionConfig, OBJECTIVE_KEYS, meanings, "objective.")
    return table.replace("| `objective.preset` | `null` |", "| `objective.preset` | `default` |")


def presets() -> str:
    """What the preset `paper` sets."""
    own = defaults(CoSupervisionConfig)
    lines = ["| key | `default` | `paper` |", "|---|---|---|"]
    rows = [f"| `{name}` | {spelled(own[name])} | {spelled(value)} |" for name, value in PRESETS["paper"].items()]
    return "\n".join([*lines, *rows])


def training_keys() -> str:
    """The keys of `training` that are cosup's own."""
    theirs = {f.name for f in dataclasses.fields(TrainingArguments)}
    own = [name for name in known_keys()["training"] if name not in theirs | COMMON.keys()]
    return key_table(CoSupervisionConfig, own, described(CoSupervisionConfig), "training.")


def common_keys() -> str:
    """The keys of `training` that are transformers' and commonly set."""
    return key_table(CoSupervisionConfig, COMMON, COMMON, "training.")


def refused_keys() -> str:
    """The keys of `training` that are refused."""
    return ", ".join(f"`{name}`" for name in UNSUPPORTED)


# -- scaling ----------------------------------------------------------------------------------------------------------

PARTS = (
    *("weights", "gradients", "optimizer", "gradient buckets", "gathered layers", "activations", "logits", "contrast"),
)
Column = tuple[str, str]  # a head, and the words after `cosup info`

COMMANDS: dict[str, tuple[Column, ...]] = {
    "small-pairs": (
        ("separate", "recipes/squad-smollm2.yaml --micro_batch_tokens 8192"),
        ("shared", "recipes/squad-shared.yaml"),
        ("LoRA on one base", "recipes/squad-lora.yaml --activation_checkpointing false"),
        ("frozen embedder", "recipes/squad-frozen.yaml"),
        ("NTP alone", "recipes/squad-ntp.yaml"),
    ),
    "one-cpu": (
        ("a batch at once", "recipes/squad-smollm2.yaml"),
        ("8,192 tokens", "recipes/squad-smollm2.yaml --micro_batch_tokens 8192"),
        ("2,048 tokens", "recipes/squad-smollm2.yaml --micro_batch_tokens 2048"),
        (
            "and checkpointing",
            "recipes/squad-smollm2.yaml --micro_batch_tokens 2048 --activation_checkpointing true",
        ),
    ),
    "one-gpu": (
        ("as it is", "recipes/llama2-7b-lora-1gpu.yaml"),
        ("2,048 tokens", "recipes/llama2-7b-lora-1gpu.yaml --micro_batch_tokens 2048"),
        ("no checkpointing", "recipes/llama2-7b-lora-1gpu.yaml --activation_checkpointing false"),
        ("all weights", "recipes/llama2-7b-paper.yaml --devices 1"),
    ),
    "eight-gpus": (
        ("8, sharded", "recipes/llama2-7b-paper.yaml --devices 8"),
        ("8, not sharded", "recipes/llama2-7b-paper.yaml --devices 8 --fsdp false"),
        ("8, LoRA", "recipes/llama2-7b-lora-1gpu.yaml --devices 8"),
    ),
    "nodes": (
        ("8", "recipes/llama2-7b-paper.yaml --devices 8"),
        ("16", "recipes/llama2-7b-paper.yaml --devices 16 --per_device_train_batch_size 4"),
        ("32", "recipes/llama2-7b-paper.yaml --devices 32 --per_device_train_batch_size 2"),
    ),
}


@functools.cache
def info(words: str) -> dict[str, str]:
    """Run `cosup info` and return the rows that it printed, by name."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = cosup(["info", *words.split()])
    if status:
        raise SystemExit(f"cosup info {words} failed")
    return dict(re.findall(r"^ +(\S.*?) {2,}(.*)$", printed.getvalue(), flags=re.MULTILINE))


def memory_table(columns: Iterable[Column]) -> str:
    """Return what `cosup info` printed of several recipes, a column each, and the commands."""
    columns = list(columns)
    found = [info(words) for _, words in columns]
    names = ["parameters", "devices", "memory a device", *PARTS, "host memory"]
    shown = [name for name in names if any(name in rows for rows in found)]
    lines = [f"| | {' | '.join(head for head, _ in columns)} |", f"|---|{'---:|' * len(columns)}"]
    for name in shown:
        cells = [
            rows.get(name, "").removesuffix(", without the driver's own").removesuffix(" at most") for rows in found
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    commands = "\n".join(f"cosup info {words}" for _, words in columns)
    return "\n".join([*lines, "", "```sh", commands, "```"])


# -- architecture -----------------------------------------------------------------------------------------------------


def rooms() -> list[tuple[str, bool]]:
    """Return the rooms of the drawing in its order, and whether each is a folder."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    drawing = text.split("```\ncosup/\n")[1].split("```")[0]
    return [(name, bool(slash)) for name, slash in re.findall(r"^  (\w+)(/?)", drawing, flags=re.MULTILINE)]


def modules() -> str:
    """A list for each room that is a folder: its modules, in the words of their docstrings."""
    parts = []
    for room in (name for name, is_folder in rooms() if is_folder):
        folder = ROOT / "cosup" / room
        files = sorted(file for file in folder.rglob("*.py") if file.stem != "__init__")
        lines = [f"- `{file.relative_to(folder).with_suffix('').as_posix()}`: {first_line(file)}" for file in files]
        parts.append("\n".join([f"**{room}/**", "", *lines]))
    return "\n\n".join(parts)


def first_line(file: Path) -> str:
    """Return the first line of a module's docstring."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    if not text:
        raise ValueError(f"{file} has no docstring")
    return text.splitlines()[0]


# -- pages ------------------------------------------------------------------------------------------------------------

TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "docs/architecture.md": {"modules": modules},
    "docs/recipes.md": {
        "data-keys": data_keys,
        "adapter-keys": adapter_keys,
        "objective-keys": objective_keys,
        "presets": presets,
        "training-keys": training_keys,
        "common-keys": common_keys,
        "refused-keys": refused_keys,
    },
    "docs/scaling.md": {name: lambda columns=columns: memory_table(columns) for name, columns in COMMANDS.items()},
}


def filled(text: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """Return a page with its tables written anew.

    Raises:
        ValueError: the page lacks the place of a table.
    """
    for name, table in tables.items():
        place = re.compile(rf"<!-- {name} -->\n.*?<!-- /{name} -->", flags=re.DOTALL)
        if not place.search(text):
            raise ValueError(f"the page has no <!-- {name} --> .. <!-- /{name} -->")
        whole = f"<!-- {name} -->\n\n{table()}\n\n<!-- /{name} -->"
        text = place.sub(lambda _, whole=whole: whole, text)
    return text


def main() -> None:
    """Write all of them."""
    for name, tables in TABLES.items():
        page = ROOT / name
        page.write_text(filled(page.read_text(encoding="utf-8"), tables), encoding="utf-8")


if __name__ == "__main__":
    main()
