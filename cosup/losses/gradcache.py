"""GradCache: in-batch negatives over a whole optimizer step at the memory of one micro-batch (Gao et al., 2021).

Three steps:
    1. Every pack's (micro-batch's) queries and passages are computed without a graph.
    2. The loss over all of them together, and over all ranks, gives the gradient of each vector (`cache_gradients`).
    3. Every pack is computed again, now with a graph, under the same random state, and pulls those gradients through:
       `surrogate_loss` has exactly that gradient.

Ranks may have different numbers of packs: they meet once, in step 2. As everywhere in `losses`, a rank's loss is the
sum over its own queries; the trainer divides by the step's retrievals and, because DDP and FSDP average gradients,
multiplies by the number of ranks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from cosup.losses.nsp import Contrast, ContrastOptions, NSPResult, Temperature, contrast, join


@dataclass
class PackVectors:
    """A pack's part in the step: its vectors, which candidates it brings, and the random state it saw.

    Attributes:
        queries: [R, D].
        passages: [P, D].
        candidates: [M] row of `passages` for each candidate.
        positives: [R] candidate of this pack for each query.
        candidate_keys: [M] int64; equal keys are one passage, wherever it stands in the step.
        answer_keys: [R] int64, the final answer of the query's example; 0 for none.
        example_keys: [R] int64, the query's example.
        random_state: the state before the vectors were computed; None where they are not computed again.
    """

    queries: torch.Tensor
    passages: torch.Tensor
    candidates: torch.Tensor
    positives: torch.Tensor
    candidate_keys: torch.Tensor
    answer_keys: torch.Tensor
    example_keys: torch.Tensor
    random_state: RandomState | None = None

    def contrast(self) -> Contrast:
        """Return the pack's queries and candidates, with the graph that the vectors have."""
        return self._contrast(self.queries, self.passages)

    def detached(self) -> tuple[Contrast, list[torch.Tensor]]:
        """Return queries and candidates cut off from the graph, and the two leaves that get the gradients."""
        queries, passages = (_leaf(v) for v in (self.queries, self.passages))
        return self._contrast(queries, passages), [queries, passages]

    def _contrast(self, queries: torch.Tensor, passages: torch.Tensor) -> Contrast:
        rows = passages.index_select(0, self.candidates)
        return Contrast(queries, rows, self.positives, self.candidate_keys, self.answer_keys, self.example_keys)


@dataclass
class CachedGradients:
    """Gradients of the step's summed NSP loss for one pack, float32.

    Attributes:
        queries: [R, D].
        passages: [P, D].
        temperature: scalar, the gradient of the whole step in the first pack and 0 in the others; None: not learned.
        random_state: the pack's.
    """

    queries: torch.Tensor
    passages: torch.Tensor
    temperature: torch.Tensor | None
    random_state: RandomState | None


@dataclass
class CachedStep:
    """The gradients of each pack of this rank, and this rank's figures, without a graph."""

    packs: list[CachedGradients]
    result: NSPResult


class RandomState:
    """The state of torch's generators, to run the same dropout twice."""

    def __init__(self, device: torch.device) -> None:
        self._cpu = torch.get_rng_state()
        self._devices: list[int] = []
        if device.type == "cuda":
            self._devices = [torch.cuda.current_device() if device.index is None else device.index]
        self._cuda = [torch.cuda.get_rng_state(index) for index in self._devices]

    @contextlib.contextmanager
    def replayed(self) -> Iterator[None]:
        """Run a block under this state and put the present state back afterwards."""
        with torch.random.fork_rng(devices=self._devices):
            torch.set_rng_state(self._cpu)
            for index, state in zip(self._devices, self._cuda, strict=True):
                torch.cuda.set_rng_state(state, index)
            yield


def cache_gradients(
    packs: Sequence[PackVectors], options: ContrastOptions, temperature: Temperature = 1.0
) -> CachedStep:
    """Return the gradients of the summed loss over all packs of all ranks, split by pack, for the packs of this rank.

    A collective with `options.gather`: every rank calls it once a step, backward included.

    Args:
        packs: this rank's, at least one; any of them may have no query or no candidate. Graphs are left alone.
        options: how they are set against each other.
        temperature: as for `contrast`. A tensor that requires a gradient is learned and gets its own.
    """
    learned = isinstance(temperature, torch.Tensor) and temperature.requires_grad
    with torch.enable_grad():
        parts, pairs = zip(*(pack.detached() for pack in packs), strict=True)
        leaves = [leaf for pair in pairs for leaf in pair]
        if isinstance(temperature, torch.Tensor):
            temperature = temperature.detach().requires_grad_(learned)
            leaves += [temperature] if learned else []
        result = contrast(join(parts), options, temperature)
        gradients = torch.autograd.grad(result.loss_sum, leaves)
    step = NSPResult(result.loss_sum.detach(), result.correct, result.negatives)
    own = gradients[-1] if learned else None
    cached = []
    for number, pack in enumerate(packs):
        share = own if own is None or number == 0 else torch.zeros_like(own)
        queries, passages = gradients[2 * number : 2 * number + 2]
        cached.append(CachedGradients(queries, passages, share, pack.random_state))
    return CachedStep(cached, step)


def surrogate_loss(
    queries: torch.Tensor, passages: torch.Tensor, cached: CachedGradients, temperature: Temperature = 1.0
) -> torch.Tensor:
    """Return a scalar that has this pack's gradient of the step's summed NSP loss; its value means nothing.

    Args:
        queries: [R, D] of the pack, with a graph.
        passages: [P, D] of the pack, with a graph.
        cached: what the pack must pull through.
        temperature: the one that `cache_gradients` got, with its graph; only looked at where it is learned.
    """
    pull = (queries * cached.queries).sum() + (passages * cached.passages).sum()
    return pull if cached.temperature is None else pull + temperature * cached.temperature


def _leaf(vectors: torch.Tensor) -> torch.Tensor:
    """Return the vectors in full precision, so that the gradients of several candidates add up in it."""
    return vectors.detach().to(torch.promote_types(vectors.dtype, torch.float32)).requires_grad_()
