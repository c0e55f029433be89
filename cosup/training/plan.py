"""What a recipe will need before anything is loaded: parameters, memory for each device, steps.

    plan(load_recipe("recipe.yaml"), devices=8).rows

The models are made on the meta device, which has shapes and no memory; see `memory` for how bytes are counted.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel

from cosup import adapters as lora
from cosup.adapters import LoraSettings
from cosup.checkpoints import place_of
from cosup.errors import UsageError
from cosup.losses.ntp import GPU_CHUNK
from cosup.modeling import SHARED
from cosup.training.length import Steps, steps_of
from cosup.training.memory import (
    FLOAT,
    HALF,
    PackSettings,
    contrast_bytes,
    head_bytes,
    key_of,
    largest_block,
    pack_bytes,
    state_bytes,
)
from cosup.training.optimizers import hidden_matrices
from cosup.training.shapes import Shape, read_shape

_GIB = 2**30


class PlannedRecipe(Protocol):
    """What `plan` reads of a `Recipe`."""

    @property
    def generator(self) -> str: ...  # noqa: D102
    @property
    def embedder(self) -> str: ...  # noqa: D102
    @property
    def data(self) -> Any: ...  # noqa: D102
    def config(self, **more: Any) -> Any: ...  # noqa: D102


@dataclass(frozen=True)
class Plan:
    """What a recipe will need.

    Attributes:
        devices: number of devices.
        layout: `one process`, `DDP` or `FSDP`.
        models: pairs of a model's name and its description.
        parameters: distinct parameters of the pair.
        trained: those that get gradients.
        memory: bytes on a device by part; where one is not known, None.
        host: bytes of a process's own memory while it starts, and of the first one's while it saves.
        pack_tokens: tokens of the largest pack, of the generator and of the embedder.
        steps: how long the run is.
    """

    devices: int
    layout: str
    models: tuple[tuple[str, str], ...]
    parameters: int
    trained: int
    memory: dict[str, float | None]
    host: tuple[float, float]
    pack_tokens: tuple[int, int]
    steps: Steps

    @property
    def bytes_a_device(self) -> float:
        """The most bytes that a step takes on a device, without what the device's driver keeps for itself."""
        return sum(size for size in self.memory.values() if size is not None)

    @property
    def rows(self) -> tuple[tuple[str, str], ...]:
        """Names and values, to be shown."""
        spread = f"{self.devices} x {self.layout}" if self.devices > 1 else self.layout
        share = f"{100 * self.trained / self.parameters:.2g}%" if self.trained < self.parameters else "all"
        known = all(size is not None for size in self.memory.values())
        whole = f"{'' if known else 'more than '}{_size(self.bytes_a_device)}"
        names = ("generator", "embedder")
        packs = " + ".join(f"{n:,} {name} tokens" for n, name in zip(self.pack_tokens, names, strict=True) if n)
        return (
            *self.models,
            ("parameters", f"{_count(self.parameters)}, trained {_count(self.trained)} ({share})"),
            ("devices", spread),
            ("largest pack", packs),
            ("memory a device", f"{whole} at most, without the driver's own"),
            *((f"  {name}", "not known" if size is None else _size(size)) for name, size in self.memory.items()),
            ("host memory", f"{_size(self.host[0])} a process to start, {_size(self.host[1])} in the first to save"),
            ("examples", self._examples()),
            ("steps", self._steps()),
        )

    def _examples(self) -> str:
        found = f"{self.steps.examples:,}" if self.steps.examples is not None else f"not known: {self.steps.reason}"
        return f"{found}; {self.steps.examples_a_step:,} a step"

    def _steps(self) -> str:
        steps = self.steps
        if steps.total is None:
            return "not known; give the number of examples (--examples N)"
        if steps.epochs is None:
            seen = "" if not steps.examples else f", {steps.total * steps.examples_a_step / steps.examples:.2g} epochs"
            return f"{steps.total:,} (max_steps{seen})"
        unit = "epoch" if steps.epochs == 1 else "epochs"
        return f"{steps.total:,} ({steps.epochs:g} {unit} of {steps.an_epoch:,})"


@dataclass
class _Models:
    """The pair on the meta device.

    Attributes:
        generator: with its head and the control tokens.
        embedder: a body; the generator's own where it is shared.
        projection: where the widths differ.
        idle: ids of parameters that never get a gradient though nothing freezes them.
        shapes: of generator and embedder.
    """

    generator: PreTrainedModel
    embedder: PreTrainedModel
    projection: nn.Module | None
    shapes: tuple[Shape, Shape]
    idle: set[int] = field(default_factory=set)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Give every parameter once."""
        seen: set[int] = set()
        for part in (self.generator, self.embedder, self.projection):
            for p in part.parameters() if part is not None else ():
                if id(p) not in seen:
                    seen.add(id(p))
                    yield p

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters that get gradients."""
        return [p for p in self.parameters() if p.requires_grad and id(p) not in self.idle]


