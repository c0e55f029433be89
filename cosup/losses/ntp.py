"""Next-token prediction: cross-entropy over the vocabulary, at the supervised positions alone.

Logits are by far the largest tensor of training: [N, V]. `linear_ntp_loss_sum` takes the states and the head instead,
and never holds more than `chunk` rows of logits: each chunk's gradient is worked out in the forward pass, while its
logits are there (the idea of Liger-Kernel's fused linear cross-entropy, Hsu et al., 2024), and the backward pass only
scales it.

Shapes: N supervised positions, H width of a state, V vocabulary, K rows of the head that are learnt by themselves.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any

import torch
from torch.nn.functional import cross_entropy

Gradients = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]

CPU_CHUNK, GPU_CHUNK = 256, 2048  # rows of logits at a time: what was fastest on a CPU; enough to fill a GPU
CPU_ROWS, CPU_BLOCK = 16, 4096  # rows of logits, and rows of the head's gradient, that a CPU works on at a time


@dataclass(frozen=True)
class LearntRows:
    """Rows that stand in place of a frozen head's, and get the gradient.

    Attributes:
        ids: [K] which.
        rows: [K, H].
    """

    ids: torch.Tensor
    rows: torch.Tensor


def ntp_loss_sum(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the summed negative log-likelihood `-sum_i log P(t_i | t_<i)` (paper, section 3.1).

    The sum, not the mean: the trainer divides by the supervised tokens of the global batch.

    Args:
        logits: [N, V] at the positions before the targets, any float type.
        targets: [N] token ids.

    Returns:
        A float32 scalar; 0 for N = 0.
    """
    return cross_entropy(logits.float(), targets, reduction="sum")


def linear_ntp_loss_sum(
    states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    chunk: int | None = None,
    learnt: LearntRows | None = None,
) -> torch.Tensor:
    """Return `ntp_loss_sum(states @ weight.T + bias, targets)` without ever holding those logits whole.

    Products run in the type that autocast asks for (the weight is cast once), else in the weight's; log-sum-exp and
    the sum over chunks are float32. Only gradients that are wanted are computed: a frozen head costs none. The result
    can be backpropagated once. On CUDA, Liger-Kernel does the work where it is installed, but for learnt rows.

    Args:
        states: [N, H] last hidden states at the positions before the targets.
        weight: [V, H] of the output head.
        bias: [V], or None.
        targets: [N] token ids.
        chunk: positions whose logits are alive at a time; None chooses by the device.
        learnt: rows in place of the weight's own; neither a copy nor a gradient of the weight is made for them.

    Returns:
        A float32 scalar; 0 for N = 0, with gradients of zero.

    Raises:
        ValueError: `chunk` is below 1.
    """
    kind = states.device.type
    if chunk is None:
        chunk = CPU_CHUNK if kind == "cpu" else GPU_CHUNK
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; expected at least 1")
    product_type = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    fused = _liger() if kind == "cuda" and len(targets) and learnt is None else None
    if fused is not None:
        return _liger_loss_sum(fused, states, weight, bias, targets, product_type)
    rows, ids = (None, None) if learnt is None else (learnt.rows, learnt.ids)
    wanted = [x for x in (states, weight, bias, rows) if x is not None and x.requires_grad]
    if not (wanted and torch.is_grad_enabled()):
        return _run_chunks((states, weight, bias, rows), ids, targets, chunk, product_type, (False,) * 4)[0]
    loss: torch.Tensor = _LinearNTP.apply(states, weight, bias, rows, ids, targets, (chunk, product_type))  # type: ignore[no-untyped-call]
    return loss


class _LinearNTP(torch.autograd.Function):
    """The loss with its gradients worked out beforehand."""

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        rows: torch.Tensor | None,
        ids: torch.Tensor | None,
        targets: torch.Tensor,
        how: tuple[int, torch.dtype],
    ) -> torch.Tensor:
        needs = ctx.needs_input_grad[:4]
        loss, ctx.gradients = _run_chunks((states, weight, bias, rows), ids, targets, *how, needs)
        return loss

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("this loss has been backpropagated already, which has used up its gradients")
        gradients, ctx.gradients = ctx.gradients, None  # scaled in place: the head's may be as large as the head
        own = (None if g is None else _scaled(g, upstream[0].float()) for g in gradients)
        return (*own, None, None, None)


