"""The loss of one optimizer step, pack by pack.

The step's vectors are contrasted all together, whatever packs and devices they come from: with several packs they are
computed once without a graph, the loss over all of them gives each vector's gradient, and every pack is then run with a
graph and pulls its gradients through (GradCache). A step of one pack is contrasted with its graph at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch

from cosup.data.collate import IGNORED, Pack
from cosup.errors import CosupError
from cosup.losses.gradcache import CachedStep, PackVectors, RandomState, cache_gradients, surrogate_loss
from cosup.losses.nsp import ContrastOptions, NSPResult, contrast
from cosup.pair import PairOutput
from cosup.processes import rank, sum_over, world_size
from cosup.training.config import CoSupervisionConfig
from cosup.training.saving import last_complete_checkpoint

_NAMED = 64  # examples of a contrast that a message names
Forward = Callable[[Pack], PairOutput]


@dataclass(frozen=True)
class Counts:
    """What a step's losses are divided by: supervised tokens and retrievals on all devices; at least 1 each."""

    tokens: float
    retrievals: float

    @classmethod
    def of(cls, packs: Sequence[Pack], device: torch.device) -> Counts:
        """Count the packs of all devices; a collective call."""
        tokens = sum(int((pack["labels"] != IGNORED).sum()) for pack in packs)
        retrievals = sum(len(pack["ret_rows"]) for pack in packs)
        return cls(*(max(1.0, total) for total in sum_over([tokens, retrievals], device)))


class StepLoss:
    """The loss of one step; every device holds its own packs, as many as the others.

    Args:
        packs: this device's packs, see `data.collate`.
        args: the run's settings.
        device: where sums are added up.
        ids: the step's examples on this device, to be named where the loss diverges.
        besides: examples that only add to its contrast, likewise.
        nsp_weight: lambda of this step.
    """

    def __init__(
        self,
        packs: Sequence[Pack],
        args: CoSupervisionConfig,
        device: torch.device,
        ids: Sequence[str],
        besides: Sequence[str],
        nsp_weight: float,
    ) -> None:
        self.packs = packs
        self.args = args
        self.ids, self.besides = list(ids), list(besides)
        self.nsp_weight = nsp_weight if args.trains_ntp else 1.0
        self.counts = Counts.of(packs, device)
        everywhere = cast(Literal["full", "own"], args.gather) if world_size() > 1 else None
        self.options = ContrastOptions(everywhere, args.mask_same_passage, args.mask_same_answer, args.symmetric_nsp)
        self._cached: CachedStep | None = None
        self._sums: dict[str, Any] = {}

    def cache(self, vectors: Forward, device: torch.device) -> None:
        """Compute every pack's vectors without a graph and keep the gradients of the step's contrast.

        Does nothing where the step has one pack, or where packs are contrasted each by itself.

        Args:
            vectors: runs a pack without a graph.
            device: whose random state is kept for the second run.
        """
        if len(self.packs) == 1 or not (self.args.trains_nsp and self.args.grad_cache):
            return
        found: list[PackVectors] = []
        temperature: float | torch.Tensor = self.args.temperature
        for pack in self.packs:
            state = RandomState(device)
            output = vectors(pack)
            found.append(_vectors_of(output, pack, state))
            temperature = self._temperature(output)
        if isinstance(temperature, torch.Tensor):
            temperature = temperature.detach().requires_grad_()
        self._cached = cache_gradients(found, self.options, temperature)
        self._add_nsp(self._cached.result, sum(len(vectors.queries) for vectors in found))

    def loss(self, forward: Forward, pack: Pack, number: int) -> torch.Tensor:
        """Return a pack's share of `L = L_NTP + lambda * L_NSP` (paper, section 3.3), with its graph.

        NTP is divided by the step's supervised tokens and NSP by its retrievals. Multiplied by the number of devices,
        because gradients are averaged over them.

        Args:
            forward: runs a pack with a graph.
            pack: the pack.
            number: its number among the step's packs.
        """
        cached = None if self._cached is None else self._cached.packs[number]
        replay = contextlib.nullcontext()
        if cached is not None and cached.random_state is not None:
            replay = cached.random_state.replayed()  # type: ignore[assignment]
        with replay:
            output = forward(pack)
        loss = torch.zeros((), device=pack["input_ids"].device)
        if output.ntp_sum is not None:
            self._add(ntp=output.ntp_sum, tokens=output.tokens)
            loss = loss + output.ntp_sum / self.counts.tokens
        if output.queries is not None and output.passages is not None:
            loss = loss + self.nsp_weight * self._nsp(output, pack, number) / self.counts.retrievals
        return loss * world_size()

    def diverged(self, what: str, number: int) -> CosupError:
        """Return what is raised where a step's numbers are not finite: it names the examples and the way back."""
        good = last_complete_checkpoint(str(self.args.output_dir))
        back = f"the last good checkpoint is {good}" if good else "there is no checkpoint yet"
        return CosupError(
            f"training diverged at step {number}: {what}; examples of the step: {self._examples()}; {back}; lower the "
            "learning rate or check these examples"
        )

    def _examples(self) -> str:
        shown = ", ".join(self.ids)
        if self.besides:
            more = len(self.besides) - _NAMED
            shown += f"; contrasted with {', '.join(self.besides[:_NAMED])}" + (f" and {more} more" if more > 0 else "")
        return shown + (f" (on process {rank()})" if world_size() > 1 else "")

    def take_sums(self) -> dict[str, Any]:
        """Return what was added up since the last call, for the log."""
        sums, self._sums = self._sums, {}
        return sums

    def _nsp(self, output: PairOutput, pack: Pack, number: int) -> torch.Tensor:
        temperature = self._temperature(output)
        assert output.queries is not None
        assert output.passages is not None
        if self._cached is None:
            result = contrast(_vectors_of(output, pack).contrast(), self.options, temperature)
            self._add_nsp(result, len(output.queries))
            return result.loss_sum
        pull = surrogate_loss(output.queries, output.passages, self._cached.packs[number], temperature)
        value = self._cached.result.loss_sum if number == 0 else torch.zeros_like(pull)
        return value + pull - pull.detach()

    def _temperature(self, output: PairOutput) -> float | torch.Tensor:
        return self.args.temperature if output.log_temperature is None else output.log_temperature.exp()

    def _add_nsp(self, result: NSPResult, retrievals: int) -> None:
        self._add(nsp=result.loss_sum, correct=result.correct, negatives=result.negatives, retrievals=retrievals)

    def _add(self, **values: Any) -> None:
        for name, value in values.items():
            value = value.detach() if isinstance(value, torch.Tensor) else value
            self._sums[name] = self._sums.get(name, 0) + value


def _vectors_of(output: PairOutput, pack: Pack, state: RandomState | None = None) -> PackVectors:
    assert output.queries is not None
    assert output.passages is not None
    device = output.queries.device
    names = ("candidates", "positives", "candidate_keys", "answer_keys", "example_keys")
    keys = {name: pack[name].to(device) for name in names}
    return PackVectors(output.queries, output.passages, **keys, random_state=state)
