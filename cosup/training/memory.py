"""Memory of a training step, without weights: parameters on the meta device, a pack run on fake tensors.

What is exact: weights (4 bytes a parameter; 2 where a frozen base is kept in bfloat16), gradients (4 bytes a trained
parameter) and optimizer state (`STATE_BYTES` a trained parameter). What a pack takes on top of them is not put into a
formula but run: forwards and backwards over the model's own code with tensors that have a shape and no memory
(`FakeTensorMode`), while every storage that comes and goes is counted. So it holds for any architecture, and has the
activations, what autocast copies, what checkpointing keeps and computes again, and the gradients on their way.

Attention counts as a fused kernel's: no mask and no matrix of scores is kept.
"""

from __future__ import annotations

import copy
import json
import weakref
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface, AutoModel, PreTrainedConfig, PreTrainedModel

from cosup.adapters import LoraSettings, add_lora
from cosup.losses.ntp import LearntRows, linear_ntp_loss_sum

FLOAT = 4
HALF = 2
_ATTENTION = "cosup_counted"

# Bytes of optimizer state for each trained parameter, by the names of `TrainingArguments.optim`. Two states of 8 bits
# have a scale for each 256 values on top, which is left out; Adafactor keeps rows and columns, next to nothing.
STATE_BYTES: dict[str, float] = {
    "adamw_torch": 8,
    "adamw_torch_fused": 8,
    "adamw_torch_4bit": 1,
    "adamw_torch_8bit": 2,
    "adamw_bnb_8bit": 2,
    "adamw_8bit": 2,
    "paged_adamw_32bit": 8,
    "paged_adamw_8bit": 2,
    "ademamix": 12,
    "ademamix_8bit": 3,
    "paged_ademamix_32bit": 12,
    "paged_ademamix_8bit": 3,
    "lion_32bit": 4,
    "lion_8bit": 1,
    "paged_lion_32bit": 4,
    "paged_lion_8bit": 1,
    "adafactor": 0,
    "sgd": 0,
    "adagrad": 4,
    "rmsprop": 4,
    "rmsprop_bnb": 4,
    "rmsprop_bnb_32bit": 4,
    "rmsprop_bnb_8bit": 1,
}
ADAMW_BYTES = 8.0
MUON_BYTES = 4.0


@dataclass(frozen=True)
class PackSettings:
    """How a pack is run.

    Attributes:
        half: whether mixed precision is on (bfloat16 or float16).
        sharded: whether the weights come from FSDP in half precision, rather than as autocast's copies of all of them.
        checkpointing: whether layers keep their input alone and are run again in the backward pass.
        every_n_layers: of which every n-th is checkpointed.
        adapters: LoRA on a frozen base; None trains all weights.
    """

    half: bool = False
    sharded: bool = False
    checkpointing: bool = False
    every_n_layers: int = 1
    adapters: LoraSettings | None = None

    @property
    def light(self) -> bool:
        """Whether the weights themselves are in half precision when they are used."""
        return self.half and (self.sharded or self.adapters is not None)


def pack_bytes(config: PreTrainedConfig, tokens: int, settings: PackSettings) -> int:
    """Return the most bytes that one model's body takes for one pack, weights and gradients aside.

    That is the peak over the forward and the backward pass of a pack after the step's first (the gradients are there
    already and are added to). The output head is not part of it; see `head_bytes`. Where all layers are alike, two and
    three of them are run: each further one adds what the third has added.

    Args:
        config: the model's shape.
        tokens: T, tokens of the pack.
        settings: how it is run.

    Raises:
        RuntimeError: the model's code cannot be run without data; and whatever else that code raises then.
    """
    with torch.device("meta"):
        blocks = layers_of(AutoModel.from_config(copy.deepcopy(config)))
    alike = len({tuple(p.shape for p in block.parameters()) for block in blocks}) == 1
    if not alike or len(blocks) <= 4 or settings.every_n_layers > 1:
        return run_on_fakes(config, tokens, settings)
    small = copy.deepcopy(config)
    small.vocab_size, small.pad_token_id = 8, None
    two, three = (run_on_fakes(small, tokens, settings, layers) for layers in (2, 3))
    on_the_way = 0
    if settings.adapters is None:  # the gradient of the embedding, before it is added to the step's
        on_the_way = (config.vocab_size + 2 * tokens) * config.hidden_size * (HALF if settings.light else FLOAT)
    return max(three + (len(blocks) - 3) * (three - two), on_the_way)


def run_on_fakes(config: PreTrainedConfig, tokens: int, settings: PackSettings, layers: int | None = None) -> int:
    """Run a pack on tensors without memory and return its peak; `layers` takes that many of the model's layers."""
    with torch.device("meta"):
        model = _body(config, settings, layers)
    with FakeTensorMode():
        _leave_meta(model)
        ids_1T = torch.zeros(1, tokens, dtype=torch.long)
        return run_counted(model, ids_1T, settings.half and not settings.sharded)


def _body(config: PreTrainedConfig, settings: PackSettings, layers: int | None) -> PreTrainedModel:
    dtype = torch.bfloat16 if settings.light else torch.float32
    model: Any = AutoModel.from_config(copy.deepcopy(config), attn_implementation=_ATTENTION, dtype=dtype)
    if layers is not None:
        del layers_of(model)[layers:]
        model.config.num_hidden_layers = layers
    if settings.adapters is not None:
        add_lora(model, settings.adapters)
    if settings.checkpointing:
        kwargs = {"use_reentrant": False}
        if hasattr(model, "activation_checkpointing_enable"):
            model.activation_checkpointing_enable(kwargs, every_n_layers=settings.every_n_layers)
        else:
            model.gradient_checkpointing_enable(kwargs)
    trained: PreTrainedModel = model.train()
    return trained


