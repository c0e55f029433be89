"""From a run's examples to the packs of its steps, as many on every device.

A *batch* is what the loader gives at a time: packs (see `data.collate`) and the ids of their examples.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import torch

from cosup.data.collate import CoSupervisionCollator, ExampleDataset, Pack
from cosup.data.dropout import PassageDropout
from cosup.data.encoding import EncodedExample, ExampleEncoder
from cosup.data.stream import StreamedExamples
from cosup.modeling import CoSupervisedModel
from cosup.processes import gather_objects, max_over, rank, world_size
from cosup.records import Example, Passage
from cosup.training.config import CoSupervisionConfig

Batch = dict[str, Any]


def encoded_examples(
    examples: Sequence[Example] | StreamedExamples,
    passages: Mapping[str, Passage],
    encoder: ExampleEncoder,
    negatives: Mapping[str, tuple[str, ...]],
    dropout: PassageDropout,
) -> ExampleDataset | StreamedExamples:
    """Return a data set of encoded examples: of those in memory (see `ExampleDataset`), or of a stream as it comes."""
    if isinstance(examples, StreamedExamples):
        return examples.encoded_by(functools.partial(encoder.example, passages=passages))
    return ExampleDataset(examples, passages, encoder, negatives, dropout)


def collator_of(
    model: CoSupervisedModel,
    args: CoSupervisionConfig,
    passages: Mapping[str, Passage],
    passage_rows: Mapping[str, int] | None = None,
) -> CoSupervisionCollator:
    """Return what makes a run's training packs; see `CoSupervisionCollator` for `passage_rows`."""
    return CoSupervisionCollator(
        passages,
        model.passage_encoder(),
        int(model.generator_tokenizer.pad_token_id),
        int(model.embedder_tokenizer.pad_token_id),
        args.supervise_passages,
        args.mask_same_passage,
        packing=args.packing and model.can_pack,
        micro_batch_tokens=args.micro_batch_tokens,
        passage_rows=passage_rows,
    )


def measuring(collator: CoSupervisionCollator) -> CoSupervisionCollator:
    """Return a collator for measurements: one pack of a batch, passages embedded and known by their text."""
    return replace(collator, mask_same_passage=True, micro_batch_tokens=None, passage_rows=None)


def collated(collator: CoSupervisionCollator, examples: Sequence[EncodedExample], size: int) -> list[Pack]:
    """Collate examples in batches of `size`; returns the packs of all of them."""
    return [pack for i in range(0, len(examples), size) for pack in collator(examples[i : i + size])["packs"]]


@dataclass
class Collate:
    """Makes the loader's batches: packs and the ids of their examples; a stream's empty places are left out.

    Attributes:
        collator: makes the packs.
        retrieves: whether retrieval is trained; else examples come without their `[Ret]`.
    """

    collator: CoSupervisionCollator
    retrieves: bool = True

    def __call__(self, examples: Sequence[EncodedExample | None]) -> Batch:
        """Return `{"packs", "ids"}`."""
        there = [e for e in examples if e is not None]
        if not self.retrieves:
            there = [replace(e, ret_positions=[], passage_ids=[], negatives=()) for e in there]
        packs = self.collator(there)["packs"] if there else [self.collator.empty_pack()]
        return {"packs": packs, "ids": [e.example_id for e in there]}

    def level(self, batches: Sequence[Batch], device: torch.device) -> None:
        """Add empty packs, so that every device runs as many: sharded models wait for one another in each."""
        most = max_over([float(len(batch["packs"])) for batch in batches], device)
        for batch, count in zip(batches, most, strict=True):
            batch["packs"] += [self.collator.empty_pack() for _ in range(int(count) - len(batch["packs"]))]


def drawn_besides(
    dataset: ExampleDataset, ids: Sequence[str], args: CoSupervisionConfig, number: int
) -> list[EncodedExample]:
    """Draw the examples that only add to a step's contrast, as many as `nsp_batch_size` leaves room for.

    Args:
        dataset: the training examples.
        ids: the step's own examples on this device; none of any device's is drawn.
        args: the run's settings; the draw is a function of its seed and the step.
        number: of the step.

    Returns:
        This device's share of them, each up to its last `[Ret]`.
    """
    if args.nsp_batch_size is None or not args.trains_nsp:
        return []
    step = {i for part in gather_objects(list(ids)) for i in part}
    more = args.nsp_batch_size - len(step)
    draw = Random(args.seed * 1_000_003 + 500_009 + number)
    drawn = draw.sample(range(len(dataset)), min(len(dataset), more + len(step)))
    others = [i for i in drawn if dataset.examples[i].id not in step][:more]
    own = others[rank() :: world_size()]
    return [q for q in (dataset[i].queries_only() for i in own) if q is not None]
