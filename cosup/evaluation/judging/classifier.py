"""Any model of transformers that classifies pairs of texts as a judge: natural language inference (NLI)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from cosup.errors import UsageError, did_you_mean
from cosup.evaluation.judging.base import Decision, Pair, check_threshold, said_of_score
from cosup.evaluation.judging.loading import Checkpoint, decide_by_length

ENTAILMENT_LABELS = ("entailment", "entail", "entails", "entailed")
_UNLIMITED = 1_000_000  # a tokenizer that knows no limit names a huge one


class ClassifierJudge:
    """A sequence classifier that reads premise and hypothesis, such as `roberta-large-mnli`.

    A premise that is too long is cut at its end, and the reason says so; a hypothesis is never cut: one that does not
    fit is undecided.

    Args:
        checkpoint: the model.
        label: the label that means entailment, or its number; None finds it by its name.
        threshold: probability of entailment from which on a pair is entailed; None asks that no label be likelier.

    Raises:
        UsageError: none of the model's labels is known to mean entailment, or the threshold is no probability.
    """

    def __init__(self, checkpoint: Checkpoint, label: str | None = None, threshold: float | None = None) -> None:
        if threshold is not None:
            check_threshold(threshold)
        self._checkpoint = checkpoint
        self._labels = {int(i): str(label) for i, label in checkpoint.config.id2label.items()}
        self._entailment = find_entailment(self._labels, label, checkpoint.source)
        self._threshold = threshold

    @cached_property
    def name(self) -> str:
        """The model, its label of entailment, and the threshold."""
        rule = "argmax" if self._threshold is None else f"threshold {self._threshold:g}"
        return f"classifier {self._checkpoint.name}, label {self._labels[self._entailment]}, {rule}"

    def decide(self, pairs: Sequence[Pair]) -> list[Decision]:
        """Return a decision for each pair, in order.

        Raises:
            UsageError: the model cannot be loaded.
        """
        return decide_by_length(pairs, self._checkpoint.settings.batch_size, self._decide_batch)

    def _decide_batch(self, pairs: Sequence[Pair]) -> list[Decision]:
        notes = self._notes(pairs)
        readable = [pair for pair, note in zip(pairs, notes, strict=True) if note is not None]
        rows = iter(self._probabilities(readable) if readable else [])
        return [
            Decision(None, f"the hypothesis is longer than the {self._limit} tokens that the judge reads")
            if note is None
            else self._decision(next(rows), note)
            for note in notes
        ]

    def _notes(self, pairs: Sequence[Pair]) -> list[str | None]:
        """Say for each pair what is cut of its premise, if anything; None where the hypothesis leaves no room."""
        if self._limit is None:
            return [""] * len(pairs)
        spare = self._limit - self._checkpoint.tokenizer.num_special_tokens_to_add(pair=True)
        sizes = [self._sizes([pair[side] for pair in pairs]) for side in (0, 1)]
        notes: list[str | None] = []
        for premise, hypothesis in zip(*sizes, strict=True):
            room = spare - hypothesis
            cut = f"; the premise was cut to {room} of {premise} tokens" if premise > room else ""
            notes.append(None if room < 1 else cut)
        return notes

    def _sizes(self, texts: list[str]) -> list[int]:
        rows = self._checkpoint.tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)
        return [len(ids) for ids in rows["input_ids"]]

    def _probabilities(self, pairs: Sequence[Pair]) -> list[list[float]]:
        """Return what the model gives each label: [len(pairs), number of labels]."""
        import torch

        premises, hypotheses = ([pair[side] for pair in pairs] for side in (0, 1))
        cut: dict[str, Any] = {} if self._limit is None else {"truncation": "only_first", "max_length": self._limit}
        inputs = self._checkpoint.tokenizer(
            premises, hypotheses, padding=True, split_special_tokens=True, return_tensors="pt", verbose=False, **cut
        )
        with torch.inference_mode():
            logits = self._model(**inputs.to(self._checkpoint.device)).logits
        rows: list[list[float]] = logits.float().softmax(-1).tolist()
        return rows

    def _decision(self, probabilities: Sequence[float], note: str) -> Decision:
        if not all(map(math.isfinite, probabilities)):
            return Decision(None, f"the model gives no numbers{note}")
        score = min(1.0, probabilities[self._entailment])
        if self._threshold is not None:
            return Decision(score >= self._threshold, said_of_score(score, self._threshold) + note, score)
        best = max(range(len(probabilities)), key=probabilities.__getitem__)
        if best == self._entailment:
            return Decision(True, f"entailment {score:.3f}{note}", score)
        return Decision(False, f"{self._labels[best]} {probabilities[best]:.3f}, entailment {score:.3f}{note}", score)

    @cached_property
    def _model(self) -> Any:
        return self._checkpoint.load("AutoModelForSequenceClassification")

    @cached_property
    def _limit(self) -> int | None:
        """Tokens that the model reads, those of its template included; None where nothing bounds them."""
        limits = [self._checkpoint.tokenizer.model_max_length, *_positions(self._model)]
        limit = int(min(limits))
        return limit if limit < _UNLIMITED else None


def find_entailment(labels: Mapping[int, str], wanted: str | None, source: str) -> int:
    """Return the number of the label that means entailment.

    Args:
        labels: by number.
        wanted: a label or its number; None takes the one of `ENTAILMENT_LABELS`, in any case.
        source: what a message calls the model.

    Raises:
        UsageError: there is none, or more than one.
    """
    shown = ", ".join(f"{i} {label}" for i, label in sorted(labels.items()))
    if wanted is None:
        found = [i for i, label in labels.items() if label.lower() in ENTAILMENT_LABELS]
        if len(found) != 1 or len(labels) < 2:
            raise UsageError(
                f"'{source}' has the labels {shown}, and it is not known which means entailment; name it with "
                "--judge-label"
            )
        return found[0]
    found = [i for i, label in labels.items() if wanted.lower() == label.lower() or wanted == str(i)]
    if len(found) != 1:
        raise UsageError(
            f"'{source}' has no label '{wanted}'{did_you_mean(wanted, labels.values())}; expected one of {shown}"
        )
    return found[0]


def _positions(model: Any) -> list[int]:
    """Return how many positions a model has; RoBERTa's kind begins to count them after its padding token's id."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return [module.num_embeddings - module.padding_idx - 1]
    limit = getattr(model.config, "max_position_embeddings", None)
    return [int(limit)] if limit else []