def plan(recipe: PlannedRecipe, devices: int = 1, examples: int | None = None) -> Plan:
    """Say what a recipe will need, without loading weights or passages.

    Args:
        recipe: what is to be trained.
        devices: number of devices, one process each.
        examples: number of training examples; None counts them in the recipe's files.

    Raises:
        UsageError: a setting or a checkpoint cannot be used.
    """
    if devices < 1 or (examples is not None and examples < 1):
        raise UsageError(f"devices is {devices} and examples {examples}; expected at least 1")
    config = recipe.config()
    models = _models(recipe, config)
    sharded = bool(config.fsdp) and devices > 1
    layout = "FSDP" if sharded else "DDP" if devices > 1 else "one process"
    tokens = pack_tokens(recipe, config)
    memory = _memory(recipe, config, models, devices, sharded, tokens)
    host = _host(recipe, config, models, sharded)
    total = sum(p.numel() for p in models.parameters())
    trained = sum(p.numel() for p in models.trained)
    names = _described(recipe, models)
    return Plan(
        devices, layout, names, total, trained, memory, host, tokens, steps_of(recipe.data, config, devices, examples)
    )


def base_dtype(config: Any, adapters: LoraSettings | None) -> torch.dtype:
    """Return the type that checkpoints are held in: bfloat16 for a frozen base under bf16, else float32."""
    return torch.bfloat16 if adapters is not None and config.bf16 else torch.float32


# -- models ------------------------------------------------------------------------------------------------------


def _models(recipe: PlannedRecipe, config: Any) -> _Models:
    adapters: LoraSettings | None = getattr(recipe, "adapters", None)
    shared = recipe.embedder == SHARED
    first = read_shape(recipe.generator)
    second = first if shared or recipe.embedder == recipe.generator else read_shape(recipe.embedder)
    with torch.device("meta"):
        generator: Any = AutoModelForCausalLM.from_config(copy.deepcopy(first.config))
        rows = generator.get_input_embeddings().weight.shape[0] + first.fresh_rows
        if first.fresh_rows:
            generator.resize_token_embeddings(rows, mean_resizing=False)
        if shared:
            body: Any = generator.base_model
        elif adapters is not None and place_of(recipe.embedder) == place_of(recipe.generator):
            body = lora.body_on_same_weights(generator)
        else:
            body = AutoModel.from_config(copy.deepcopy(second.config))
        if adapters is not None:
            lora.add_lora(generator, adapters, range(rows - 3, rows))
            if not shared:
                lora.add_lora(body, adapters)
        wide, narrow = int(first.config.hidden_size), int(second.config.hidden_size)
        projection = None if wide == narrow else nn.Linear(narrow, wide, bias=False)
    models = _Models(generator, body, projection, (first, second))
    if config.freeze_embedder and not shared:
        body.requires_grad_(False)
    _mark_idle(models, config)
    return models


def _mark_idle(models: _Models, config: Any) -> None:
    """Note what the supervision leaves without a gradient: the embedder under NTP, an untied head under NSP."""
    used = {id(p) for p in models.generator.parameters()}
    if not config.trains_nsp:
        parts = (models.embedder, models.projection)
        models.idle |= {id(p) for part in parts if part is not None for p in part.parameters()} - used
    if not config.trains_ntp:
        models.idle |= used - {id(p) for p in models.generator.base_model.parameters()}


def _described(recipe: PlannedRecipe, models: _Models) -> tuple[tuple[str, str], ...]:
    found = [("generator model", _description(models.generator, models.shapes[0]))]
    if recipe.embedder == SHARED:
        return (*found, ("embedder model", "the generator's own body"))
    return (*found, ("embedder model", _description(models.embedder, models.shapes[1])))


def _description(model: PreTrainedModel, shape: Shape) -> str:
    config = shape.config
    size = _count(sum(p.numel() for p in model.parameters()))
    rows = _vocabulary(model)
    form = f"{config.num_hidden_layers} layers x {config.hidden_size}, vocabulary {rows}"
    return f"{config.model_type}, {size} parameters, {form} ({shape.origin})"


def _vocabulary(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])


# -- memory ------------------------------------------------------------------------------------------------------


def pack_tokens(recipe: PlannedRecipe, config: Any) -> tuple[int, int]:
    """Return the tokens of the largest pack, of the generator and of the embedder.

    The generator's are `micro_batch_tokens`, or where it is not set a whole batch of the longest sequences. The
    embedder reads passages that the generator's sequences hold as well, and its hard negatives: at most as many tokens
    again for each, and at most `micro_batch_tokens`.
    """
    whole = config.per_device_train_batch_size * recipe.data.max_length
    limit = getattr(config, "micro_batch_tokens", None)
    generator = whole if limit is None else min(whole, max(limit, recipe.data.max_length))
    if not config.trains_nsp or config.freeze_embedder:
        return generator, 0
    passages = whole * (1 + getattr(config, "hard_negatives", 0))
    return generator, passages if limit is None else min(passages, max(limit, recipe.data.max_passage_length))


