"""Layers that do and keep less while a model is trained, under autocast to half precision.

A model trained so keeps, for each norm, its input and its normalised states in float32, and then a cast of the result
for each of the linear layers that read it. `make_lean` lets the norms give the half-precision states that those layers
cast to anyway, once, and keep the input alone; gated layers compute the activation again in the backward pass; rotary
positions come in half precision, which attention casts to anyway, without copies on the way. The forward pass gives
the same bits: a model where it does not is left as it was. `only` lets the last layer's gated part run for some tokens.

Shapes: T tokens, H width, I width of the gated layer, D width of a head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import torch
from torch import nn
from torch.nn.functional import silu
from transformers import PreTrainedModel

from cosup.trials import at_rest, trial_row

_BEFORE_LINEAR = ("input_layernorm", "post_attention_layernorm")  # in Llama's naming, which most families follow
_GATED = ("gate_proj", "up_proj", "down_proj", "act_fn")
_ROTARY = "apply_rotary_pos_emb"  # the function by which attention layers of most families turn queries and keys
_REFUSALS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError)


def make_lean(model: PreTrainedModel) -> bool:
    """Let a model's layers keep less for the backward pass, where that changes nothing else.

    Args:
        model: with its weights, whole; its modules change class (to a subclass with the same name).

    Returns:
        Whether it was done.
    """
    found = [(m, type(m), lean) for name, m in model.named_modules() if (lean := _lean_class(name, m))]
    if not found or any(p.device.type == "meta" for p in model.parameters()):
        return False
    before = _states(model)
    for module, _, lean in found:
        module.__class__ = lean
    after = _states(model)
    same = before is not None and after is not None and torch.equal(before, after)
    if not same:
        for module, original, _ in found:
            module.__class__ = original
    return same


def recomputes(model: PreTrainedModel) -> bool:
    """Whether a model computes activations again in the backward pass, by the name that transformers has for it."""
    newer = hasattr(PreTrainedModel, "is_activation_checkpointing")  # since 5.23
    return bool(getattr(model, "is_activation_checkpointing" if newer else "is_gradient_checkpointing", False))


@contextlib.contextmanager
def only(model: PreTrainedModel, rows: torch.Tensor | None) -> Iterator[None]:
    """Within the block, let the last layer of a lean model run its gated part for some tokens of a packed row alone.

    The states of other tokens are of no use then. Nothing is left out of a model that is not lean, whose layers are run
    again in the backward pass, or whose gated part drops at random: as much must be drawn whatever is read.

    Args:
        model: which.
        rows: places of the tokens in the row, each once; None for all.
    """
    if rows is None:
        yield
        return
    gates = [m for m in model.modules() if isinstance(m, _LeanGate)]
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    if len(gates) != count or recomputes(model) or _drops(gates[-1]):
        yield
        return
    gates[-1].rows = rows
    try:
        yield
    finally:
        gates[-1].rows = None


def _drops(module: nn.Module) -> bool:
    return any(isinstance(m, nn.Dropout) and m.training and m.p > 0 for m in module.modules())


def _turns(module: nn.Module) -> bool:
    """Whether a module turns queries and keys in a forward pass that can be written anew with another function."""
    own = type(module).forward
    plain = isinstance(own, FunctionType) and own.__closure__ is None
    return plain and _ROTARY in own.__code__.co_names and callable(own.__globals__.get(_ROTARY))


def _lean_class(name: str, module: nn.Module) -> type[nn.Module] | None:
    """Return the class for a norm right before linear layers, a gated or an attention layer; None for what stays."""
    own = type(module)
    if issubclass(own, _Lean):
        return None
    if name.rpartition(".")[2] in _BEFORE_LINEAR and hasattr(module, "variance_epsilon"):
        return type(own.__name__, (_LeanNorm, own), {})
    if _turns(module):
        return type(own.__name__, (_Lean, own), {"forward": _with_lean_rotary(own.forward)})
    if not all(hasattr(module, part) for part in _GATED):
        return None
    gated = isinstance(module.act_fn, nn.SiLU) or type(module.act_fn).__name__ == "SiLUActivation"
    return type(own.__name__, (_LeanGate, own), {}) if gated else None


def _with_lean_rotary(forward: Any) -> FunctionType:
    """Return the same function with another `apply_rotary_pos_emb` among its globals."""
    names = {**forward.__globals__, _ROTARY: _rotary(forward.__globals__[_ROTARY])}
    found = FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__)
    found.__kwdefaults__ = forward.__kwdefaults__
    return found


def _rotary(plain: Callable[..., Any]) -> Callable[..., Any]:
    def turned(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *more: Any, **named: Any) -> Any:
        half = _half(cos)
        if more or named or half is None or cos.requires_grad or not q.dtype == k.dtype == half:
            return plain(q, k, cos, sin, *more, **named)
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        return _Turn.apply(q, cos, sin), _Turn.apply(k, cos, sin)  # type: ignore[no-untyped-call]

    return turned


def _states(model: PreTrainedModel) -> torch.Tensor | None:
    """Return what a few tokens give under autocast with gradients on, None where the model fails.

    No graph is made and no cast of a weight is kept, so that a large model needs no more memory than a layer's.
    """
    row = trial_row(model, 12)
    trained = [p for p in model.parameters() if p.requires_grad]
    half = torch.autocast(model.device.type, torch.bfloat16, cache_enabled=False)
    try:
        for p in trained:
            p.requires_grad_(False)
        with at_rest(model), half, torch.enable_grad():
            found: torch.Tensor = model.base_model(input_ids=row, use_cache=False)[0]
    except _REFUSALS:
        return None
    finally:
        for p in trained:
            p.requires_grad_(True)
    return found.detach()


def _half(states: torch.Tensor, learning: bool = False) -> torch.dtype | None:
    """Return the type that autocast asks for where float32 states are learnt from, else None.

    `learning` is a module in training: its pass without gradients (GradCache's first) must then drop out of states of
    the same type as the second, as what is drawn depends on it.
    """
    kind = states.device.type
    wanted = torch.is_grad_enabled() or learning
    if not (wanted and states.dtype == torch.float32 and torch.is_autocast_enabled(kind)):
        return None
    return torch.get_autocast_dtype(kind)


class _Lean:
    """What has been made lean."""


class _LeanNorm(_Lean):
    weight: torch.Tensor
    variance_epsilon: float
    training: bool

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        half = _half(hidden_states, self.training)
        if half is None:
            plain: torch.Tensor = super().forward(hidden_states)  # type: ignore[misc]
            return plain
        normed: torch.Tensor = _Norm.apply(hidden_states, self.weight, self.variance_epsilon, half)  # type: ignore[no-untyped-call]
        return normed


class _LeanGate(_Lean):
    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module
    rows: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.rows if x.dim() == 3 else None  # [1, T, H]
        read = x if rows is None else x[:, rows]
        mixed: torch.Tensor = _Gate.apply(self.gate_proj(read), self.up_proj(read))  # type: ignore[no-untyped-call]
        down: torch.Tensor = self.down_proj(mixed)
        return down if rows is None else down.new_zeros(x.shape).index_copy(1, rows, down)


class _Norm(torch.autograd.Function):
    """Root-mean-square norm (Zhang and Sennrich, 2019) in float32, given in half precision."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float, half: torch.dtype) -> torch.Tensor:
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon)
        ctx.save_for_backward(x, scale, weight)
        return (x * scale).mul_(weight).to(half)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        x, scale, weight = ctx.saved_tensors
        given = gradients[0].float()
        normed = x * scale
        of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = (given * normed).flatten(0, -2).sum(dim=0).to(weight.dtype)
        if not ctx.needs_input_grad[0]:
            return None, of_weight, None, None
        given = given * weight
        along = torch.linalg.vecdot(given, normed).div_(x.shape[-1]).unsqueeze(-1)
        return given.addcmul_(normed, along, value=-1).mul_(scale), of_weight, None, None


class _Gate(torch.autograd.Function):
    """`silu(gate) * up` (Shazeer, 2020), of which the two inputs are kept."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return silu(gate) * up

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = ctx.saved_tensors
        given = gradients[0]
        of_up = silu(gate).mul_(given)
        of_gate: torch.Tensor = torch.ops.aten.silu_backward(given * up, gate)
        return of_gate, of_up


class _Turn(torch.autograd.Function):
    """Rotary positions (Su et al., 2021) of half-precision states [B, heads, T, D], with float32 products."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        first, second = sin.chunk(2, dim=-1)
        return _turned(x, cos, -first, second)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        first, second = sin.chunk(2, dim=-1)
        return _turned(gradients[0], cos, second, -first), None, None


def _turned(x: torch.Tensor, cos: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return `x * cos`, with each half [B, heads, T, D / 2] of `x` times a factor added to the other half's place."""
    (a, b), (cos_a, cos_b) = (part.float().chunk(2, dim=-1) for part in (x, cos))
    found = torch.empty_like(x)
    into_a, into_b = found.chunk(2, dim=-1)
    into_a.copy_((a * cos_a).add_(b * first))
    into_b.copy_((b * cos_b).add_(a * second))
    return found
