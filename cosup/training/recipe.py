"""Recipes: one YAML file that says everything about a training run.

Top-level keys: `generator`, `embedder`, `adapters`, `supervision`, `data`, `objective`, `training`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from cosup.adapters import LoraSettings
from cosup.data.encoding import PROMPT
from cosup.data.templates import TEMPLATES
from cosup.data.yaml_files import parse_value, read_yaml
from cosup.errors import InputError, UsageError, did_you_mean

TOP_KEYS = ("generator", "embedder", "adapters", "supervision", "data", "objective", "training")
OBJECTIVE_KEYS = (
    "preset",
    "similarity",
    "temperature",
    "learn_temperature",
    "nsp_weight",
    "nsp_weight_end",
    "nsp_warmup_steps",
    "pooling",
    "symmetric_nsp",
    "supervise_passages",
    "passage_dropout",
    "mask_same_passage",
    "mask_same_answer",
    "gather",
    "nsp_batch_size",
    "hard_negatives",
    "hard_negatives_depth",
    "hard_negatives_every",
)
SECRETS = {"hub_token": "HF_TOKEN"}  # what a recipe would keep and show: the variable where it belongs
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


@dataclass(frozen=True)
class DataSettings:
    """The `data` part of a recipe.

    Attributes:
        passages: file, folder or hub id of the passages; or a list of them.
        questions: questions to turn into examples; or a list.
        examples: examples as they are; or a list. One of `questions` and `examples` is needed.
        eval_questions: held-out questions; or a list.
        eval_examples: held-out examples; or a list.
        max_eval_examples: how many held-out examples are used (the first ones); None uses all.
        template: how questions become examples.
        prompt: prompt format, or its name: paper, cosup.
        max_length: tokens of a sequence.
        max_passage_length: tokens of a passage.
        streaming: whether examples are read while training goes on, in place of being held in memory, and passages
            looked up on disk.
        shuffle_buffer: records that are shuffled together where examples are streamed.
    """

    passages: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    eval_questions: tuple[str, ...] = ()
    eval_examples: tuple[str, ...] = ()
    max_eval_examples: int | None = None
    template: str = "claims"
    prompt: str = PROMPT
    max_length: int = 1024
    max_passage_length: int = 256
    streaming: bool = False
    shuffle_buffer: int = 10_000


@dataclass(frozen=True)
class Recipe:
    """A parsed recipe; `config()` gives the trainer's settings."""

    generator: str
    embedder: str
    supervision: str = "ntp+nsp"
    data: DataSettings = field(default_factory=DataSettings)
    objective: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)
    adapters: LoraSettings | None = None

    def config(self, **more: Any) -> Any:
        """Return the run's `CoSupervisionConfig`: the preset, then the objective's own keys, then `training`.

        Raises:
            UsageError: a value cannot be used; the message names the setting.
        """
        from transformers import IntervalStrategy

        from cosup.training.config import PRESETS, CoSupervisionConfig, check_pairing

        objective = dict(self.objective)
        preset = objective.pop("preset", "default")
        if not isinstance(preset, str) or preset not in PRESETS:
            raise UsageError(
                f"preset is '{preset}'{did_you_mean(str(preset), PRESETS)}; there are {', '.join(PRESETS)}"
            )
        settings = {**PRESETS[preset], **objective, **self.training, **more}
        try:
            config = CoSupervisionConfig(supervision=self.supervision, **settings)
        except (ValueError, TypeError, ImportError) as error:
            raise UsageError(f"training settings: {_choice_told(str(error).strip().splitlines()[0])}") from error
        check_pairing(config, self.adapters is not None, self.embedder == "shared")
        if config.eval_strategy != "no" and not (self.data.eval_questions or self.data.eval_examples):
            chosen = IntervalStrategy(config.eval_strategy).value
            raise UsageError(f"eval_strategy is '{chosen}', but data has neither eval_questions nor eval_examples")
        return config


