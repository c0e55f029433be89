"""Settings of a training run, in the form users of the Hugging Face `Trainer` know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments

from cosup.errors import UsageError, did_you_mean
from cosup.modeling import SIMILARITIES

SUPERVISIONS = ("ntp+nsp", "ntp", "nsp")
ORDERS = ("random", "group_by_length")

# What `TrainingArguments` has and this trainer would ignore or break on.
UNSUPPORTED = (
    "activation_checkpointing",
    "gradient_checkpointing",
    "label_smoothing_factor",
    "neftune_noise_alpha",
    "use_liger_kernel",
    "fsdp",
    "deepspeed",
)
_AT_LEAST = {
    "nsp_weight": 0,
    "temperature": 0,
    "learning_rate": 0,
    "embedder_learning_rate": 0,
    "muon_learning_rate": 0,
    "num_train_epochs": 0,
    "same_title_examples": 1,
    "recall_batch_tokens": 1,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "max_steps": -1,
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
    },
}


@dataclass
class CoSupervisionConfig(TrainingArguments):
    """`TrainingArguments` plus the co-supervision objective, for one process and one device.

    Gradient clipping (`max_grad_norm`) covers both models. Both losses are averaged over the global batch, whatever
    `gradient_accumulation_steps` says; with accumulation, in-batch negatives come from the whole step (GradCache).

    Args:
        supervision: `ntp+nsp`, `ntp` (writing only) or `nsp` (retrieving only).
        nsp_weight: lambda in `L = L_NTP + lambda * L_NSP` (paper, section 3.3; the paper uses 0.01).
        similarity: `cosine` or `inner_product` (the paper's).
        temperature: divides the similarity in the NSP loss (the paper has none: 1.0).
        supervise_passages: whether NTP also learns the spliced passages (the paper does).
        mask_same_passage: whether the same passage twice in a batch is kept from being its own negative.
        embedder_learning_rate: the embedder's and projection's learning rate; None takes `learning_rate`.
        muon_learning_rate: learning rate of Muon for the generator's hidden matrices, in the scale of AdamW's; the rest
            keeps `optim`. None does not use Muon.
        same_title_examples: how many examples whose first passages share a title stand together in a batch, as hard
            negatives for one another; 1 does not group.
        recall_batch_tokens: padded tokens a batch when passages are embedded for held-out recall.
    """

    output_dir: str | None = field(default="runs/train")
    supervision: str = field(default="ntp+nsp")
    nsp_weight: float = field(default=0.2)
    similarity: str = field(default="cosine")
    temperature: float = field(default=0.05)
    supervise_passages: bool = field(default=False)
    mask_same_passage: bool = field(default=True)
    embedder_learning_rate: float | None = field(default=None)
    muon_learning_rate: float | None = field(default=None)
    same_title_examples: int = field(default=1)
    recall_batch_tokens: int = field(default=8192)
    remove_unused_columns: bool = field(default=False)
    report_to: str | list[str] | None = field(default="none")

    def __post_init__(self) -> None:
        """Check the objective, then what `TrainingArguments` checks.

        Raises:
            UsageError: a setting of the objective cannot be used; the message names it.
        """
        _check_choice("supervision", self.supervision, SUPERVISIONS)
        _check_choice("similarity", self.similarity, SIMILARITIES)
        _check_choice("train_sampling_strategy", self.train_sampling_strategy, ORDERS)
        _check_numbers({name: getattr(self, name) for name in _AT_LEAST})
        for name in UNSUPPORTED:
            if getattr(self, name, None):
                raise UsageError(f"{name} is {getattr(self, name)!r}; cosup cannot train with it, leave it out")
        if not torch.accelerator.is_available():
            self.use_cpu = True  # TrainingArguments takes bf16 on a CPU only where the CPU is asked for
        super().__post_init__()  # type: ignore[no-untyped-call]
        if self.world_size > 1:
            raise UsageError(f"started as {self.world_size} processes; cosup trains in one")

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


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        hint = did_you_mean(str(value), choices)
        raise UsageError(f"{name} is {value!r}{hint}; expected one of {', '.join(choices)}")


def _check_numbers(values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if value is None and name in ("embedder_learning_rate", "muon_learning_rate"):
            continue
        least = _AT_LEAST[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
            number = "a number of at least" if least == 0 else "at least"
            raise UsageError(f"{name} is {value!r}; expected {number} {least}")
    if values["temperature"] == 0:
        raise UsageError("temperature is 0; expected a number above 0 (1.0 is the paper's)")
    if values["max_steps"] == 0:
        raise UsageError("max_steps is 0; expected at least 1, or -1 for as many as num_train_epochs asks for")
