"""A pair made ready for a run: the objective, what is trained, how its modules run."""

from __future__ import annotations

from torch import nn

from cosup.lean import make_lean
from cosup.modeling import CoSupervisedModel
from cosup.training.config import CoSupervisionConfig
from cosup.training.sharding import is_sharded


def prepare_pair(model: CoSupervisedModel, args: CoSupervisionConfig) -> None:
    """Put a run's objective into a pair, freeze what it does not train, and make it fit for how it runs.

    Nobody else sets the objective, whether the pair comes from a recipe or was made in Python.
    """
    _configure(model, args)
    _freeze_unused(model, args)
    _unprepare(model)
    if args.bf16 or args.fp16:
        for part in model.trees():
            make_lean(part)
    if args.fsdp:
        model.unshare_layers()


def _configure(model: CoSupervisedModel, args: CoSupervisionConfig) -> None:
    if args.freeze_embedder and not (model.embedder_frozen or model.shared):
        model.freeze_embedder()
    own = {} if args.pooling is None else {"pooling": args.pooling}
    model.configure(similarity=args.similarity, temperature=float(args.temperature), **own)
    model.ntp_chunk = args.ntp_chunk_tokens
    if args.learn_temperature and model.log_temperature is None:
        model.learn_temperature()


def _freeze_unused(model: CoSupervisedModel, args: CoSupervisionConfig) -> None:
    """Leave out of training what the supervision does not use: DDP waits for every trained parameter."""
    if not args.trains_nsp and not model.shared:
        model.freeze_embedder()
        if model.projection is not None:
            model.projection.requires_grad_(False)
    if not args.trains_ntp:
        inputs = {id(p) for p in model.generator.get_input_embeddings().parameters()}
        for p in model.generator.get_output_embeddings().parameters():
            if id(p) not in inputs:
                p.requires_grad_(False)


def _unprepare(model: nn.Module) -> None:
    """Let a pair that an earlier trainer has had be prepared again.

    accelerate marks what it has prepared and leaves it alone from then on, with the precision of that first run.
    """
    if is_sharded(model):
        return
    if model.__dict__.pop("_is_accelerate_prepared", False):
        for name in ("forward", "_original_forward"):
            model.__dict__.pop(name, None)
