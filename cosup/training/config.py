"""Settings of a training run, in the form users of the Hugging Face `Trainer` know."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from importlib.util import find_spec
from typing import Any

import torch
from torch import distributed
from transformers import TrainingArguments

from cosup import checkpoints
from cosup.errors import UsageError, did_you_mean
from cosup.model_folder import SIMILARITIES
from cosup.pooling import POOLINGS

SUPERVISIONS = ("ntp+nsp", "ntp", "nsp")
ORDERS = ("random", "group_by_length")

GATHERS = ("full", "own")

# What `TrainingArguments` has and this trainer would ignore or break on.
UNSUPPORTED = (
    "label_smoothing_factor",
    "neftune_noise_alpha",
    "use_liger_kernel",
    "deepspeed",
    "push_to_hub",
    "torch_empty_cache_steps",
    "auto_find_batch_size",
    "resume_from_checkpoint",  # a run goes on by itself from its newest whole checkpoint
    "bf16_full_eval",  # evaluation is cosup's own
    "fp16_full_eval",
    "prediction_loss_only",
    "batch_eval_metrics",
    "include_for_metrics",
)
_OF_NSP = (
    *("nsp_batch_size", "hard_negatives", "symmetric_nsp", "mask_same_answer", "learn_temperature"),
    *("pooling", "nsp_weight_end", "nsp_warmup_steps"),
)
_OF_BOTH = ("nsp_weight_end", "nsp_warmup_steps")  # how two losses weigh against each other
# Trackers of transformers that are known here: module, and what pip calls it.
_TRACKERS = {
    "tensorboard": ("tensorboard", "tensorboard"),
    "trackio": ("trackio", "trackio"),
    "wandb": ("wandb", "wandb"),
    "mlflow": ("mlflow", "mlflow"),
    "comet_ml": ("comet_ml", "comet_ml"),
    "clearml": ("clearml", "clearml"),
    "codecarbon": ("codecarbon", "codecarbon"),
    "dvclive": ("dvclive", "dvclive"),
    "neptune": ("neptune", "neptune"),
    "swanlab": ("swanlab", "swanlab"),
}
_OPTIONAL = (
    "embedder_learning_rate",
    "muon_learning_rate",
    "micro_batch_tokens",
    "nsp_batch_size",
    "nsp_weight_end",
    "ntp_chunk_tokens",
    "save_minutes",
)
_AT_LEAST = {
    "nsp_weight": 0,
    "nsp_weight_end": 0,
    "nsp_warmup_steps": 0,
    "passage_dropout": 0,
    "curriculum_steps": 0,
    "temperature": 0,
    "learning_rate": 0,
    "embedder_learning_rate": 0,
    "lr_epoch_decay": 0,
    "muon_learning_rate": 0,
    "num_train_epochs": 0,
    "same_title_examples": 1,
    "recall_batch_tokens": 1,
    "micro_batch_tokens": 1,
    "nsp_batch_size": 2,
    "ntp_chunk_tokens": 1,
    "hard_negatives": 0,
    "hard_negatives_depth": 1,
    "hard_negatives_every": 1,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "max_steps": -1,
    "save_minutes": 0,
    "ddp_timeout": 1,
    "seed": 0,
}

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "similarity": "inner_product",
        "temperature": 1.0,
        "nsp_weight": 0.01,
        "supervise_passages": True,
        "mask_same_passage": False,
        "gather": "own",
    },
}


@dataclass
class CoSupervisionConfig(TrainingArguments):
    """`TrainingArguments` plus the co-supervision objective.

    A step is `per_device_train_batch_size x gradient_accumulation_steps` examples on every device. It is cut into packs
    of at most `micro_batch_tokens` tokens, each run by itself; the result does not depend on the cut: both losses are
    averaged over the global batch, and in-batch negatives come from the whole step on all devices (GradCache where
    there are several packs). Gradient clipping (`max_grad_norm`) covers both models.

    Args:
        supervision: `ntp+nsp`, `ntp` (writing only) or `nsp` (retrieving only).
        nsp_weight: lambda in `L = L_NTP + lambda * L_NSP` (paper, section 3.3; the paper uses 0.01).
        nsp_weight_end: lambda at the last step; it goes there in a straight line. None keeps `nsp_weight`.
        nsp_warmup_steps: steps over which lambda first rises from 0 to `nsp_weight`.
        similarity: `cosine` or `inner_product` (the paper's).
        temperature: divides the similarity in the NSP loss (the paper has none: 1.0).
        pooling: how the embedder's token states become a vector, one of `pooling.POOLINGS`; None keeps the pair's own:
            what its embedder's folder of sentence-transformers says, else the last token's state (paper, section 3).
        learn_temperature: whether the temperature is learnt, from `temperature` on.
        symmetric_nsp: whether the passages also have to pick their queries; the loss is the mean of both directions.
        supervise_passages: whether NTP also learns the spliced passages (the paper does).
        passage_dropout: share of the spliced passages that the generator does not get to read, drawn anew every epoch;
            they still are what their `[Ret]` must pick.
        mask_same_passage: whether the same passage twice in a step is kept from being its own negative.
        mask_same_answer: whether the passage of another example with the same final answer is no negative.
        gather: `full` sends gradients to the passages of other devices, `own` (the paper's) does not; a passage that
            another device has brought first then gets none here.
        attention: `auto`, `sdpa`, `flash` or `flex`, of both models. `auto` takes FlashAttention where it is installed
            and training runs on a GPU in half precision, else `sdpa`, which is cosup's own for packed rows.
        packing: whether sequences stand one after another in one row without padding, where both models allow it.
        micro_batch_tokens: generator or embedder tokens of a pack at most; None makes one pack of a loader's batch.
        grad_cache: False contrasts each pack by itself (with the packs that other devices run at the time).
        nsp_batch_size: examples contrasted in a step over all devices; above the step's own, others are drawn from the
            training data for retrieval alone (no NTP). None takes the step's own.
        ntp_chunk_tokens: supervised positions whose logits are alive at a time; None suits it to the device.
        hard_negatives: passages mined for each `[Ret]` from an index of the present embedder; 0 mines none.
        hard_negatives_depth: how far down the ranking they are drawn from.
        hard_negatives_every: epochs between two minings.
        freeze_embedder: whether the embedder stays as it is; its passage vectors are then computed once, but for
            examples that are streamed.
        embedder_learning_rate: the embedder's and projection's learning rate; None takes `learning_rate`.
        muon_learning_rate: learning rate of Muon for the generator's hidden matrices, in the scale of AdamW's; the rest
            keeps `optim`. None does not use Muon.
        same_title_examples: how many examples whose first passages share a title stand together in a batch, as hard
            negatives for one another; 1 does not group.
        curriculum_steps: steps at the beginning that take the examples with the fewest retrievals (single-hop before
            multi-hop questions), within the first epoch; 0 mixes all from the start.
        lr_epoch_decay: factor on all learning rates after each epoch (the paper's 0.85), on top of the schedule.
        save_minutes: minutes after which a checkpoint is written beside those that `save_strategy` asks for, so that no
            more than these are lost, however long a step takes; None goes by `save_strategy` alone.
        save_adapters: of LoRA, whether the model folder at the end holds adapters beside their base's name, in place of
            merged weights.
        recall_batch_tokens: tokens a batch when passages are embedded for held-out recall.
    """

    output_dir: str | None = field(default="runs/train")
    supervision: str = field(default="ntp+nsp")
    nsp_weight: float = field(default=0.2)
    nsp_weight_end: float | None = field(default=None)
    nsp_warmup_steps: int = field(default=0)
    similarity: str = field(default="cosine")
    temperature: float = field(default=0.05)
    pooling: str | None = field(default=None)
    supervise_passages: bool = field(default=False)
    passage_dropout: float = field(default=0.0)
    mask_same_passage: bool = field(default=True)
    mask_same_answer: bool = field(default=False)
    learn_temperature: bool = field(default=False)
    symmetric_nsp: bool = field(default=False)
    gather: str = field(default="full")
    attention: str = field(default="auto")
    packing: bool = field(default=True)
    micro_batch_tokens: int | None = field(default=None)
    grad_cache: bool = field(default=True)
    nsp_batch_size: int | None = field(default=None)
    ntp_chunk_tokens: int | None = field(default=None)
    hard_negatives: int = field(default=0)
    hard_negatives_depth: int = field(default=50)
    hard_negatives_every: int = field(default=1)
    freeze_embedder: bool = field(default=False)
    embedder_learning_rate: float | None = field(default=None)
    muon_learning_rate: float | None = field(default=None)
    same_title_examples: int = field(default=1)
    curriculum_steps: int = field(default=0)
    lr_epoch_decay: float = field(default=1.0)
    save_minutes: float | None = field(default=None)
    save_adapters: bool = field(default=False)
    recall_batch_tokens: int = field(default=8192)
    remove_unused_columns: bool = field(default=False)
    report_to: str | list[str] | None = field(default="none")
    logging_nan_inf_filter: bool = field(default=False)
    activation_checkpointing: bool | None = field(default=None)
    ddp_find_unused_parameters: bool | None = field(default=False)
    ddp_broadcast_buffers: bool | None = field(default=False)

    def __post_init__(self) -> None:
        """Check the objective, then what `TrainingArguments` checks.

        Raises:
            UsageError: a setting of the objective cannot be used; the message names it.
        """
        _check_choice("supervision", self.supervision, SUPERVISIONS)
        _check_choice("similarity", self.similarity, SIMILARITIES)
        _check_choice("gather", self.gather, GATHERS)
        if self.pooling is not None:
            _check_choice("pooling", self.pooling, POOLINGS)
        _check_choice("attention", self.attention, checkpoints.ATTENTIONS)
        _check_choice("train_sampling_strategy", self.train_sampling_strategy, ORDERS)
        _check_numbers({name: getattr(self, name) for name in _AT_LEAST})
        for name in UNSUPPORTED:
            if getattr(self, name, None):
                raise UsageError(f"{name} is {getattr(self, name)!r}; cosup cannot train with it, leave it out")
        _check_trackers(self.report_to)
        sharding = self.fsdp_config if isinstance(self.fsdp_config, dict) else {}
        if sharding.get("activation_checkpointing"):
            raise UsageError("fsdp_config has activation_checkpointing; set activation_checkpointing itself instead")
        if not torch.accelerator.is_available():
            self.use_cpu = True  # TrainingArguments takes bf16 on a CPU only where the CPU is asked for
        self._name_checkpointing()
        self._meet()
        super().__post_init__()  # type: ignore[no-untyped-call]
        idle = None if self.trains_nsp else next((name for name in _OF_NSP if getattr(self, name)), None)
        if idle is not None:
            raise UsageError(f"{idle} is for retrieval, which supervision 'ntp' does not train; leave out one of them")
        alone = None if self.trains_ntp else next((name for name in _OF_BOTH if getattr(self, name)), None)
        if alone is not None:
            raise UsageError(f"{alone} weighs retrieval against writing, which is not trained here; leave it out")
        if self.nsp_batch_size is not None and not self.grad_cache:
            raise UsageError("nsp_batch_size needs grad_cache; leave out one of them")
        if self.muon_learning_rate is not None and self.fsdp:
            raise UsageError("muon_learning_rate needs whole matrices; it cannot be used with fsdp")

    def nsp_weight_at(self, step: int, steps: int) -> float:
        """Return lambda of one step (paper, section 3.3, where it is the same throughout).

        Args:
            step: counted from 0.
            steps: of the whole run.
        """
        warm = self.nsp_warmup_steps
        if step < warm:
            return self.nsp_weight * (step + 1) / (warm + 1)
        end = self.nsp_weight if self.nsp_weight_end is None else self.nsp_weight_end
        return self.nsp_weight + (end - self.nsp_weight) * (step - warm) / max(1, steps - 1 - warm)

    def _meet(self) -> None:
        """Join the other processes of a run on CPUs under its `ddp_timeout`, which transformers keeps for accelerators.

        Without it one process that hangs would let the others wait for half an hour.
        """
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ
        if self.use_cpu and several and not distributed.is_initialized():
            distributed.init_process_group(self.ddp_backend or "gloo", timeout=timedelta(seconds=self.ddp_timeout))

    @property
    def chosen_attention(self) -> str:
        """What to load the models with on this machine, one of `checkpoints.ATTENTIONS`.

        Raises:
            UsageError: it cannot be had here.
        """
        half = self.bf16 or self.fp16
        if self.attention == "auto":
            return "auto" if half and not self.use_cpu else "sdpa"
        checkpoints.check_attention(self.attention)
        if self.attention == "flash" and not (half and not self.use_cpu):
            raise UsageError("attention is 'flash', which needs a GPU and half precision; set bf16 or leave it out")
        if self.attention == "flex" and self.use_cpu:
            raise UsageError("attention is 'flex', which torch cannot train with on a CPU; leave it out")
        return self.attention

    def _name_checkpointing(self) -> None:
        """Take either name of activation checkpointing; transformers changed it between 5.17 and 5.23."""
        self.activation_checkpointing = self.activation_checkpointing or self.gradient_checkpointing
        newer = any(f.name == "activation_checkpointing" for f in fields(TrainingArguments))
        self.gradient_checkpointing = None if newer else bool(self.activation_checkpointing)

    @property
    def n_gpu(self) -> int:
        """At most 1: `Trainer`'s own `DataParallel` would part a batch's retrievals from their rows."""
        return min(1, int(super().n_gpu))

    @property
    def trains_ntp(self) -> bool:
        """Whether next-token prediction is part of the loss."""
        return "ntp" in self.supervision

    @property
    def trains_nsp(self) -> bool:
        """Whether next-sequence prediction is part of the loss."""
        return "nsp" in self.supervision


def check_pairing(args: CoSupervisionConfig, adapters: bool, shared: bool) -> None:
    """Refuse settings that the kind of pair would leave without an effect, or cannot have.

    Raises:
        UsageError: names the setting.
    """
    if adapters and args.muon_learning_rate is not None:
        raise UsageError("muon_learning_rate is for whole matrices; leave it out with adapters")
    if args.save_adapters and not adapters:
        raise UsageError("save_adapters is true, and the recipe has no adapters to save; leave it out, or ask for them")
    if shared and args.embedder_learning_rate is not None:
        raise UsageError("embedder_learning_rate is set, and a shared embedder has no weights of its own; leave it out")
    if shared and args.freeze_embedder:
        raise UsageError("a shared embedder cannot be frozen: it is the generator; leave out freeze_embedder")


def _check_trackers(asked: Any) -> None:
    """Refuse trackers that are unknown or not installed; `Trainer` would find out when the models are loaded."""
    names = asked if isinstance(asked, list) else [] if asked in (None, "none", "all") else [asked]
    for name in names:
        _check_choice("report_to", name, (*_TRACKERS, "none", "all"))
        module, package = _TRACKERS.get(name, ("", ""))
        if module and find_spec(module) is None:
            raise UsageError(f"report_to is '{name}', which is not installed; pip install {package}")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        hint = did_you_mean(str(value), choices)
        raise UsageError(f"{name} is {value!r}{hint}; expected one of {', '.join(choices)}")


def _check_numbers(values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if value is None and name in _OPTIONAL:
            continue
        least = _AT_LEAST[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
            number = "a number of at least" if least == 0 else "at least"
            raise UsageError(f"{name} is {value!r}; expected {number} {least}")
    if values["temperature"] == 0:
        raise UsageError("temperature is 0; expected a number above 0 (1.0 is the paper's)")
    if values["passage_dropout"] > 1:
        raise UsageError(f"passage_dropout is {values['passage_dropout']}; expected a share from 0 to 1")
    if values["max_steps"] == 0:
        raise UsageError("max_steps is 0; expected at least 1, or -1 for as many as num_train_epochs asks for")
