"""CoSupervisionTrainer: the Hugging Face `Trainer` with both losses, both models in one optimizer step."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import rotate_checkpoints

from cosup.data.collate import ExampleDataset, Pack, model_inputs, token_counts
from cosup.data.dropout import PassageDropout
from cosup.data.stream import StreamedExamples
from cosup.errors import CosupError, UsageError
from cosup.heap import keep_freed_memory
from cosup.modeling import CoSupervisedModel
from cosup.pair import PairOutput
from cosup.processes import barrier, world_size
from cosup.records import Example, Passage
from cosup.training.batches import Batch, Collate, collated, collator_of, drawn_besides, encoded_examples, measuring
from cosup.training.checks import check_run
from cosup.training.config import CoSupervisionConfig
from cosup.training.figures import Figures, gradient_norms
from cosup.training.frozen import PassageVectors, passage_vectors
from cosup.training.mining import Mined, mine
from cosup.training.optimizers import build_optimizer, decay_by_epoch
from cosup.training.preparing import prepare_pair
from cosup.training.resuming import check_step_size, load_optimizer, save_optimizer, save_state
from cosup.training.sampler import EpochSampler, epoch_sampler
from cosup.training.saving import whole_folder
from cosup.training.sharding import shard_on_cpu, unsharded_state
from cosup.training.step import StepLoss
from cosup.training.timed import TimedSaving
from cosup.training.validation import held_out_packs, held_out_pool, objective, validate

logger = logging.getLogger(__name__)


class CoSupervisionTrainer(Trainer):
    """Trains a pair on examples, on one device or many (`torchrun`; DDP, or FSDP2 with `fsdp`).

    Everything of `Trainer` works as usual (callbacks, trackers, schedules, `resume_from_checkpoint`). Checkpoints are
    plain model folders that `CoSupervisedModel.from_pretrained` and the CLI read, whatever the sharding, and a run may
    go on from them on another number of devices.

    Args:
        model: the pair; its similarity and temperature are set from `args`.
        args: the run's settings.
        train_dataset: training examples; a sequence, or `StreamedExamples`.
        eval_dataset: held-out examples, or None.
        passages: every passage that the examples name, by id (a mapping, also one on disk) or as a sequence.
        eval_passages: the pool that held-out recall is measured over; by default the passages that the held-out
            examples name.
        kwargs: passed on to `Trainer` (callbacks, optimizers, ..).

    Raises:
        UsageError: there are no examples, one names a passage that `passages` lacks, or settings exclude one another.
    """

    args: CoSupervisionConfig
    model: CoSupervisedModel

    def __init__(
        self,
        model: CoSupervisedModel,
        args: CoSupervisionConfig,
        train_dataset: Sequence[Example] | StreamedExamples,
        passages: Mapping[str, Passage] | Sequence[Passage],
        eval_dataset: Sequence[Example] | None = None,
        eval_passages: Sequence[Passage] | None = None,
        **kwargs: Any,
    ) -> None:
        by_id = passages if isinstance(passages, Mapping) else {p.id: p for p in passages}
        check_run(model, args, train_dataset, eval_dataset or (), by_id)
        prepare_pair(model, args)
        if args.use_cpu:
            keep_freed_memory()
        if isinstance(train_dataset, StreamedExamples):
            sharing: Any = args.accelerator_config
            sharing.dispatch_batches = False  # every process reads the stream and takes its share
        self._passages = by_id
        self._eval_passages = eval_passages or ()
        self._mined = Mined()
        self._dropout = PassageDropout(args.passage_dropout, args.seed)
        self._frozen: PassageVectors | None = None
        self._step: StepLoss | None = None
        self._figures = Figures()
        self._collate = Collate(collator_of(model, args, by_id), args.trains_nsp)
        encoder = model.example_encoder()
        super().__init__(
            model=model,
            args=args,
            data_collator=self._collate,
            train_dataset=encoded_examples(train_dataset, by_id, encoder, self._mined.negatives, self._dropout),
            eval_dataset=None if eval_dataset is None else ExampleDataset(eval_dataset, by_id, encoder),
            **kwargs,
        )
        self.add_callback(_EpochStart(self))
        if args.save_minutes is not None:
            self.add_callback(TimedSaving(args.save_minutes))
        if args.freeze_embedder and args.trains_nsp and not isinstance(train_dataset, StreamedExamples):
            self._embed_beforehand()

    def _embed_beforehand(self) -> None:
        """Compute the vectors of all passages once, for an embedder that is not trained."""
        passages, folder = list(self._passages.values()), Path(str(self.args.output_dir))
        with self.accelerator.autocast():
            self._frozen = passage_vectors(
                self.model, passages, folder, self.args.recall_batch_tokens, self.args.device
            )
        self._collate.collator = collator_of(self.model, self.args, self._passages, self._frozen.rows)

    # -- the step ------------------------------------------------------------------------------------------------

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor | int | None]:
        """Collect a step's packs, as many on every device, and count what they supervise.

        Nothing random may run here: on resuming, `Trainer` restores the random state after it has called this.
        """
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        ids = [i for batch in batches for i in batch["ids"]]
        dataset: Any = self.train_dataset
        besides = drawn_besides(dataset, ids, self.args, self.state.global_step)
        extra = collated(self._collate.collator, besides, self.args.train_batch_size)
        batches[0]["packs"] = [*extra, *batches[0]["packs"]]
        self._collate.level(batches, self.args.device)
        packs = [pack for batch in batches for pack in batch["packs"]]
        weight = self.args.nsp_weight_at(self.state.global_step, self.state.max_steps)
        self._step = StepLoss(packs, self.args, self.args.device, ids, [e.example_id for e in besides], weight)
        first = 0
        for batch in batches:
            batch["first"] = first
            first += len(batch["packs"])
        self._count_tokens(packs)
        return batches, torch.tensor(self._step.counts.tokens)

    def _count_tokens(self, packs: Sequence[Pack]) -> None:
        evened = self.args.use_cpu and (self.args.bf16 or self.args.fp16)
        real, padded = token_counts(packs, evened)
        self._figures.add(real=real, all=real + padded)

    def training_step(
        self, model: nn.Module, inputs: Batch, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Run the packs of one of the loader's batches forwards and backwards.

        Returns:
            Their share of `L = L_NTP + lambda * L_NSP` (paper, section 3.3), summed over them; NTP is divided by the
            step's supervised tokens on all devices and NSP by its retrievals.

        Raises:
            CosupError: the loss is not a finite number; names the step, its examples and the last good checkpoint.
        """
        assert self._step is not None
        model.train()
        if inputs["first"] == 0:
            self._step.cache(self._vectors, self.args.device)
        total = torch.zeros((), device=self.args.device)
        packs = inputs["packs"]
        for index, pack in enumerate(packs):
            last = index == len(packs) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(model):
                with self.compute_loss_context_manager():
                    loss = self._step.loss(lambda pack: self._forward(model, pack), pack, inputs["first"] + index)
                self.accelerator.backward(loss)
            total += loss.detach()
        self._figures.add(**self._step.take_sums())
        if not torch.isfinite(total):
            raise self._diverged(f"the loss is {float(total)}")
        return total

    def _vectors(self, pack: Pack) -> PairOutput:
        """Run a pack without a graph, for its vectors alone."""
        model: nn.Module = self.model  # not DDP's wrapper: that would wait for gradients
        with torch.no_grad(), self.compute_loss_context_manager():
            return self._forward(model, pack, labels=False)

    def _forward(self, model: nn.Module, pack: Pack, labels: bool = True) -> PairOutput:
        inputs = model_inputs(pack, labels and self.args.trains_ntp, self.args.trains_nsp)
        if self._frozen is not None and "passage_rows" in pack:
            inputs["passage_vectors"] = self._frozen.table[pack["passage_rows"].cpu()]
        output: PairOutput = model(**self._prepare_inputs(inputs))
        return output

    def _diverged(self, what: str) -> CosupError:
        assert self._step is not None
        return self._step.diverged(what, self.state.global_step + 1)

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        self._note_norms()
        return super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        if grad_norm is None:  # nothing was clipped
            self._note_norms()
        return super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[no-untyped-call]

    def _note_norms(self) -> None:
        scaler = self.accelerator.scaler  # of float16, whose gradients are still scaled here
        norms = gradient_norms(self.model, 1.0 if scaler is None else float(scaler.get_scale()))
        self._figures.set_norms(**norms)
        if not all(map(isfinite, norms.values())) and not self.args.fp16:  # float16 skips such steps itself
            raise self._diverged("the gradients are not finite")

    # -- optimizer, order, log -------------------------------------------------------------------------------------

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Build the optimizer: groups by model, so that the embedder may have its own learning rate; Muon if asked."""
        if self.optimizer is None:
            source: Any = self.model if model is None else model
            make, options = self.get_optimizer_cls_and_kwargs(self.args, source)
            self.optimizer = build_optimizer(source, self.args, make, options, self.get_decay_parameter_names(source))
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Build the schedule that `lr_scheduler_type` names, times `lr_epoch_decay` for every epoch that is over."""
        fresh = self.lr_scheduler is None
        made: Any = super().create_scheduler(num_training_steps, optimizer)
        if fresh and self.args.lr_epoch_decay != 1:
            dataset: Any = self.train_dataset
            steps = -(-len(dataset) // self._examples_a_step)
            decay_by_epoch(made, self.args.lr_scheduler_type, self.args.lr_epoch_decay, steps)
        return made

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> EpochSampler:
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        return epoch_sampler(dataset, self.args, self._examples_a_step, self.args.packing and self.model.can_pack)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what happened since the last log; see `Figures.take` for the names."""
        if "loss" in logs:
            logs |= self._figures.take(self.args.device)
            if self._step is not None and (self.args.nsp_warmup_steps or self.args.nsp_weight_end is not None):
                logs["nsp_weight"] = self._step.nsp_weight
            if self.args.learn_temperature:
                logs["temperature"] = self.model.temperature
        super().log(logs, None if start_time is None else self._figures.began_at())

    def _finalize_training(self, trial: Any, num_train_samples: Any, start_time: float) -> Any:
        """Let the run's seconds be those of a clock that never jumps."""
        return super()._finalize_training(trial, num_train_samples, self._figures.began_at())  # type: ignore[no-untyped-call]

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """Let a stream of examples go to the place where a checkpoint was made, in place of reading up to it."""
        epochs, batches = super()._init_training_state(*args, **kwargs)
        checkpoint = args[3] if len(args) > 3 else kwargs.get("resume_from_checkpoint")
        if checkpoint is not None:
            check_step_size(Path(checkpoint), self._examples_a_step)
        dataset: Any = self.train_dataset
        if isinstance(dataset, StreamedExamples):
            dataset.set_epoch(epochs)
            dataset.skip(batches * self.args.train_batch_size * world_size(), keep_places=True)
        return epochs, batches

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        self._shard_on_cpu()  # accelerate's state may have been made anew since
        return super()._prepare_for_training(*args, **kwargs)  # type: ignore[no-untyped-call]

    @property
    def _examples_a_step(self) -> int:
        return int(self.args.train_batch_size * self.args.gradient_accumulation_steps * world_size())

    def _begin_epoch(self, epoch: int) -> None:
        """Draw which passages are dropped; mine hard negatives, unless a checkpoint has brought them."""
        self._dropout.epoch = epoch
        every = self.args.hard_negatives_every
        if not self.args.hard_negatives or epoch == 0 or epoch % every or self._mined.epoch == epoch:
            return
        dataset: Any = self.train_dataset
        examples, passages = [dataset.whole(i) for i in range(len(dataset))], list(self._passages.values())
        with self.accelerator.autocast():
            found = mine(self.model, self.args, examples, passages, measuring(self._collate.collator), epoch)
        self._mined.replace(found, epoch)
        self._figures.start()

    # -- evaluation ------------------------------------------------------------------------------------------------

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Measure both losses, in-batch accuracy and held-out recall; see `validation.validate`.

        NSP figures are of the plain InfoNCE within each evaluation batch of a device, whatever the training's contrast.

        Returns:
            `eval_loss` (`ntp_loss + nsp_weight * nsp_loss`), `eval_ntp_loss`, `eval_nsp_loss`, `eval_nsp_accuracy`,
            `eval_recall@1`, `eval_recall@10`; shares are of 1.
        """
        dataset: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        if dataset is None:
            raise UsageError("no held-out examples to evaluate on; give the trainer an eval_dataset")
        examples, pool = [dataset[i] for i in range(len(dataset))], None
        if self.args.trains_nsp:
            pool = held_out_pool(self.model, examples, self._passages, self._eval_passages)
        packs = held_out_packs(measuring(self._collate.collator), examples, self.args)
        with self.accelerator.autocast():
            found = validate(self.model, packs, pool, self.args.recall_batch_tokens)
        found["loss"] = objective(found, self.args)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._figures.start()
        return metrics

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def create_accelerator_and_postprocess(self) -> None:
        """Let FSDP2 run on the CPU as well, which accelerate leaves to accelerators."""
        super().create_accelerator_and_postprocess()
        self._shard_on_cpu()

    def _shard_on_cpu(self) -> None:
        if self.args.fsdp and self.args.use_cpu and world_size() > 1:
            shard_on_cpu(self.accelerator, self.args.fsdp_plugin_args)
            self.is_fsdp_enabled = True

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint whole or not at all (`Trainer` writes it in place), then remove those past the limit."""
        run = Path(self._get_output_dir(trial=trial))
        folder = run / f"checkpoint-{self.state.global_step}"
        self.store_flos()
        with whole_folder(folder, self.args.should_save) as draft:
            barrier()
            self.save_model(str(draft), _internal_call=True)
            if self.state.best_global_step:
                best = run / f"checkpoint-{self.state.best_global_step}"
                self.state.best_model_checkpoint = str(best) if best.exists() or best == folder else None
            if not self.args.save_only_model:
                self._save_optimizer_and_scheduler(str(draft))
                self._save_scaler(str(draft))
                self._save_rng_state(str(draft))
            if self.args.should_save:
                self._mined.save(draft)
                parts = [*self.callback_handler.callbacks, self.control]
                save_state(draft, self.state, parts, self._examples_a_step)
            barrier()
        barrier()
        if self.args.should_save:
            rotate_checkpoints(
                output_dir=str(run),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=False,
            )
        self._figures.start()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the model folder; where parameters are sharded, every process takes part."""
        folder = self.args.output_dir if output_dir is None else output_dir
        state = unsharded_state(self.model)
        if self.args.should_save:
            self.model.save_pretrained(str(folder), state_dict=state, adapters="adapters")

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        assert self.optimizer is not None
        save_optimizer(Path(output_dir), self.optimizer, self.lr_scheduler, self.model, self.args.should_save)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        assert self.optimizer is not None
        load_optimizer(Path(checkpoint), self.optimizer, self.lr_scheduler, self.model)
        self._mined.load(Path(checkpoint))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.model.load_weights(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        assert self.state.best_model_checkpoint is not None
        logger.info("best checkpoint: %s (%s)", self.state.best_model_checkpoint, self.state.best_metric)
        self.model.load_weights(self.state.best_model_checkpoint)


class _EpochStart(TrainerCallback):
    """Tells the trainer when training and when an epoch begins, before the loader's workers start."""

    def __init__(self, trainer: CoSupervisionTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clocks."""
        self.trainer._figures.begin()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mine hard negatives where they are due, and draw dropped passages anew."""
        self.trainer._begin_epoch(int(state.epoch or 0))
