"""CoSupervisionTrainer: the Hugging Face `Trainer` with both losses, both models in one optimizer step."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from random import Random
from typing import Any

import torch
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.tensor import DTensor
from torch.utils.data import Dataset, IterableDataset
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import rotate_checkpoints

from cosup.checkpoints import attends_by
from cosup.data.collate import CoSupervisionCollator, ExampleDataset, passage_key, token_counts
from cosup.data.dropout import PassageDropout
from cosup.data.encoding import EncodedExample, ExampleEncoder
from cosup.data.stream import StreamedExamples
from cosup.errors import CosupError, UsageError
from cosup.heap import keep_freed_memory
from cosup.lean import make_lean
from cosup.modeling import CoSupervisedModel
from cosup.pair import PairOutput
from cosup.processes import barrier, gather_objects, max_over, rank, world_size
from cosup.records import Example, Passage
from cosup.training.config import CoSupervisionConfig, check_pairing
from cosup.training.figures import Figures, grad_norm
from cosup.training.frozen import PassageVectors, passage_vectors
from cosup.training.mining import Mined, Wanted, pick_negatives
from cosup.training.optimizers import JointOptimizer, hidden_matrices, load_state_by_name, state_by_name
from cosup.training.sampler import Curriculum, EpochSampler, Topics
from cosup.training.saving import STATE, last_complete_checkpoint, whole_folder
from cosup.training.step import Batch, StepLoss
from cosup.training.sweep import embed_lists, level, query_packs
from cosup.training.validation import Pool, validate

logger = logging.getLogger(__name__)

_NAMED = 64  # examples of a contrast that a message names
OPTIMIZER, SCHEDULER, STEP = "optimizer.pt", "scheduler.pt", "step.json"
_INPUTS = (
    "input_ids",
    "attention_mask",
    "lengths",
    "labels",
    "ret_rows",
    "ret_columns",
    "passage_input_ids",
    "passage_attention_mask",
    "passage_lengths",
)


class CoSupervisionTrainer(Trainer):
    """Trains a pair on examples, on one device or many (`torchrun`; DDP, or FSDP2 with `fsdp`).

    Everything of `Trainer` works as usual (callbacks, trackers, schedules, `resume_from_checkpoint`). Checkpoints are
    plain model folders that `CoSupervisedModel.from_pretrained` and the CLI read, whatever the sharding, and a run may
    go on from them on another number of devices.

    Args:
        model: the pair; its similarity and temperature are set from `args`.
        args: the run's settings.
        train_dataset: training examples; a sequence, or an `IterableDataset` of examples that streams them.
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
        train_dataset: Sequence[Example] | IterableDataset[Example],
        passages: Mapping[str, Passage] | Sequence[Passage],
        eval_dataset: Sequence[Example] | None = None,
        eval_passages: Sequence[Passage] | None = None,
        **kwargs: Any,
    ) -> None:
        _configure(model, args)
        by_id = passages if isinstance(passages, Mapping) else {p.id: p for p in passages}
        streams = isinstance(train_dataset, IterableDataset)
        check_pairing(args, model.base is not None, model.shared)
        if args.attention in ("flash", "flex") and not attends_by(model.generator, args.attention):
            raise UsageError(f"attention is '{args.attention}'; load the pair with it: from_base(.., attention=..)")
        _check_settings(args, None if streams else len(train_dataset))  # type: ignore[arg-type]
        if streams:
            sharing: Any = args.accelerator_config
            sharing.dispatch_batches = False  # every process reads the stream and takes its share
        _check_passages([*(() if streams else train_dataset), *(eval_dataset or ())], by_id, streams)
        _freeze_unused(model, args)
        _unprepare(model)
        if args.use_cpu:
            keep_freed_memory()
        if args.bf16 or args.fp16:
            for part in model.trees():
                make_lean(part)
        if args.fsdp:
            model.unshare_layers()
        self._passages = by_id
        self._eval_passages = eval_passages
        self._encoder = model.example_encoder()
        self._mined = Mined()
        self._dropout = PassageDropout(args.passage_dropout, args.seed)
        self._frozen: PassageVectors | None = None
        self._step: StepLoss | None = None
        self._extra: list[str] = []
        self._figures = Figures()
        self._collate = self._loader_collator(model, args)
        super().__init__(
            model=model,
            args=args,
            data_collator=self._collate,
            train_dataset=self._encoded(train_dataset),
            eval_dataset=None if eval_dataset is None else ExampleDataset(eval_dataset, by_id, self._encoder),
            **kwargs,
        )
        self.add_callback(_EpochStart(self))
        if args.freeze_embedder and args.trains_nsp and not streams:
            folder, size = Path(str(args.output_dir)), args.recall_batch_tokens
            with self.accelerator.autocast():
                self._frozen = passage_vectors(model, list(by_id.values()), folder, size, args.device)
            self.data_collator = self._collate = self._loader_collator(model, args)

    def _encoded(self, examples: Any) -> Any:
        if isinstance(examples, StreamedExamples):
            examples.encode = functools.partial(_encode, self._encoder, self._passages)
            return examples
        return ExampleDataset(examples, self._passages, self._encoder, self._mined.negatives, self._dropout)

    def _loader_collator(self, model: CoSupervisedModel, args: CoSupervisionConfig) -> Collate:
        return Collate(self._collator(model, args), args.trains_nsp)

    def _collator(
        self, model: CoSupervisedModel, args: CoSupervisionConfig, plain: bool = False
    ) -> CoSupervisionCollator:
        """Return the collator; a plain one makes one pack of a batch, with passages known by their text."""
        return CoSupervisionCollator(
            self._passages,
            model.passage_encoder,
            int(model.generator_tokenizer.pad_token_id),
            int(model.embedder_tokenizer.pad_token_id),
            model.settings.max_passage_length,
            args.supervise_passages,
            args.mask_same_passage or plain,
            packing=args.packing and model.can_pack,
            micro_batch_tokens=None if plain else args.micro_batch_tokens,
            passage_rows=None if plain or self._frozen is None else self._frozen.rows,
        )

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
        extra, self._extra = self._extra_packs(ids)
        batches[0]["packs"] = [*extra, *batches[0]["packs"]]
        self._level(batches)
        packs = [pack for batch in batches for pack in batch["packs"]]
        weight = self.args.nsp_weight_at(self.state.global_step, self.state.max_steps)
        self._step = StepLoss(packs, self.args, self.args.device, ids, weight)
        first = 0
        for batch in batches:
            batch["first"] = first
            first += len(batch["packs"])
        self._count_tokens(packs)
        return batches, torch.tensor(self._step.counts.tokens)

    def _level(self, batches: Sequence[Batch]) -> None:
        """Add empty packs, so that every device runs as many: sharded models wait for one another in each."""
        most = max_over([float(len(batch["packs"])) for batch in batches], self.args.device)
        for batch, count in zip(batches, most, strict=True):
            batch["packs"] += [self._collate.collator.empty_pack() for _ in range(int(count) - len(batch["packs"]))]

    def _extra_packs(self, ids: Sequence[str]) -> tuple[list[Batch], list[str]]:
        """Return packs of examples that only add to this step's contrast, drawn by seed and step, and whose they are.

        Args:
            ids: the step's own examples on this device; none of any device's is drawn.
        """
        if self.args.nsp_batch_size is None or not self.args.trains_nsp:
            return [], []
        step = {i for part in gather_objects(list(ids)) for i in part}
        more = self.args.nsp_batch_size - len(step)
        dataset: Any = self.train_dataset
        draw = Random(self.args.seed * 1_000_003 + 500_009 + self.state.global_step)
        drawn = draw.sample(range(len(dataset)), min(len(dataset), more + len(step)))
        others = [i for i in drawn if dataset.examples[i].id not in step][:more]
        own = others[rank() :: world_size()]
        queries = [q for q in (dataset[i].queries_only() for i in own) if q is not None]
        size = self.args.train_batch_size
        groups = [queries[i : i + size] for i in range(0, len(queries), size)]
        packs = [pack for group in groups for pack in self._collate.collator(group)["packs"]]
        return packs, [q.example_id for q in queries]

    def _count_tokens(self, packs: Sequence[Batch]) -> None:
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
                    loss = self._step.loss(lambda batch: self._forward(model, batch), pack, inputs["first"] + index)
                self.accelerator.backward(loss)
            total += loss.detach()
        self._figures.add(**self._step.take_sums())
        if not torch.isfinite(total):
            raise CosupError(self._diverged(f"the loss is {float(total)}"))
        return total

    def _vectors(self, pack: Batch) -> PairOutput:
        """Run a pack without a graph, for its vectors alone."""
        model: nn.Module = self.model  # not DDP's wrapper: that would wait for gradients
        with torch.no_grad(), self.compute_loss_context_manager():
            return self._forward(model, {name: value for name, value in pack.items() if name != "labels"})

    def _forward(self, model: nn.Module, pack: Batch) -> PairOutput:
        inputs = {name: pack[name] for name in _INPUTS if name in pack}
        if not self.args.trains_ntp:
            inputs.pop("labels", None)
        if not self.args.trains_nsp:
            inputs.pop("ret_rows")
        if self._frozen is not None and "passage_rows" in pack:
            inputs["passage_vectors"] = self._frozen.table[pack["passage_rows"].cpu()]
        output: PairOutput = model(**self._prepare_inputs(inputs))
        return output

    def _diverged(self, what: str) -> str:
        assert self._step is not None
        good = last_complete_checkpoint(str(self.args.output_dir))
        shown = ", ".join(self._step.ids)
        if self._extra:
            more = len(self._extra) - _NAMED
            shown += f"; contrasted with {', '.join(self._extra[:_NAMED])}" + (f" and {more} more" if more > 0 else "")
        shown += f" (on process {rank()})" if world_size() > 1 else ""
        back = f"the last good checkpoint is {good}" if good else "there is no checkpoint yet"
        return (
            f"training diverged at step {self.state.global_step + 1}: {what}; examples of the step: "
            f"{shown}; {back}; lower the learning rate or check these examples"
        )

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        self._note_norms()
        return super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        if grad_norm is None:  # nothing was clipped
            self._note_norms()
        return super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[no-untyped-call]

    def _note_norms(self) -> None:
        generator, embedder = self._own(self.model.generator), self._own(self.model.embedder)
        scaler = self.accelerator.scaler  # of float16, whose gradients are still scaled here
        scale = 1.0 if scaler is None else float(scaler.get_scale())
        norms = {"generator": grad_norm(generator) / scale, "embedder": grad_norm(embedder) / scale}
        self._figures.set_norms(**norms)
        if not all(map(isfinite, norms.values())) and not self.args.fp16:  # float16 skips such steps itself
            raise CosupError(self._diverged("the gradients are not finite"))

    def _own(self, part: nn.Module) -> Iterator[nn.Parameter]:
        """Give a model's trained parameters; those it shares with the generator count as the generator's."""
        shared = {id(p) for p in self.model.generator.parameters()} if part is not self.model.generator else set()
        return (p for p in part.parameters() if p.requires_grad and id(p) not in shared)

    # -- optimizer, order, log -------------------------------------------------------------------------------------

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Build the optimizer: groups by model, so that the embedder may have its own learning rate; Muon if asked."""
        if self.optimizer is None:
            source: Any = self.model if model is None else model
            cls, kwargs = self.get_optimizer_cls_and_kwargs(self.args, source)
            matrices = hidden_matrices(source.generator) if self.args.muon_learning_rate is not None else {}
            by_muon = {id(p) for p in matrices.values()}
            main = cls([g for g in self._groups(source, by_muon) if g["params"]], **kwargs)
            self.optimizer = JointOptimizer([main, self._muon(list(matrices.values()))]) if matrices else main
        return self.optimizer

    def _groups(self, source: Any, taken: set[int]) -> list[dict[str, Any]]:
        """Return parameter groups by model and by whether weights decay, without the parameters already taken."""
        decayed = set(self.get_decay_parameter_names(source))
        rate = self.args.learning_rate
        embedder_rate = rate if self.args.embedder_learning_rate is None else self.args.embedder_learning_rate
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, p in source.named_parameters():
            if p.requires_grad and id(p) not in taken:
                decays = name in decayed and name != "log_temperature"
                groups.setdefault((name.startswith("generator."), decays), []).append(p)
        return [
            {
                "params": chosen,
                "weight_decay": self.args.weight_decay if decays else 0.0,
                "lr": rate if is_generator else embedder_rate,
            }
            for (is_generator, decays), chosen in groups.items()
        ]

    def _muon(self, matrices: list[nn.Parameter]) -> torch.optim.Optimizer:
        rate = self.args.muon_learning_rate
        assert rate is not None
        return torch.optim.Muon(matrices, lr=rate, weight_decay=self.args.weight_decay, adjust_lr_fn="match_rms_adamw")

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Build the schedule that `lr_scheduler_type` names, times `lr_epoch_decay` for every epoch that is over."""
        fresh = self.lr_scheduler is None
        made: Any = super().create_scheduler(num_training_steps, optimizer)
        if fresh and self.args.lr_epoch_decay != 1:
            if not hasattr(made, "lr_lambdas"):
                kind = self.args.lr_scheduler_type
                raise UsageError(
                    f"lr_epoch_decay cannot be had with lr_scheduler_type '{kind}'; take constant or linear"
                )
            dataset: Any = self.train_dataset
            steps = -(-len(dataset) // self._examples_a_step)
            made.lr_lambdas = [_decayed(each, self.args.lr_epoch_decay, steps) for each in made.lr_lambdas]
        return made

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> EpochSampler:
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        lengths = None
        packs = self.args.packing and self.model.can_pack
        if self.args.train_sampling_strategy == "group_by_length" or not packs:  # padding is what is to be saved
            lengths = [len(dataset.whole(i).input_ids) for i in range(len(dataset))]
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        size = self._examples_a_step
        topics = self._topics(dataset.examples) if self.args.same_title_examples > 1 else None
        hops = [len(e.passage_ids) for e in dataset.examples] if self.args.curriculum_steps else None
        first = None if hops is None else Curriculum(hops, self.args.curriculum_steps * size)
        return EpochSampler(len(dataset), size, seed, lengths, topics, first)

    def _topics(self, examples: Sequence[Example]) -> Topics:
        """Titles of the examples' first passages; the passage's id where it has none."""
        first = [e.passage_ids[0] if e.passage_ids else "" for e in examples]
        titles = [self._passages[i].title or i if i else "" for i in first]
        return Topics(titles, first, self.args.same_title_examples)

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
            self._check_step_size(Path(checkpoint))
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

    def _check_step_size(self, checkpoint: Path) -> None:
        """Refuse to go on with steps of another size: places in the data are counted in steps."""
        file = checkpoint / STEP
        made = json.loads(file.read_text(encoding="utf-8"))["examples"] if file.is_file() else self._examples_a_step
        if made != self._examples_a_step:
            raise UsageError(
                f"{checkpoint} was made with {made} examples a step, and this start has {self._examples_a_step}; set "
                "per_device_train_batch_size x gradient_accumulation_steps x devices to the same"
            )

    # -- hard negatives and frozen embedders -----------------------------------------------------------------------

    def _begin_epoch(self, epoch: int) -> None:
        """Draw which passages are dropped; mine hard negatives, unless a checkpoint has brought them."""
        self._dropout.epoch = epoch
        every = self.args.hard_negatives_every
        if not self.args.hard_negatives or epoch == 0 or epoch % every or self._mined.epoch == epoch:
            return
        dataset: Any = self.train_dataset
        examples = [dataset.whole(i) for i in range(len(dataset))]
        passages = list(self._passages.values())
        training = self.model.training
        self.model.eval()
        with self.accelerator.autocast():
            vectors = self._embed_passages(passages)
            wanted, queries = self._queries(examples)
        self.model.train(training)
        count, depth = self.args.hard_negatives, self.args.hard_negatives_depth
        seed = self.args.seed * 1_000_003 + epoch
        self._mined.replace(pick_negatives(queries, wanted, vectors, passages, count, depth, seed), epoch)
        self._figures.start()

    def _embed_passages(self, passages: Sequence[Passage]) -> torch.Tensor:
        texts = list(dict.fromkeys(p.rendered for p in passages))
        rows = {text: row for row, text in enumerate(texts)}
        encoded = [self.model.encode_passage(text) for text in texts]
        table = embed_lists(self.model, encoded, self.args.recall_batch_tokens)
        return table[[rows[p.rendered] for p in passages]]

    def _queries(self, examples: Sequence[EncodedExample]) -> tuple[list[Wanted], torch.Tensor]:
        """Compute the queries of all examples, shared out over the devices: whose they are, and [R, D]."""
        own = [q for q in (e.queries_only() for e in examples[rank() :: world_size()]) if q is not None]
        own.sort(key=lambda e: len(e.input_ids))
        size = self.args.per_device_eval_batch_size
        groups = [own[i : i + size] for i in range(0, len(own), size)]
        collate = self._collator(self.model, self.args, plain=True)
        packs = [pack for group in groups for pack in collate(group)["packs"]]
        order = [Wanted(e.example_id, tuple(e.passage_ids), e.answer) for e in own for _ in e.ret_positions]
        queries = query_packs(self.model, level(packs, collate.empty_pack(), self.args.device))
        parts = gather_objects((order, queries))
        return [want for wants, _ in parts for want in wants], torch.cat([found for _, found in parts])

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
        examples = [dataset[i] for i in range(len(dataset))]
        pool = self._pool(examples) if self.args.trains_nsp else None
        with self.accelerator.autocast():
            found = validate(self.model, self._eval_packs(examples), pool, self.args.recall_batch_tokens)
        found["loss"] = self._objective(found)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._figures.start()
        return metrics

    def _eval_packs(self, examples: Sequence[EncodedExample]) -> list[Batch]:
        """Collate this device's share of the held-out examples, one pack a batch."""
        own = examples[rank() :: world_size()]
        size = self.args.per_device_eval_batch_size
        collate = self._collator(self.model, self.args, plain=True)
        packs = [pack for i in range(0, len(own), size) for pack in collate(own[i : i + size])["packs"]]
        return [self._prepare_inputs(pack) for pack in level(packs, collate.empty_pack(), self.args.device)]

    def _objective(self, found: Mapping[str, float]) -> float:
        nsp = found.get("nsp_loss", 0.0)
        if not self.args.trains_ntp:
            return nsp
        return found["ntp_loss"] + (self.args.nsp_weight * nsp if self.args.trains_nsp else 0.0)

    def _pool(self, examples: Sequence[EncodedExample]) -> Pool:
        texts = {self._passages[i].rendered for e in examples for i in e.passage_ids}
        texts |= {p.rendered for p in self._eval_passages or ()}
        encoded = [self.model.encode_passage(text) for text in sorted(texts)]
        return Pool(encoded, {passage_key(ids): row for row, ids in enumerate(encoded)})

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
                self._save_state(draft)
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

    def _save_state(self, folder: Path) -> None:
        kept: Any = self.state.stateful_callbacks
        for callback in [*self.callback_handler.callbacks, self.control]:
            if isinstance(callback, ExportableState):
                name, state = callback.__class__.__name__, callback.state()
                if isinstance(kept.get(name), list):
                    kept[name].append(state)
                else:
                    kept[name] = state
        (folder / STEP).write_text(json.dumps({"examples": self._examples_a_step}), encoding="utf-8")
        self.state.save_to_json(str(folder / STATE))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the model folder; where parameters are sharded, every process takes part."""
        folder = self.args.output_dir if output_dir is None else output_dir
        state = self.unsharded_state()
        if self.args.should_save:
            self.model.save_pretrained(str(folder), state_dict=state, adapters="adapters")

    def unsharded_state(self) -> dict[str, Any] | None:
        """Return the whole weights where the model is sharded (a collective call), else None: it holds them itself."""
        if not any(isinstance(p, DTensor) for p in self.model.parameters()):
            return None
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return dict(get_model_state_dict(self.model, options=options))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        assert self.optimizer is not None
        assert self.lr_scheduler is not None
        state = state_by_name(self.optimizer, self.model, self.args.should_save)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        if not (Path(checkpoint) / OPTIMIZER).is_file():
            raise UsageError(
                f"{checkpoint} holds the model alone (save_only_model), and training cannot go on without its "
                "optimizer; start anew with another --output_dir"
            )
        assert self.optimizer is not None
        assert self.lr_scheduler is not None
        saved = torch.load(Path(checkpoint) / OPTIMIZER, weights_only=True, mmap=True)  # read as it is copied
        load_state_by_name(self.optimizer, self.model, saved)
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER, weights_only=True))
        self._mined.load(Path(checkpoint))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.model.load_weights(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        assert self.state.best_model_checkpoint is not None
        logger.info("best checkpoint: %s (%s)", self.state.best_model_checkpoint, self.state.best_metric)
        self.model.load_weights(self.state.best_model_checkpoint)


class Collate:
    """Makes the loader's batches: packs and the ids of their examples; a stream's empty places are left out."""

    def __init__(self, collator: CoSupervisionCollator, retrieves: bool = True) -> None:
        self.collator = collator
        self.retrieves = retrieves

    def __call__(self, examples: Sequence[EncodedExample | None]) -> Batch:
        """Return `{"packs", "ids"}`."""
        there = [e for e in examples if e is not None]
        if not self.retrieves:
            there = [replace(e, ret_positions=[], passage_ids=[], negatives=()) for e in there]
        packs = self.collator(there)["packs"] if there else [self.collator.empty_pack()]
        return {"packs": packs, "ids": [e.example_id for e in there]}


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


def _decayed(factor: Callable[[int], float], decay: float, steps: int) -> Callable[[int], float]:
    """Return a schedule's factor times `decay` for every `steps` steps that are over."""
    return lambda step: factor(step) * decay ** (step // steps)


def _unprepare(model: nn.Module) -> None:
    """Let a pair that an earlier trainer has had be prepared again.

    accelerate marks what it has prepared and leaves it alone from then on, with the precision of that first run.
    """
    if any(isinstance(p, DTensor) for p in model.parameters()):
        return
    if model.__dict__.pop("_is_accelerate_prepared", False):
        for name in ("forward", "_original_forward"):
            model.__dict__.pop(name, None)


def shard_on_cpu(accelerator: Any, plugin_args: Any) -> None:
    """Switch an accelerator that runs on CPUs to FSDP2; accelerate itself does so on accelerators alone."""
    plugin = FullyShardedDataParallelPlugin(**plugin_args)
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin


def _configure(model: CoSupervisedModel, args: CoSupervisionConfig) -> None:
    """Put the objective into the pair."""
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


def _encode(encoder: ExampleEncoder, passages: Mapping[str, Passage], example: Example) -> EncodedExample:
    return encoder.example(example, passages)


def _check_settings(args: CoSupervisionConfig, examples: int | None) -> None:
    """Refuse what goes together with nothing here; of a stream (None), what needs a second look at its examples."""
    step = args.train_batch_size * args.gradient_accumulation_steps * world_size()
    if args.nsp_batch_size is not None and args.nsp_batch_size < step:
        raise UsageError(f"nsp_batch_size is {args.nsp_batch_size}; expected at least the {step} examples of a step")
    asked = {
        "nsp_batch_size": args.nsp_batch_size is not None,
        "hard_negatives": args.hard_negatives > 0,
        "same_title_examples": args.same_title_examples > 1,
        "passage_dropout": args.passage_dropout > 0,
        "curriculum_steps": args.curriculum_steps > 0,
        "lr_epoch_decay": args.lr_epoch_decay != 1,
        "train_sampling_strategy": args.train_sampling_strategy == "group_by_length",
    }
    if examples is None and (name := next((name for name, wanted in asked.items() if wanted), None)):
        raise UsageError(f"{name} needs examples that are not streamed; leave it out, or set data.streaming to false")
    anew = {"hard_negatives": args.hard_negatives > 0, "passage_dropout": args.passage_dropout > 0}
    if args.dataloader_persistent_workers and (name := next((name for name, wanted in anew.items() if wanted), None)):
        raise UsageError(f"{name} needs loader workers that start anew; set dataloader_persistent_workers to false")
    if args.hard_negatives and examples is not None:
        _check_mining(args, examples, step)


def _check_mining(args: CoSupervisionConfig, examples: int, step: int) -> None:
    """Refuse a run that is over before hard negatives are mined for the first time."""
    an_epoch = max(1, -(-examples // step))
    epochs = args.max_steps / an_epoch if args.max_steps > 0 else args.num_train_epochs
    if epochs <= args.hard_negatives_every:
        when = "an epoch" if args.hard_negatives_every == 1 else f"{args.hard_negatives_every} epochs"
        raise UsageError(
            f"hard_negatives are mined after {when}, and this run has {epochs:.3g} in all; train longer or drop them"
        )


def _check_passages(examples: Sequence[Example], passages: Mapping[str, Passage], streams: bool) -> None:
    if not examples and not streams:
        raise CosupError("no training examples")
    for example in examples:
        for passage_id in (*example.passage_ids, *example.negatives):
            if passage_id not in passages:
                raise UsageError(f"example '{example.id}' names passage '{passage_id}', which is not there")
