"""The yardstick: training as the paper's code does it, written anew from its description; and how a run is measured.

It keeps what costs speed and memory there: float32 throughout, every batch padded to its longest row, logits at every
position, next-token prediction on the spliced passages and on padding too (padding is labelled with the pad id), each
`[Ret]`'s passage embedded by itself, right-padded and read at position -1, inner product without a temperature,
in-batch negatives with nothing masked, and clipping of the generator's body alone.

Shapes: B rows, L tokens a row, H width, V vocabulary, R retrievals.
"""

from __future__ import annotations

import re
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from transformers import PreTrainedModel

from cosup.data.collate import token_places
from cosup.data.encoding import EncodedExample, Kind
from cosup.data.padding import pad_right

IGNORED = -100
GB = 1e9


@dataclass
class Counts:
    """What one or more forward passes read.

    Attributes:
        generator: real tokens of the generator.
        embedder: real tokens of the embedder.
        slots: token places of both, padding included.
        generator_squares: sum of the squared lengths of the generator's sequences (attention's work).
        embedder_squares: likewise for the embedder.
        supervised: tokens that next-token prediction is asked for.
    """

    generator: int = 0
    embedder: int = 0
    slots: int = 0
    generator_squares: int = 0
    embedder_squares: int = 0
    supervised: int = 0

    @property
    def real(self) -> int:
        """Real tokens of both models."""
        return self.generator + self.embedder

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def count_batch(batch: Mapping[str, Any]) -> Counts:
    """Count a batch of the trainer: one pack, packed or padded, or a step's packs under `packs`."""
    if "packs" in batch:
        return sum((count_batch(pack) for pack in batch["packs"]), Counts())
    own, passages = _lengths(batch, ""), _lengths(batch, "passage_")
    return Counts(
        generator=sum(own),
        embedder=sum(passages),
        slots=token_places(batch, evened=True),
        generator_squares=sum(n * n for n in own),
        embedder_squares=sum(n * n for n in passages),
        supervised=int((batch["labels"][:, 1:] != IGNORED).sum()),
    )


def _lengths(batch: Mapping[str, Any], prefix: str) -> list[int]:
    lengths = batch.get(f"{prefix}lengths")
    if lengths is None:
        lengths = batch[f"{prefix}attention_mask"].sum(dim=1)
    return [int(n) for n in lengths]


