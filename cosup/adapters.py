"""LoRA on a frozen base (Hu et al., 2021), through peft: adapters, the control tokens' own rows, their files.

peft's layers are put into the model in place, so that it stays the class it was. The rows of the control tokens must
be learnt though the vocabulary is frozen: they stand beside it (`ControlEmbedding`, `ControlHead`), so that neither a
copy nor a gradient of the whole matrix is made for three rows. Saved adapters are in peft's own format.

Shapes: H width, V vocabulary, K control tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import linear
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from cosup.errors import InputError, UsageError

State = dict[str, torch.Tensor]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_NAME = "default"
_PREFIX = "base_model.model."
_ROWS = "token_adapter.trainable_tokens_delta"


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters for both models.

    Attributes:
        r: rank of each update.
        alpha: the update is scaled by `alpha / r`.
        dropout: on what goes into an adapter, while training.
        target_modules: `all-linear` (all but the head), or names of layers.
    """

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"

    def __post_init__(self) -> None:
        if self.r < 1 or self.alpha < 1:
            raise UsageError(f"LoRA r is {self.r} and alpha {self.alpha}; expected whole numbers above 0")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"LoRA dropout is {self.dropout}; expected 0 <= dropout < 1")
        if not isinstance(self.target_modules, str):
            object.__setattr__(self, "target_modules", tuple(self.target_modules))


class _LearntRows(nn.Module):
    """A frozen layer with a matrix [V, H] some of whose rows are learnt."""

    base_layer: Any
    ids: torch.Tensor

    def __init__(self, base_layer: nn.Module, ids: torch.Tensor, rows: nn.Parameter) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.rows = rows
        self.register_buffer("ids", ids, persistent=False)

    @property
    def weight(self) -> torch.Tensor:
        """The effective matrix [V, H], a copy through which gradients reach the rows."""
        return _with_rows(self.base_layer.weight, self.ids, self.rows)


class ControlEmbedding(_LearntRows):
    """A frozen embedding some of whose rows are learnt.

    Args:
        base_layer: the embedding.
        ids: [K] the rows' tokens.
        rows: [K, H] their embeddings, in place of the base's.
    """

    @property
    def num_embeddings(self) -> int:
        """Rows V of the matrix."""
        return int(self.base_layer.weight.shape[0])

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Look tokens up: [..] -> [.., H]."""
        plain: torch.Tensor = self.base_layer(input_ids)
        hits = input_ids[..., None] == self.ids
        rows = self.rows.to(plain.dtype) * getattr(self.base_layer, "embed_scale", 1.0)
        return torch.where(hits.any(dim=-1, keepdim=True), hits.to(plain.dtype) @ rows, plain)


class ControlHead(_LearntRows):
    """A frozen output head some of whose rows are learnt; a tied one shares them with the embedding.

    Args:
        base_layer: the head, a linear layer.
        ids: [K] the rows' tokens.
        rows: [K, H].
    """

    @property
    def bias(self) -> torch.Tensor | None:
        """The head's bias [V], frozen."""
        bias: torch.Tensor | None = self.base_layer.bias
        return bias

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return logits [.., V]."""
        logits: torch.Tensor = self.base_layer(states)
        bias = None if self.bias is None else self.bias[self.ids]
        return logits.index_copy(-1, self.ids, linear(states, self.rows.to(states.dtype), bias).to(logits.dtype))


def _with_rows(weight: Any, ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    whole: torch.Tensor = weight.index_copy(0, ids, rows.to(weight.dtype))
    return whole


def body_on_same_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Return a second tree of the model's body whose parameters are the same objects; buffers are copied.

    Two trees rather than one that switches adapters: what activation checkpointing computes again then has the adapter
    that it had at first.
    """
    shared = {id(p): p for p in model.parameters()}
    return cast(PreTrainedModel, copy.deepcopy(model.base_model, memo=shared))


def add_lora(model: PreTrainedModel, settings: LoraSettings, control_ids: Sequence[int] = ()) -> None:
    """Freeze a model and put adapters (float32) into it, in place.

    Args:
        model: a causal language model or a body.
        settings: the adapters.
        control_ids: tokens whose rows in the embedding and the head are learnt as well.

    Raises:
        UsageError: no layer of the model is named so.
    """
    from peft import inject_adapter_in_model  # here, since nothing else needs it

    try:
        inject_adapter_in_model(_config(model, settings), model, _NAME)
    except ValueError as error:
        named = f"LoRA target_modules is {settings.target_modules!r}"
        raise UsageError(f"{named}: {type(model).__name__} has no such layer") from error
    if control_ids:
        _add_control_rows(model, list(control_ids))
    for p in model.parameters():
        if p.requires_grad:
            p.data = p.data.float()


def _config(model: PreTrainedModel, settings: LoraSettings) -> Any:
    from peft import LoraConfig

    targets = settings.target_modules
    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in model.modules()),
        task_type="CAUSAL_LM" if model.get_output_embeddings() is not None else None,
    )


