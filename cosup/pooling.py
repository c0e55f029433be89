"""From an embedder's token states to one vector a text: pooling, and the layers that may follow it.

A cosup pair reads the last real token and at most projects it. Embedders made by sentence-transformers also take the
mean or the first token, and may have Dense layers with biases and activations after it.

Shapes: P texts, L tokens a row, De the embedder's width, D width of the sequence space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

POOLINGS = ("last_token", "mean", "cls")
IDENTITY = "torch.nn.modules.linear.Identity"
ACTIVATIONS: dict[str, type[nn.Module]] = {
    kind.__name__: kind for kind in (nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.Sigmoid, nn.SiLU)
}


@dataclass(frozen=True)
class Dense:
    """One Dense layer as sentence-transformers keeps it.

    Attributes:
        weight: [out, in].
        bias: [out], or None.
        activation: dotted name of the class of torch that follows; its last part is one of `ACTIVATIONS`.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    activation: str = IDENTITY

    @property
    def projects(self) -> bool:
        """Whether it is a projection as cosup learns it: from one width to another, and nothing else."""
        out, into = self.weight.shape
        return out != into and self.bias is None and self.activation.endswith("Identity")


class Head(nn.Module):
    """Dense layers one after another.

    Args:
        layers: at least one; each takes what the one before gives.
    """

    def __init__(self, layers: Sequence[Dense]) -> None:
        super().__init__()
        self.linears = nn.ModuleList(_linear(layer) for layer in layers)
        self.names = [layer.activation for layer in layers]
        self.activations = nn.ModuleList(ACTIVATIONS[name.rpartition(".")[2]]() for name in self.names)
        self.width = int(layers[-1].weight.shape[0])

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return [P, D] of [P, De]."""
        for linear, activation in zip(self.linears, self.activations, strict=True):
            vectors = activation(linear(vectors))
        return vectors


def _linear(layer: Dense) -> nn.Linear:
    out, into = layer.weight.shape
    made = nn.Linear(into, out, bias=layer.bias is not None, dtype=layer.weight.dtype, device="meta")
    state = {"weight": layer.weight} | ({} if layer.bias is None else {"bias": layer.bias})
    made.load_state_dict(state, assign=True)
    return made.requires_grad_(True)


def pool(
    states_PLD: torch.Tensor, pooling: str, mask: torch.Tensor | None = None, lengths: torch.Tensor | None = None
) -> torch.Tensor:
    """Reduce token states to one vector a text.

    Args:
        states_PLD: [P, L, De], or of a packed row [1, sum of lengths, De].
        pooling: one of `POOLINGS`; `mean` is in float32.
        mask: [P, L] 1 on real tokens, at least one a row; None where all are real. Padding may stand on either side.
        lengths: [P] lengths of the texts in a packed row, in place of a mask.

    Returns:
        [P, De].
    """
    if lengths is not None:
        return _pool_packed(states_PLD[0], pooling, lengths)
    if mask is None:
        mask = torch.ones(states_PLD.shape[:2], dtype=torch.long, device=states_PLD.device)
    if pooling == "mean":
        weights = mask[..., None].float()
        return (states_PLD.float() * weights).sum(dim=1) / weights.sum(dim=1)
    columns = torch.arange(mask.shape[1], device=mask.device)
    place = (mask * columns).argmax(dim=1) if pooling == "last_token" else mask.argmax(dim=1)
    return states_PLD[torch.arange(len(place), device=place.device), place]


def _pool_packed(states_TD: torch.Tensor, pooling: str, lengths: torch.Tensor) -> torch.Tensor:
    ends = lengths.cumsum(dim=0)
    if pooling == "mean":
        owner = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
        sums = states_TD.new_zeros(len(lengths), states_TD.shape[1], dtype=torch.float32)
        return sums.index_add(0, owner, states_TD.float()) / lengths[:, None]
    return states_TD[ends - 1] if pooling == "last_token" else states_TD[ends - lengths]


def padded_on_the_right(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Move the real tokens of each row [P, L] to its left, in order: for models that count positions by themselves."""
    order = torch.argsort(1 - mask.long(), dim=1, stable=True)
    return ids.gather(1, order), mask.gather(1, order)