@dataclass
class Meter:
    """Counts tokens and takes the time of each optimizer step, from the end of the step before to its own end.

    Attributes:
        device: waited for at the end of each step.
        warm_up: first steps that are left out of every rate.
        steps: what each finished step read.
        seconds: how long each took.
    """

    device: torch.device
    warm_up: int = 1
    steps: list[Counts] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    _open: Counts = field(default_factory=Counts)
    _mark: float = 0.0

    def start(self) -> None:
        """Take the time from which the first step counts."""
        self._mark = time.perf_counter()

    def add(self, counts: Counts) -> None:
        """Add a forward pass (with its backward) to the open step."""
        self._open += counts

    def end_step(self) -> None:
        """Close the step."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds.append(now - self._mark)
        self.steps.append(self._open)
        self._open, self._mark = Counts(), now

    @property
    def rates(self) -> list[float]:
        """Real tokens of both models a second, for each step after the warm-up."""
        timed = zip(self.steps[self.warm_up :], self.seconds[self.warm_up :], strict=True)
        return [counts.real / seconds for counts, seconds in timed]

    @property
    def total(self) -> Counts:
        """What all steps read."""
        return sum(self.steps, Counts())

    def report(self) -> dict[str, Any]:
        """Return `tokens_per_second` (over all timed steps together), `padding_share`, `rates` and `seconds`."""
        total, timed = self.total, sum(self.steps[self.warm_up :], Counts())
        return {
            "tokens_per_second": timed.real / sum(self.seconds[self.warm_up :]) if self.rates else None,
            "padding_share": 1 - total.real / max(1, total.slots),
            "rates": self.rates,
            "seconds": self.seconds,
            "real_tokens": total.real,
            "timed_tokens": timed.real,
        }


def peak_memory_gb(device: torch.device) -> float:
    """Return the highest memory so far in units of 1e9 bytes: allocated on a GPU, else this process's resident size.

    On Linux it is `VmHWM`: `ru_maxrss` starts from the size of the process that started this one.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GB
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii")) if status.is_file() else None
    return (int(found.group(1)) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024 / GB


@torch.no_grad()
def held_out_loss(generator: PreTrainedModel, examples: Sequence[EncodedExample], batch_size: int = 8) -> float:
    """Return the mean negative log-likelihood of what the model has to write in held-out examples, in float32.

    That is `[Ret]`, the claims, `[Ce]`, the final text and the end of sequence; neither prompt, passage nor `[Cs]`.
    """
    generator.eval()
    device, total, count = generator.device, 0.0, 0
    for start in range(0, len(examples), batch_size):
        chosen = examples[start : start + batch_size]
        ids_BL, mask_BL = pad_right([e.input_ids for e in chosen], 0)
        wanted_BL = pad_right([[int(kind == Kind.WRITTEN) for kind in e.kinds] for e in chosen], 0)[0][:, 1:].bool()
        states_BLH = generator.base_model(ids_BL.to(device), attention_mask=mask_BL.to(device)).last_hidden_state
        logits_NV = generator.get_output_embeddings()(states_BLH[:, :-1][wanted_BL.to(device)])
        targets_N = ids_BL[:, 1:][wanted_BL].to(device)
        total += float(cross_entropy(logits_NV.float(), targets_N, reduction="sum"))
        count += len(targets_N)
    generator.train()
    return total / max(1, count)


@dataclass(frozen=True)
class Yardstick:
    """Settings of the procedure.

    Attributes:
        learning_rate: of AdamW, constant (the paper lowers it after each epoch only).
        batch_size: examples a step.
        generator_pad: pad id of the generator.
        embedder_pad: pad id of the embedder.
        nsp_weight: lambda of `L = L_NTP + lambda * L_NSP`.
        max_norm: of the gradient of the generator's body.
    """

    learning_rate: float
    batch_size: int
    generator_pad: int
    embedder_pad: int
    nsp_weight: float = 0.01
    max_norm: float = 1.0


def train(
    models: tuple[PreTrainedModel, PreTrainedModel],
    examples: Sequence[EncodedExample],
    encode_passage: Callable[[str], list[int]],
    settings: Yardstick,
    meter: Meter,
) -> list[float]:
    """Train on the examples once, in their order.

    Args:
        models: generator (with its head) and embedder body, in float32; changed in place.
        examples: encoded for the generator, when they are asked for.
        encode_passage: from a passage's id to its embedder tokens.
        settings: of the procedure.
        meter: takes time and tokens.

    Returns:
        The loss of each step.
    """
    generator, embedder = (model.train() for model in models)
    optimizer = torch.optim.AdamW(
        [*generator.parameters(), *embedder.parameters()], lr=settings.learning_rate, weight_decay=0.0
    )
    losses = []
    meter.start()
    for start in range(0, len(examples), settings.batch_size):
        chosen = [examples[i] for i in range(start, min(start + settings.batch_size, len(examples)))]
        batch = collate(chosen, encode_passage, settings)
        loss = step_loss(generator, embedder, {k: v.to(generator.device) for k, v in batch.items()}, settings)
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(generator.base_model.parameters(), settings.max_norm)
        optimizer.step()
        losses.append(float(loss.detach()))
        meter.add(count_batch(batch))
        meter.end_step()
    return losses


def collate(
    examples: Sequence[EncodedExample], encode_passage: Callable[[str], list[int]], settings: Yardstick
) -> dict[str, torch.Tensor]:
    """Return a batch padded to its longest rows; the passages have one row for each `[Ret]`.

    The prompt's labels are -100; everything after it is supervised, padding included.
    """
    input_ids, attention_mask = pad_right([e.input_ids for e in examples], settings.generator_pad)
    labels = input_ids.clone()
    for row, example in enumerate(examples):
        labels[row, : sum(kind == Kind.PROMPT for kind in example.kinds)] = IGNORED
    wanted = [passage_id for e in examples for passage_id in e.passage_ids]
    passages, passages_mask = pad_right([encode_passage(i) for i in wanted], settings.embedder_pad)
    rets = [(row, column) for row, e in enumerate(examples) for column in e.ret_positions]
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "labels": labels,
        "ret_rows": torch.tensor([row for row, _ in rets]),
        "ret_columns": torch.tensor([column for _, column in rets]),
        "passage_input_ids": passages,
        "passage_attention_mask": passages_mask,
    }


def step_loss(
    generator: PreTrainedModel, embedder: PreTrainedModel, batch: Mapping[str, torch.Tensor], settings: Yardstick
) -> torch.Tensor:
    """Return `L_NTP + lambda * L_NSP` of a batch (a scalar with its graph).

    NTP is the mean over every label that is not -100; NSP the mean over the `[Ret]` tokens.
    """
    states_BLH = generator.base_model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
    ).last_hidden_state
    logits_BLV = generator.get_output_embeddings()(states_BLH)
    shifted_NV, targets_N = logits_BLV[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()
    ntp = cross_entropy(shifted_NV, targets_N, ignore_index=IGNORED)
    queries_RH = states_BLH[batch["ret_rows"], batch["ret_columns"]]
    passages_RH = embedder(
        input_ids=batch["passage_input_ids"], attention_mask=batch["passage_attention_mask"], use_cache=False
    ).last_hidden_state[:, -1]
    own_R = torch.arange(len(queries_RH), device=queries_RH.device)
    return ntp + settings.nsp_weight * cross_entropy(queries_RH @ passages_RH.T, own_R)