def load_recipe(path: str | Path, overrides: Sequence[tuple[str, str]] = ()) -> Recipe:
    """Read a recipe and apply overrides.

    Args:
        path: YAML file.
        overrides: `(key, value)` pairs from a command line; a key is dotted (`data.passages`) or the bare name of a
            key of any part (`learning_rate`); a value is read as YAML.

    Raises:
        InputError: the file is missing or not a YAML mapping, or a key comes twice.
        UsageError: an unknown key or an unusable value; the message has the nearest known name.
    """
    path = Path(path)
    record = read_yaml(path, "recipe")
    if not isinstance(record, dict):
        raise InputError(f"expected a mapping with the keys {', '.join(TOP_KEYS)}", path)
    for key, value in overrides:
        _override(record, key, value)
    return parse_recipe(record, str(path))


def parse_recipe(record: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Check a recipe that is already a mapping; see `load_recipe`."""
    record = _numbers(record)
    _check_keys(record, TOP_KEYS, where, "")
    for name in ("generator", "embedder", "data"):
        if name not in record:
            raise UsageError(f"{where}: no key '{name}'; a recipe needs generator, embedder and data")
    parts = {name: record.get(name) or {} for name in ("data", "objective", "training")}
    for name, known in known_keys().items():
        if not isinstance(parts[name], Mapping):
            raise UsageError(f"{where}: '{name}' is {parts[name]!r}; expected a mapping")
        _check_keys(parts[name], known, where, f"{name}.")
    parts["training"] = {name: _strategy(name, value) for name, value in parts["training"].items()}
    for name in ("objective", "training"):
        _check_types(parts[name], where, f"{name}.")
    for name in ("generator", "embedder"):
        if not isinstance(record[name], str):
            raise UsageError(f"{where}: '{name}' is {record[name]!r}; expected a hub id, a folder or a .gguf file")
    if record["generator"] == "shared":
        raise UsageError(f"{where}: generator is 'shared'; only the embedder can share the other's weights")
    return Recipe(
        record["generator"],
        record["embedder"],
        str(record.get("supervision", "ntp+nsp")),
        _data(parts["data"], where),
        parts["objective"],
        parts["training"],
        record,
        _adapters(record.get("adapters"), where),
    )


def _adapters(value: Any, where: str) -> LoraSettings | None:
    """Read `adapters: lora`, or a mapping of LoRA's settings."""
    if value is None or value == "lora":
        return None if value is None else LoraSettings()
    if not isinstance(value, Mapping):
        hint = did_you_mean(str(value), ["lora"])
        raise UsageError(f"{where}: adapters is {value!r}{hint}; expected 'lora' or a mapping of r, alpha, dropout, ..")
    _check_keys(value, _adapter_keys(), where, "adapters.")
    try:
        return LoraSettings(**value)
    except (UsageError, TypeError) as error:
        raise UsageError(f"{where}: adapters: {error}") from error


def _adapter_keys() -> tuple[str, ...]:
    return tuple(f.name for f in fields(LoraSettings))


def known_keys() -> dict[str, tuple[str, ...]]:
    """Return the keys that each part of a recipe may have."""
    from cosup.training.config import CoSupervisionConfig

    taken = {"supervision", *OBJECTIVE_KEYS}
    return {
        "data": tuple(f.name for f in fields(DataSettings)),
        "objective": OBJECTIVE_KEYS,
        "training": tuple(f.name for f in fields(CoSupervisionConfig) if f.init and f.name not in {*taken, *SECRETS}),
    }


def _data(record: Mapping[str, Any], where: str) -> DataSettings:
    values = dict(record)
    for name in ("passages", "questions", "examples", "eval_questions", "eval_examples"):
        value = values.get(name)
        items = [] if value is None else value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(item, str) for item in items):
            raise UsageError(f"{where}: data.{name} is {value!r}; expected a path or a list of paths")
        values[name] = tuple(items)
    settings = DataSettings(**values)
    _check_data(settings, values, where)
    if not settings.passages:
        raise UsageError(f"{where}: data.passages is missing; name the file or folder of the passages")
    if bool(settings.questions) == bool(settings.examples):
        raise UsageError(f"{where}: data needs either 'questions' or 'examples'")
    return settings


