"""CoSupervisionTrainer: the Hugging Face `Trainer` with both losses, both models in one optimizer step."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer

from cosup.data.collate import CoSupervisionCollator, ExampleDataset
from cosup.data.encoding import ExampleEncoder
from cosup.errors import CosupError, UsageError
from cosup.losses.gradcache import CachedGradients, MicroBatch, RandomState, cache_gradients, surrogate_loss
from cosup.losses.nsp import NSPResult, info_nce
from cosup.losses.ntp import ntp_loss_sum
from cosup.modeling import CoSupervisedModel, PairOutput
from cosup.records import Example, Passage
from cosup.training.config import CoSupervisionConfig
from cosup.training.optimizers import JointOptimizer, hidden_matrices
from cosup.training.sampler import EpochSampler, Topics
from cosup.training.validation import Pool, validate

logger = logging.getLogger(__name__)

Batch = dict[str, Any]


class CoSupervisionTrainer(Trainer):
    """Trains a pair on examples.

    Everything of `Trainer` works as usual (callbacks, trackers, schedules, `resume_from_checkpoint`). Checkpoints are
    plain model folders that `CoSupervisedModel.from_pretrained` and the CLI read.

    Args:
        model: the pair; its similarity and temperature are set from `args`.
        args: the run's settings.
        train_dataset: training examples.
        eval_dataset: held-out examples, or None.
        passages: every passage that the examples name, by id or as a sequence.
        eval_passages: the pool that held-out recall is measured over; by default the passages that the held-out
            examples name.
        kwargs: passed on to `Trainer` (callbacks, optimizers, ..).

    Raises:
        UsageError: there are no examples, or one names a passage that `passages` lacks.
    """

    args: CoSupervisionConfig
    model: CoSupervisedModel

    def __init__(
        self,
        model: CoSupervisedModel,
        args: CoSupervisionConfig,
        train_dataset: Sequence[Example],
        passages: Mapping[str, Passage] | Sequence[Passage],
        eval_dataset: Sequence[Example] | None = None,
        eval_passages: Sequence[Passage] | None = None,
        **kwargs: Any,
    ) -> None:
        model.configure(similarity=args.similarity, temperature=float(args.temperature))
        by_id = passages if isinstance(passages, Mapping) else {p.id: p for p in passages}
        _check_passages([*train_dataset, *(eval_dataset or ())], by_id)
        settings = model.settings
        encoder = ExampleEncoder(
            model.generator_tokenizer, model.control, settings.prompt, settings.max_length, settings.max_passage_length
        )
        collator = CoSupervisionCollator(
            by_id,
            model.passage_encoder,
            int(model.generator_tokenizer.pad_token_id),
            int(model.embedder_tokenizer.pad_token_id),
            settings.max_passage_length,
            args.supervise_passages,
            args.mask_same_passage,
        )
        self._passages = by_id
        self._eval_passages = eval_passages
        self._step_tokens = self._step_retrievals = 1
        self._step_batches: list[Batch] = []
        self._cached: list[CachedGradients] = []
        self._sums = {"ntp": 0.0, "tokens": 0, "nsp": 0.0, "correct": 0, "retrievals": 0}
        super().__init__(
            model=model,
            args=args,
            data_collator=collator,
            train_dataset=ExampleDataset(train_dataset, by_id, encoder),
            eval_dataset=None if eval_dataset is None else ExampleDataset(eval_dataset, by_id, encoder),
            **kwargs,
        )

    # -- the step ------------------------------------------------------------------------------------------------

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor | int | None]:
        """Collect a step's micro-batches and count what they supervise."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._step_tokens = max(1, sum(int((b["labels"][:, 1:] != -100).sum()) for b in batches))
        self._step_retrievals = max(1, sum(len(b["ret_rows"]) for b in batches))
        if len(batches) > 1 and self.args.trains_nsp:
            self._step_batches = [dict(batch) for batch in batches]
            for number, batch in enumerate(batches):
                batch["micro"] = number
        return batches, torch.tensor(self._step_tokens)

    def training_step(
        self, model: nn.Module, inputs: Batch, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Run a micro-batch; before the step's first of several, cache the step's NSP gradients.

        Not earlier: on resuming, `Trainer` restores the random state after it has collected the first batches.
        """
        if inputs.get("micro") == 0:
            self._cached = self._cached_gradients(self._step_batches)
        return super().training_step(model, inputs, num_items_in_batch)

    def _cached_gradients(self, batches: Sequence[Batch]) -> list[CachedGradients]:
        self.model.train()
        micro_batches = []
        for batch in batches:
            inputs = self._prepare_inputs(dict(batch))
            candidates, positives = inputs.pop("candidates"), inputs.pop("positives")
            state = RandomState(self.args.device)
            with torch.no_grad():
                output = self._forward(self.model_wrapped, inputs, with_labels=False)
            assert output.queries is not None
            assert output.passages is not None
            keys = _passage_keys(batch, candidates) if self.args.mask_same_passage else None
            micro_batches.append(MicroBatch(output.queries, output.passages, candidates, positives, keys, state))
        return cache_gradients(micro_batches, self._info_nce)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return this micro-batch's share of `L = L_NTP + lambda * L_NSP` (paper, section 3.3).

        NTP is divided by the step's supervised tokens and NSP by the step's retrievals.
        """
        inputs = dict(inputs)
        micro = inputs.pop("micro", None)
        cached = None if micro is None else self._cached[micro]
        candidates, positives = inputs.pop("candidates"), inputs.pop("positives")
        if cached is None:
            output = self._forward(model, inputs, with_labels=self.args.trains_ntp)
        else:
            with cached.random_state.replayed():
                output = self._forward(model, inputs, with_labels=self.args.trains_ntp)
        loss = self._ntp_loss(output)
        if output.queries is not None and output.passages is not None:
            if cached is None:
                result = self._info_nce(output.queries, output.passages[candidates], positives)
                nsp = result.loss_sum
                self._count_nsp(result)
            else:
                pull = surrogate_loss(output.queries, output.passages, cached)
                value = cached.step.loss_sum if micro == 0 else torch.zeros_like(pull)
                nsp = value + pull - pull.detach()
                if micro == 0:
                    self._count_nsp(cached.step)
            self._sums["retrievals"] += len(output.queries)
            loss = (
                loss + self.args.nsp_weight * nsp / self._step_retrievals
                if self.args.trains_ntp
                else (loss + nsp / self._step_retrievals)
            )
        return (loss, output) if return_outputs else loss

    def _forward(self, model: nn.Module, inputs: Batch, with_labels: bool) -> PairOutput:
        inputs = dict(inputs)
        if not with_labels:
            inputs["labels"] = None
        if not self.args.trains_nsp:
            inputs["ret_rows"] = None
        output: PairOutput = model(**inputs)
        return output

    def _ntp_loss(self, output: PairOutput) -> torch.Tensor:
        if output.logits is None or output.targets is None:
            return torch.zeros((), device=self.args.device)
        total = ntp_loss_sum(output.logits, output.targets)
        self._sums["ntp"] += float(total.detach())
        self._sums["tokens"] += len(output.targets)
        return total / self._step_tokens

    def _info_nce(self, queries: torch.Tensor, candidates: torch.Tensor, positives: torch.Tensor) -> NSPResult:
        return info_nce(queries, candidates, positives, self.args.temperature)

    def _count_nsp(self, result: NSPResult) -> None:
        self._sums["nsp"] += float(result.loss_sum.detach())
        self._sums["correct"] += int(result.correct)

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
                groups.setdefault((name.startswith("generator."), name in decayed), []).append(p)
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

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> EpochSampler:
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        lengths = None
        if self.args.train_sampling_strategy == "group_by_length":
            lengths = [len(dataset[i].input_ids) for i in range(len(dataset))]
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps
        topics = self._topics(dataset.examples) if self.args.same_title_examples > 1 else None
        return EpochSampler(len(dataset), size, seed, lengths, topics)

    def _get_eval_sampler(self, eval_dataset: Dataset[Any]) -> SequentialSampler:
        return SequentialSampler(eval_dataset)  # type: ignore[arg-type]

    def _topics(self, examples: Sequence[Example]) -> Topics:
        """Titles of the examples' first passages; the passage's id where it has none."""
        first = [e.passage_ids[0] if e.passage_ids else "" for e in examples]
        titles = [self._passages[i].title or i if i else "" for i in first]
        return Topics(titles, first, self.args.same_title_examples)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add `ntp_loss`, `nsp_loss` and `nsp_accuracy` since the last log to what is logged."""
        if "loss" in logs:
            if self._sums["tokens"]:
                logs["ntp_loss"] = self._sums["ntp"] / self._sums["tokens"]
            if self._sums["retrievals"]:
                logs["nsp_loss"] = self._sums["nsp"] / self._sums["retrievals"]
                logs["nsp_accuracy"] = self._sums["correct"] / self._sums["retrievals"]
            self._sums = dict.fromkeys(self._sums, 0)
        super().log(logs, start_time)

    # -- evaluation ------------------------------------------------------------------------------------------------

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Measure both losses, in-batch accuracy and held-out recall; see `validation.validate`.

        Returns:
            `eval_loss` (the training objective), `eval_ntp_loss`, `eval_nsp_loss`, `eval_nsp_accuracy`,
            `eval_recall@1`, `eval_recall@10`; shares are of 1.
        """
        dataset: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        if dataset is None:
            raise UsageError("no held-out examples to evaluate on; give the trainer an eval_dataset")
        loader = self.get_eval_dataloader(dataset)
        batches = (self._prepare_inputs(batch) for batch in loader)
        pool = self._pool(dataset) if self.args.trains_nsp else None
        autocast = self.accelerator.autocast()
        found = validate(self.model, batches, pool, autocast, self.args.recall_batch_tokens)
        found["loss"] = self._objective(found)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _objective(self, found: Mapping[str, float]) -> float:
        nsp = found.get("nsp_loss", 0.0)
        if not self.args.trains_ntp:
            return nsp
        return found["ntp_loss"] + (self.args.nsp_weight * nsp if self.args.trains_nsp else 0.0)

    def _pool(self, dataset: ExampleDataset) -> Pool:
        named = [i for n in range(len(dataset)) for i in dataset[n].passage_ids]
        texts = [self._passages[i].rendered for i in named]
        pool = {p.rendered for p in self._eval_passages or ()} | set(texts)
        rows = {text: row for row, text in enumerate(sorted(pool))}
        return Pool([self.model.encode_passage(text) for text in rows], [rows[text] for text in texts])

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = self.args.output_dir if output_dir is None else output_dir
        assert folder is not None
        self.model.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.model.load_weights(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        assert self.state.best_model_checkpoint is not None
        logger.info("best checkpoint: %s (%s)", self.state.best_model_checkpoint, self.state.best_metric)
        self.model.load_weights(self.state.best_model_checkpoint)


def last_complete_checkpoint(folder: str | Path) -> Path | None:
    """Return the newest `checkpoint-N` whose writing was finished, or None. The trainer state is written last."""
    complete = []
    for path in Path(folder).glob("checkpoint-*"):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            complete.append((int(path.name.rpartition("-")[2]), path))
        except (OSError, ValueError):
            continue
    return max(complete)[1] if complete else None


def _passage_keys(batch: Batch, candidates: torch.Tensor) -> list[str]:
    rows = [
        " ".join(str(i) for i in ids[mask.bool()].tolist())
        for ids, mask in zip(batch["passage_input_ids"], batch["passage_attention_mask"], strict=True)
    ]
    return [rows[i] for i in candidates.tolist()]


def _check_passages(examples: Sequence[Example], passages: Mapping[str, Passage]) -> None:
    if not examples:
        raise CosupError("no training examples")
    for example in examples:
        for passage_id in (*example.passage_ids, *example.negatives):
            if passage_id not in passages:
                raise UsageError(f"example '{example.id}' names passage '{passage_id}', which is not there")
