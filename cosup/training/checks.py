"""What a run refuses before it starts: settings that go together with nothing here, and examples without passages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cosup.checkpoints import attends_by
from cosup.data.reading import check_record
from cosup.data.stream import StreamedExamples
from cosup.errors import CosupError, UsageError
from cosup.modeling import CoSupervisedModel
from cosup.processes import world_size
from cosup.records import Example, Passage
from cosup.training.config import CoSupervisionConfig, check_pairing


def check_run(
    model: CoSupervisedModel,
    args: CoSupervisionConfig,
    examples: Sequence[Example] | StreamedExamples,
    held_out: Sequence[Example],
    passages: Mapping[str, Passage],
) -> None:
    """Refuse what cannot be trained.

    Raises:
        InputError: an example names a passage that is not there.
        UsageError: settings exclude one another.
        CosupError: there are no examples.
    """
    check_pairing(args, model.base is not None, model.shared)
    if args.attention in ("flash", "flex") and not attends_by(model.generator, args.attention):
        raise UsageError(f"attention is '{args.attention}'; load the pair with it: from_base(.., attention=..)")
    step = args.train_batch_size * args.gradient_accumulation_steps * world_size()
    _check_contrast(args, step)
    _check_workers(args)
    if isinstance(examples, StreamedExamples):
        _check_stream(args)
        _check_passages(held_out, passages)
        return
    if args.hard_negatives:
        _check_mining(args, len(examples), step)
    if not examples:
        raise CosupError("no training examples")
    _check_passages([*examples, *held_out], passages)


def _check_contrast(args: CoSupervisionConfig, step: int) -> None:
    if args.nsp_batch_size is not None and args.nsp_batch_size < step:
        raise UsageError(f"nsp_batch_size is {args.nsp_batch_size}; expected at least the {step} examples of a step")


def _check_stream(args: CoSupervisionConfig) -> None:
    """Refuse what needs a second look at the examples."""
    asked = {
        "nsp_batch_size": args.nsp_batch_size is not None,
        "hard_negatives": args.hard_negatives > 0,
        "same_title_examples": args.same_title_examples > 1,
        "passage_dropout": args.passage_dropout > 0,
        "curriculum_steps": args.curriculum_steps > 0,
        "lr_epoch_decay": args.lr_epoch_decay != 1,
        "train_sampling_strategy": args.train_sampling_strategy == "group_by_length",
    }
    if name := _first(asked):
        raise UsageError(f"{name} needs examples that are not streamed; leave it out, or set data.streaming to false")


def _check_workers(args: CoSupervisionConfig) -> None:
    asked = {"hard_negatives": args.hard_negatives > 0, "passage_dropout": args.passage_dropout > 0}
    if args.dataloader_persistent_workers and (name := _first(asked)):
        raise UsageError(f"{name} needs loader workers that start anew; set dataloader_persistent_workers to false")


def _first(asked: Mapping[str, bool]) -> str | None:
    return next((name for name, wanted in asked.items() if wanted), None)


def _check_mining(args: CoSupervisionConfig, examples: int, step: int) -> None:
    """Refuse a run that is over before hard negatives are mined for the first time."""
    an_epoch = max(1, -(-examples // step))
    epochs = args.max_steps / an_epoch if args.max_steps > 0 else args.num_train_epochs
    if epochs <= args.hard_negatives_every:
        when = "an epoch" if args.hard_negatives_every == 1 else f"{args.hard_negatives_every} epochs"
        raise UsageError(
            f"hard_negatives are mined after {when}, and this run has {epochs:.3g} in all; train longer or drop them"
        )


def _check_passages(examples: Sequence[Example], passages: Mapping[str, Passage]) -> None:
    for example in examples:
        check_record(example, passages)