def layers_of(model: nn.Module) -> nn.ModuleList:
    """Return a model's layers: the list of modules that has most of its parameters."""
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    return max(lists, key=lambda found: sum(p.numel() for p in found.parameters()), default=nn.ModuleList())


def _leave_meta(model: nn.Module) -> None:
    """Put fresh tensors of the same shapes and types in place of a model's own, in place."""
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            fresh = nn.Parameter(torch.empty(p.shape, dtype=p.dtype), requires_grad=p.requires_grad)
            module.register_parameter(name, fresh)
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))


def run_counted(model: PreTrainedModel, ids_1T: torch.Tensor, autocast: bool) -> int:
    """Run a body forwards and backwards and return the most bytes that were alive, its own and its gradients aside.

    Args:
        model: the body, on the CPU or of fake tensors.
        ids_1T: [1, T] tokens; sequences restart nowhere.
        autocast: whether to run in bfloat16 by autocast.
    """
    positions = torch.zeros_like(ids_1T)
    for p in model.parameters():
        p.grad = torch.zeros_like(p) if p.requires_grad else None
    own = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters() if p.grad is not None)]
    with LiveBytes([*own, ids_1T, positions]) as live:
        with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
            states = model(input_ids=ids_1T, position_ids=positions, use_cache=False).last_hidden_state
        states.float().sum().backward()
        peak: int = live.peak
    return peak


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages that are alive among those that operations make.

    Args:
        known: tensors that do not count.

    Attributes:
        now: bytes alive.
        peak: the most that were.
    """

    def __init__(self, known: Iterable[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet(t.untyped_storage() for t in known)
        self._known = list(known)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and look at what it gives."""
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor):
                self._watch(tensor.untyped_storage())
        return found

    def _watch(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._seen:
            self._seen.add(storage)
            size = storage.nbytes()
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, size).atexit = False

    def _forget(self, size: int) -> None:
        self.now -= size


def _fused_attention(
    _module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _mask: torch.Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as a fused kernel does: [B, heads, T, width] in, [B, T, heads, width] out, no mask."""
    grouped = key.shape[1] != query.shape[1]
    states = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=grouped)
    return states.transpose(1, 2).contiguous(), None


AttentionInterface.register(_ATTENTION, _fused_attention)


@cache
def head_bytes(vocabulary: int, width: int, tokens: int, chunk: int, settings: PackSettings) -> int:
    """Return the most bytes that the NTP loss takes for one pack: chunks of logits, and the head's gradient.

    Every token of the pack counts as supervised.

    Args:
        vocabulary: V.
        width: H of the states.
        tokens: T, tokens of the pack.
        chunk: positions whose logits are alive at a time.
        settings: how the pack is run.
    """
    light = settings.light
    with FakeTensorMode():
        states_TH = torch.zeros(tokens, width, dtype=torch.bfloat16 if light else torch.float32, requires_grad=True)
        weight_VH = torch.zeros(vocabulary, width, dtype=states_TH.dtype, requires_grad=settings.adapters is None)
        targets_T = torch.zeros(tokens, dtype=torch.long)
        for tensor in (states_TH, weight_VH):
            tensor.grad = torch.zeros_like(tensor)
        known = [states_TH, weight_VH, targets_T, states_TH.grad, weight_VH.grad]
        with LiveBytes([t for t in known if t is not None]) as live:
            learnt = None if settings.adapters is None else _learnt_rows(width)
            with torch.autocast("cpu", torch.bfloat16) if settings.half and not light else nullcontext():
                loss = linear_ntp_loss_sum(states_TH, weight_VH, None, targets_T, chunk, learnt)
            loss.backward()
            peak: int = live.peak
    return peak


def _learnt_rows(width: int) -> LearntRows:
    """Return what LoRA learns of a head: the rows of the control tokens."""
    return LearntRows(torch.arange(3), torch.zeros(3, width, requires_grad=True))


def contrast_bytes(vectors: int, width: int, devices: int) -> int:
    """Return the bytes that the NSP loss of a step takes on a device: `4 (4 N D + 3 N N / devices)`.

    Queries and candidates in float32 with their gradients, and the scores of a device's own queries, their softmax and
    their gradient; one retrieval an example.

    Args:
        vectors: N, examples contrasted in a step over all devices.
        width: D of the sequence space.
        devices: number of devices.
    """
    return FLOAT * (4 * vectors * width + 3 * vectors * vectors // devices)


def state_bytes(parameters: Iterable[nn.Parameter], optim: str, by_muon: set[int]) -> float:
    """Return the bytes of the optimizer's state.

    Args:
        parameters: the trained ones, each once.
        optim: name of the optimizer, as `TrainingArguments.optim` has it; an unknown one counts as AdamW.
        by_muon: ids of those that Muon trains, with one buffer each.
    """
    each = STATE_BYTES.get(optim, ADAMW_BYTES)
    return sum(p.numel() * (MUON_BYTES if id(p) in by_muon else each) for p in parameters)


def largest_block(model: nn.Module) -> tuple[int, int]:
    """Return the parameters of a body's largest layer, and of all that stands outside its layers.

    FSDP gathers a layer at a time; what is outside stays gathered.
    """
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in layers_of(model)]
    whole = sum(p.numel() for p in model.parameters())
    return max(sizes, default=0), whole - sum(sizes)


def key_of(config: PreTrainedConfig) -> str:
    """Return what two configurations of the same shape have in common."""
    record = {k: v for k, v in config.to_dict().items() if not k.startswith("_") and k != "architectures"}
    return json.dumps(record, sort_keys=True, default=str)
