"""GradCache: in-batch negatives over a whole optimizer step at the memory of one micro-batch (Gao et al., 2021).

Three steps:
    1. Every micro-batch's queries and passages are computed without a graph (`detached`).
    2. The loss over all of them together gives the gradient of each vector (`cache_gradients`).
    3. Every micro-batch is computed again, now with a graph, under the same random state, and pulls those gradients
       through: `surrogate_loss` has exactly that gradient.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from cosup.losses.nsp import NSPResult


@dataclass
class MicroBatch:
    """A micro-batch's part in the step: its vectors, which candidates it brings, and the random state it saw.

    Attributes:
        queries: [R, D].
        passages: [P, D].
        candidates: [M] row of `passages` for each candidate.
        positives: [R] candidate of this micro-batch for each query.
        keys: one hashable a candidate; the same key in two micro-batches is the same passage. None: all differ.
        random_state: see `RandomState`.
    """

    queries: torch.Tensor
    passages: torch.Tensor
    candidates: torch.Tensor
    positives: torch.Tensor
    keys: Sequence[str] | None
    random_state: RandomState


@dataclass
class CachedGradients:
    """Gradients of the step's NSP loss for one micro-batch's vectors, and the step's figures."""

    queries: torch.Tensor
    passages: torch.Tensor
    random_state: RandomState
    step: NSPResult


class RandomState:
    """The state of torch's generators, to run the same dropout twice."""

    def __init__(self, device: torch.device) -> None:
        self._cpu = torch.get_rng_state()
        self._devices = [device] if device.type == "cuda" else []
        self._cuda = [torch.cuda.get_rng_state(d) for d in self._devices]

    @contextlib.contextmanager
    def replayed(self) -> Iterator[None]:
        """Run a block under this state and put the present state back afterwards."""
        with torch.random.fork_rng(devices=[d.index or 0 for d in self._devices]):
            torch.set_rng_state(self._cpu)
            for device, state in zip(self._devices, self._cuda, strict=True):
                torch.cuda.set_rng_state(state, device)
            yield


def cache_gradients(
    micro_batches: Sequence[MicroBatch],
    loss: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], NSPResult],
) -> list[CachedGradients]:
    """Return the gradient of the summed loss over all micro-batches together, split by micro-batch.

    Args:
        micro_batches: the step's micro-batches, vectors without a graph.
        loss: `(queries [R, D], candidates [M, D], positives [R]) -> NSPResult`.
    """
    queries = [m.queries.detach().requires_grad_() for m in micro_batches]
    passages = [m.passages.detach().requires_grad_() for m in micro_batches]
    candidates, positives = _join(micro_batches, passages)
    with torch.enable_grad():
        result = loss(torch.cat(queries), candidates, positives)
        gradients = torch.autograd.grad(result.loss_sum, [*queries, *passages], allow_unused=True)
    filled = [torch.zeros_like(v) if g is None else g for v, g in zip([*queries, *passages], gradients, strict=True)]
    step = NSPResult(result.loss_sum.detach(), result.correct)
    half = len(queries)
    return [CachedGradients(filled[i], filled[half + i], m.random_state, step) for i, m in enumerate(micro_batches)]


def surrogate_loss(queries: torch.Tensor, passages: torch.Tensor, cached: CachedGradients) -> torch.Tensor:
    """Return a scalar that has this micro-batch's gradient of the step's summed NSP loss; its value means nothing."""
    return (queries * cached.queries).sum() + (passages * cached.passages).sum()


def _join(micro_batches: Sequence[MicroBatch], passages: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Join the candidates; a passage that stands in two micro-batches is one candidate where keys tell."""
    columns: list[torch.Tensor] = []
    positives: list[torch.Tensor] = []
    seen: dict[str, int] = {}
    count = 0
    for micro, vectors in zip(micro_batches, passages, strict=True):
        place = []
        for index, row in enumerate(micro.candidates.tolist()):
            key = None if micro.keys is None else micro.keys[index]
            if key is not None and key in seen:
                place.append(seen[key])
                continue
            if key is not None:
                seen[key] = count
            place.append(count)
            columns.append(vectors[row])
            count += 1
        positives.append(torch.tensor(place, dtype=torch.long)[micro.positives.cpu()].to(micro.positives.device))
    width = passages[0].shape[1]
    joined = torch.stack(columns) if columns else passages[0].new_zeros(0, width)
    return joined, torch.cat(positives)