@torch.no_grad()
def _add_control_rows(model: PreTrainedModel, control_ids: list[int]) -> None:
    """Take the control tokens' rows out of the frozen matrices, which have zeros there then."""
    ends: tuple[Any, Any] = model.get_input_embeddings(), model.get_output_embeddings()
    embedding, head = ends
    ids = torch.tensor(control_ids, device=embedding.weight.device)
    rows = nn.Parameter(embedding.weight[ids])
    model.set_input_embeddings(ControlEmbedding(embedding, ids, rows))
    if head is not None:
        own = rows if head.weight is embedding.weight else nn.Parameter(head.weight[ids])
        model.set_output_embeddings(ControlHead(head, ids.clone(), own))
        head.weight[ids] = 0.0
    embedding.weight[ids] = 0.0


def merged_state(model: nn.Module, state: Mapping[str, torch.Tensor]) -> State:
    """Return the state dict of the plain model that computes what the base and its adapter compute.

    Args:
        model: a model with adapters; not changed.
        state: its state dict.
    """
    merged = {k.replace(".base_layer.", "."): v for k, v in state.items() if ".lora_" not in k and ".rows" not in k}
    for name, layer in _lora_layers(model).items():
        a, b = (state[f"{name}.lora_{x}.{_NAME}.weight"].float() for x in "AB")
        update = b @ a * layer.scaling[_NAME]
        plain = merged[f"{name}.weight"]
        update = update.T if layer.fan_in_fan_out else update
        merged[f"{name}.weight"] = (plain.float() + update.to(plain.device)).to(plain.dtype)
    for name, module in _control_rows(model).items():
        plain = merged[f"{name}.weight"]
        rows = state[f"{name}.rows"].to(plain.device)
        merged[f"{name}.weight"] = _with_rows(plain, module.ids.to(plain.device), rows)
    return merged


def _lora_layers(model: nn.Module) -> dict[str, Any]:
    return {n: m for n, m in model.named_modules() if isinstance(getattr(m, "lora_A", None), nn.ModuleDict)}


def _control_rows(model: nn.Module) -> dict[str, ControlEmbedding | ControlHead]:
    return {n: m for n, m in model.named_modules() if isinstance(m, ControlEmbedding | ControlHead)}


def plain_skeleton(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model's class without weights or adapters (meta device), to save a merged state dict with."""
    with torch.device("meta"):
        plain: Any = type(model)(copy.deepcopy(model.config))
    plain.to(model.dtype)
    plain.tie_weights()
    if model.can_generate():
        plain.generation_config = model.generation_config
    return cast(PreTrainedModel, plain)


def save_adapter(
    model: PreTrainedModel, settings: LoraSettings, state: Mapping[str, torch.Tensor], folder: Path, base: str
) -> None:
    """Write a peft adapter folder, without the base.

    `peft.PeftModel.from_pretrained` puts it on the base; where it has learnt control tokens, the base's embeddings must
    first be resized to the tokenizer's length.

    Args:
        model: a model with adapters.
        settings: the adapters'.
        state: its state dict; of the base's tensors none is needed.
        folder: written to.
        base: where the base model comes from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = _config(model, settings)
    config.base_model_name_or_path = base
    config.inference_mode = True
    config.target_modules = _names_of_targets(model)
    config.trainable_token_indices = {n: m.ids.tolist() for n, m in _control_rows(model).items()} or None
    config.save_pretrained(str(folder))
    files = _file_names(model)
    save_file({theirs: state[ours].detach().cpu().contiguous() for ours, theirs in files.items()}, folder / WEIGHTS)


def _names_of_targets(model: nn.Module) -> list[str]:
    """Return what peft finds the adapted layers by: the ends of their names where no other layer ends so."""
    layers = set(_lora_layers(model))
    ends = {name.rpartition(".")[2] for name in layers}
    found = {name for name, _ in model.named_modules() if name.rpartition(".")[2] in ends}
    return sorted(ends if found == layers else layers)


def load_adapter(model: PreTrainedModel, folder: Path) -> State:
    """Read what `save_adapter` wrote, under the names of the model's state dict.

    Raises:
        InputError: the file is missing or damaged, or belongs to another model.
    """
    path = folder / WEIGHTS
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError("missing or damaged: it must hold a LoRA adapter", path) from error
    files, own = _file_names(model), model.state_dict()
    wrong = set(files.values()) ^ set(found)
    wrong |= {theirs for ours, theirs in files.items() if theirs in found and found[theirs].shape != own[ours].shape}
    if wrong:
        raise InputError(f"the adapter doesn't fit the model: see '{min(wrong)}'", path)
    return {ours: found[theirs] for ours, theirs in files.items()}


def _file_names(model: nn.Module) -> dict[str, str]:
    """Names of the learnt tensors in the state dict, and in peft's files; a tied head's rows are the embedding's."""
    names = {
        f"{name}.lora_{x}.{_NAME}.weight": f"{_PREFIX}{name}.lora_{x}.weight"
        for name in _lora_layers(model)
        for x in "AB"
    }
    first = {id(module.rows): name for name, module in reversed(_control_rows(model).items())}
    return names | {f"{name}.rows": f"{_PREFIX}{name}.{_ROWS}" for name in first.values()}