def _memory(
    recipe: PlannedRecipe, config: Any, models: _Models, devices: int, sharded: bool, tokens: tuple[int, int]
) -> dict[str, float | None]:
    """Return the bytes on a device by part.

    One process holds all weights, gradients and states; under DDP each device does, and the buckets in which gradients
    travel as well; under FSDP each has its share, and gathers a layer of each model at a time (two with the next one on
    its way) besides what stands outside the layers.
    """
    half = bool(config.bf16 or config.fp16)
    adapters: LoraSettings | None = getattr(recipe, "adapters", None)
    trained, share = models.trained, devices if sharded else 1
    weights = _weights(config, adapters, models)
    gradients = sum(FLOAT * p.numel() for p in trained)
    found: dict[str, float | None] = {
        "weights": weights / share,
        "gradients": gradients / share,
        "optimizer": _states(config, models) / share,
    }
    if sharded:
        found["gathered layers"] = _gathered(models, HALF if half else FLOAT)
    elif devices > 1:
        found["gradient buckets"] = gradients
    settings, width = _pack_settings(config, adapters, half, sharded), int(models.shapes[0].config.hidden_size)
    found["activations"] = _activations(models, settings, tokens)
    if config.trains_ntp:
        chunk = getattr(config, "ntp_chunk_tokens", GPU_CHUNK)
        found["logits"] = head_bytes(_vocabulary(models.generator), width, tokens[0], chunk, settings)
    if config.trains_nsp:
        own = config.per_device_train_batch_size * config.gradient_accumulation_steps * devices
        vectors = max(own, getattr(config, "nsp_batch_size", None) or 0)
        found["contrast"] = contrast_bytes(vectors, width, devices)
    return found


def _weights(config: Any, adapters: LoraSettings | None, models: _Models) -> float:
    """Return the bytes of all weights: float32, a frozen base in the type it is held in."""
    frozen = torch.empty((), dtype=base_dtype(config, adapters)).element_size()
    return float(sum(p.numel() * (FLOAT if p.requires_grad else frozen) for p in models.parameters()))


def _states(config: Any, models: _Models) -> float:
    by_muon = {id(p) for p in hidden_matrices(models.generator).values()} if config.muon_learning_rate else set()
    return float(state_bytes(models.trained, config.optim, by_muon))


def _host(recipe: PlannedRecipe, config: Any, models: _Models, sharded: bool) -> tuple[float, float]:
    """Return what a process holds outside its device: the pair before it is moved, and a checkpoint being written.

    The optimizer's state is copied to be saved, and sharded weights are gathered, by the first process alone.
    """
    weights = _weights(config, getattr(recipe, "adapters", None), models)
    return weights, _states(config, models) + (weights if sharded else 0.0)


def _gathered(models: _Models, size: int) -> float:
    """Return the bytes of gathered weights and of gradients before they are shared out."""
    outside, layers = 0, 0
    for part in {id(m): m for m in (models.generator, models.embedder)}.values():
        layer, rest = largest_block(part)
        outside, layers = outside + rest, max(layers, layer)
    return float(size * (2 * outside + 3 * layers))


def _pack_settings(config: Any, adapters: LoraSettings | None, half: bool, sharded: bool) -> PackSettings:
    names = ("activation_checkpointing", "gradient_checkpointing")
    on = any(bool(getattr(config, name, False)) for name in names)
    kwargs = [getattr(config, f"{name}_kwargs", None) for name in names]
    every = next((int(k["every_n_layers"]) for k in kwargs if isinstance(k, dict) and "every_n_layers" in k), 1)
    return PackSettings(half, sharded, on, every, adapters)


def _activations(models: _Models, settings: PackSettings, tokens: tuple[int, int]) -> float | None:
    """Return the most bytes that a pack takes in both bodies; None where a model's code runs on data only."""
    known: dict[tuple[str, int], int] = {}
    total = 0
    for shape, count in zip(models.shapes, tokens, strict=True):
        key = (key_of(shape.config), count)
        try:
            if count and key not in known:
                known[key] = pack_bytes(shape.config, count, settings)
        except (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError):
            return None
        total += known.get(key, 0)
    return float(total)


def _count(number: float) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return f"{number:,.0f}"


def _size(number: float) -> str:
    return f"{number / _GIB:.1f} GiB" if number >= _GIB else f"{number / 2**20:.1f} MiB"