def _check_data(settings: DataSettings, values: Mapping[str, Any], where: str) -> None:
    for name in ("template", "prompt"):
        if not isinstance(getattr(settings, name), str):
            raise UsageError(f"{where}: data.{name} is {values[name]!r}; expected text")
    if settings.template not in TEMPLATES:
        hint = did_you_mean(settings.template, TEMPLATES)
        raise UsageError(f"{where}: data.template is '{settings.template}'{hint}; there are {', '.join(TEMPLATES)}")
    if not isinstance(settings.streaming, bool):
        raise UsageError(f"{where}: data.streaming is {settings.streaming!r}; expected true or false")
    for name in ("max_eval_examples", "max_length", "max_passage_length", "shuffle_buffer"):
        value = getattr(settings, name)
        if (type(value) is not int or value < 1) and not (value is None and name == "max_eval_examples"):
            raise UsageError(f"{where}: data.{name} is {value!r}; expected a whole number of at least 1")


def _override(record: dict[str, Any], key: str, value: str) -> None:
    part, name = place_of_key(key)
    parsed = parse_value(key, value)
    if part is None:
        record[name] = parsed
        return
    plain = record.get(part) is None or (part == "adapters" and record[part] == "lora")
    inner = record[part] = {} if plain else record[part]
    if not isinstance(inner, dict):
        raise UsageError(f"--{key}: '{part}' in the recipe is {inner!r}; expected a mapping")
    inner[name] = parsed


def place_of_key(key: str) -> tuple[str | None, str]:
    """Find which part of a recipe a key belongs to: `learning_rate` is in `training`, `generator` in none.

    Raises:
        UsageError: there is no such key; the message has the nearest one.
    """
    key = key.replace("-", "_")
    _refuse_secret(key.rpartition(".")[2], f"--{key}")
    known = known_keys()
    if key in TOP_KEYS and key not in known:
        return None, key
    part, dot, name = key.partition(".")
    if dot:
        known["adapters"] = _adapter_keys()
        if name not in known.get(part, ()):
            everything = [f"{p}.{n}" for p, names in known.items() for n in names]
            raise UsageError(f"unknown setting '--{key}'{did_you_mean(key, everything)}")
        return part, name
    for part, names in known.items():
        if key in names:
            return part, key
    everything = [*TOP_KEYS, *(n for names in known.values() for n in names)]
    raise UsageError(f"unknown setting '--{key}'{did_you_mean(key, everything)}")


def _check_keys(record: Mapping[str, Any], known: Sequence[str], where: str, prefix: str) -> None:
    for key in record:
        _refuse_secret(str(key), f"{where}: {prefix}{key}")
        if key not in known:
            raise UsageError(f"{where}: unknown key '{prefix}{key}'{did_you_mean(str(key), known)}")


def _refuse_secret(name: str, shown: str) -> None:
    """Refuse a setting whose value nobody should read; it is not shown."""
    if name in SECRETS:
        raise UsageError(f"{shown} is a secret, which a recipe would keep and show; set the variable {SECRETS[name]}")


def _check_types(values: Mapping[str, Any], where: str, prefix: str) -> None:
    """Check the numbers and switches among a run's settings, which `TrainingArguments` takes as they come."""
    from cosup.training.config import CoSupervisionConfig

    hints = get_type_hints(CoSupervisionConfig)
    words = {bool: "true or false", int: "a whole number", float: "a number", type(None): "null"}
    for name, value in values.items():
        kinds = set(get_args(hints.get(name)) or (hints.get(name),))
        taken = kinds | {int} if float in kinds else kinds
        if kinds <= words.keys() and type(value) not in taken:
            expected = " or ".join(word for kind, word in words.items() if kind in kinds)
            raise UsageError(f"{where}: {prefix}{name} is {value!r}; expected {expected}")


def _choice_told(reason: str) -> str:
    """Say of a choice that is none of transformers' which was meant; other reasons stay."""
    found = re.fullmatch(r"(.*) is not a valid (\w+), please select one of \[(.*)\]", reason)
    if found is None:
        return reason
    given, kind, rest = found.groups()
    choices = re.findall("'([^']*)'", rest)
    return f"'{given}' is none of {kind}{did_you_mean(given, choices)}; there are {', '.join(choices)}"


def _strategy(name: str, value: Any) -> Any:
    """Read `save_strategy: no` as it is meant: YAML 1.1 takes a bare `no` for false."""
    return "no" if value is False and name.endswith("_strategy") else value


def _numbers(value: Any) -> Any:
    """Turn texts such as `2e-5`, which YAML 1.1 leaves as text, into numbers."""
    if isinstance(value, Mapping):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()) and "e" in value.lower():
        return float(value)
    return value