def _scaled(gradient: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Scale a gradient by a float32 number, which in half precision would be rounded, or too large."""
    if gradient.dtype == scale.dtype:
        return gradient.mul_(scale)
    return gradient.to(torch.promote_types(gradient.dtype, scale.dtype)).mul_(scale).to(gradient.dtype)


def _run_chunks(
    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None],
    ids: torch.Tensor | None,
    targets: torch.Tensor,
    chunk: int,
    product_type: torch.dtype,
    needs: tuple[bool, ...],
) -> tuple[torch.Tensor, Gradients]:
    """Return the summed loss, and its gradients (those that `needs` asks for) in the inputs' types.

    Args:
        inputs: states [N, H], weight [V, H], bias [V], learnt rows [K, H].
        ids: [K] of the rows.
        targets: [N].
        chunk: positions at a time.
        product_type: of the products.
        needs: which of the inputs get a gradient.
    """
    states, weight, bias, rows = inputs
    sums = [
        torch.zeros_like(x, dtype=torch.float32) if x is not None and need else None
        for x, need in zip(inputs[1:], needs[1:], strict=True)
    ]
    states_grad = torch.empty_like(states) if needs[0] else None
    loss = torch.zeros((), dtype=torch.float32, device=states.device)
    with torch.no_grad(), torch.autocast(states.device.type, enabled=False):
        head = weight.to(product_type)
        learnt = None if rows is None or ids is None else LearntRows(ids, rows.to(product_type))
        for start in range(0, len(targets), chunk):
            part = slice(start, start + chunk)
            shown, wanted = states[part].to(product_type), targets[part, None]
            logits = _logits(shown, head, learnt)
            loss += _to_gradient(logits, bias, wanted, sums[1], any(needs))
            if any(needs):
                of_states = None if states_grad is None else states_grad[part]
                _add_gradients(logits, shown, head, learnt, (of_states, sums[0], sums[2]))
    own = [None if g is None or x is None else g.to(x.dtype) for g, x in zip(sums, inputs[1:], strict=True)]
    return loss, (states_grad, own[0], own[1], own[2])


def _logits(states: torch.Tensor, head: torch.Tensor, learnt: LearntRows | None) -> torch.Tensor:
    """Return a chunk's logits [n, V] before the bias, in the states' type."""
    logits = states @ head.T
    if learnt is not None:
        logits[:, learnt.ids] = states @ learnt.rows.T
    return logits


def _to_gradient(
    logits: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor, of_bias: torch.Tensor | None, wanted: bool
) -> torch.Tensor:
    """Return the summed loss of the targets [n, 1]; turn logits [n, V] into their gradient where that is wanted.

    In float32, a few rows at a time on a CPU: they then stay in its cache through all passes over them.
    """
    loss = torch.zeros((), dtype=torch.float32, device=logits.device)
    size = CPU_ROWS if logits.device.type == "cpu" else len(logits)
    for start in range(0, len(logits), size):
        part = logits[start : start + size]
        rows, chosen = part.float(), targets[start : start + size]
        if bias is not None:
            rows += bias
        rows -= rows.amax(dim=1, keepdim=True)
        picked = rows.gather(1, chosen)
        total = rows.exp_().sum(dim=1, keepdim=True)
        loss += (total.log() - picked).sum()
        if not wanted:
            continue
        rows /= total
        rows.scatter_add_(1, chosen, torch.full_like(picked, -1.0))
        if of_bias is not None:
            of_bias += rows.sum(dim=0)
        if rows.dtype != part.dtype:
            part.copy_(rows)
    return loss


def _add_gradients(
    logits: torch.Tensor,
    states: torch.Tensor,
    head: torch.Tensor,
    learnt: LearntRows | None,
    gradients: tuple[torch.Tensor | None, ...],
) -> None:
    """Put the gradient of the logits [n, V] through the head: write that of the states, add those of the head."""
    of_states, of_weight, of_rows = gradients
    through_rows: torch.Tensor | None = None
    if learnt is not None:
        own = logits[:, learnt.ids]
        logits[:, learnt.ids] = 0  # the head's own rows took no part
        through_rows = own @ learnt.rows
        if of_rows is not None:
            of_rows += own.T @ states
    if of_states is not None:
        of_states.copy_(logits @ head)
        if through_rows is not None:
            of_states += through_rows
    if of_weight is None:
        return
    if states.dtype == torch.float32:
        of_weight.addmm_(logits.T, states)
        return
    size = CPU_BLOCK if states.device.type == "cpu" else len(of_weight)
    for start in range(0, len(of_weight), size):  # a sum over all of the head's rows at once would leave the cache
        part = slice(start, start + size)
        of_weight[part] += (logits[:, part].T @ states).float()


@lru_cache(maxsize=1)
def _liger() -> Callable[..., Any] | None:
    """Return Liger-Kernel's loss module, None where there is none or an old one."""
    try:
        loss: Callable[..., Any] = import_module("liger_kernel.transformers").LigerFusedLinearCrossEntropyLoss
    except (ImportError, AttributeError):
        return None
    return loss if "accum_dtype" in inspect.signature(loss).parameters else None


def _liger_loss_sum(
    fused: Callable[..., Any],
    states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    product_type: torch.dtype,
) -> torch.Tensor:
    """Let Liger-Kernel chunk as it sees fit; the weight's gradient is added up in float32."""
    with torch.autocast(states.device.type, enabled=False):
        states, weight = states.to(product_type), weight.to(product_type)
        bias = None if bias is None else bias.to(product_type)
        loss: torch.Tensor = fused(reduction="sum", accum_dtype=torch.float32)(weight, states, targets, bias)
    return loss.float()
