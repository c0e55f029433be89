"""A T5 that answers 1 where a premise entails a hypothesis, as a judge: `google/t5_xxl_true_nli_mixture` and its kind.

The model is that of TRUE (Honovich et al. 2022, arXiv:2204.04991), asked as ALCE's scorer does (Gao et al. 2023,
arXiv:2305.14627; `_run_nli_autoais` in its eval.py): greedily, at most 10 tokens, nothing cut.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from cosup.evaluation.judging.base import Decision, Pair, one_line
from cosup.evaluation.judging.loading import Checkpoint, decide_by_length

if TYPE_CHECKING:
    from cosup.tokens import TextEncoder

logger = logging.getLogger(__name__)

FORM = "premise: {premise} hypothesis: {hypothesis}"
NEW_TOKENS = 10
ENTAILED, NOT_ENTAILED = "1", "0"


class _Written(NamedTuple):
    """What the model wrote, and the probability that it began with "1"."""

    text: str
    score: float | None


class Seq2SeqJudge:
    """An encoder-decoder that writes "1" for an entailed pair and "0" for another.

    Any other text means "not entailed", as in ALCE's scorer; the reason tells it, and the first one is warned of,
    since a model that was not trained for this writes nothing else.

    Args:
        checkpoint: the model.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._warned = False

    @cached_property
    def name(self) -> str:
        """The model, and that it answers as TRUE's."""
        return f"seq2seq {self._checkpoint.name}, 1 is entailed"

    def decide(self, pairs: Sequence[Pair]) -> list[Decision]:
        """Return a decision for each pair, in order.

        Raises:
            UsageError: the model cannot be loaded.
        """
        return decide_by_length(pairs, self._checkpoint.settings.batch_size, self._decide_batch)

    def _decide_batch(self, pairs: Sequence[Pair]) -> list[Decision]:
        texts = [FORM.format(premise=premise, hypothesis=hypothesis) for premise, hypothesis in pairs]
        rows = self._encoder.encode_batch_with_template(texts)
        limit = getattr(self._model.config, "max_position_embeddings", None)  # T5 has none
        fits = [limit is None or len(row) <= limit for row in rows]
        written = iter(self._write([row for row, fit in zip(rows, fits, strict=True) if fit]))
        return [
            self._decision(next(written))
            if fit
            else Decision(None, f"the pair has {len(row)} tokens; the judge reads {limit}")
            for row, fit in zip(rows, fits, strict=True)
        ]

    def _write(self, rows: Sequence[list[int]]) -> list[_Written]:
        """Let the model write after each row of ids."""
        if not rows:
            return []
        import torch

        from cosup.data.padding import pad_right

        tokenizer, device = self._checkpoint.tokenizer, self._checkpoint.device
        ids, mask = pad_right(rows, int(self._model.config.pad_token_id))
        with torch.inference_mode():
            output = self._model.generate(
                input_ids=ids.to(device), attention_mask=mask.to(device), max_new_tokens=NEW_TOKENS,
                do_sample=False, num_beams=1, output_logits=True, return_dict_in_generate=True,
            )  # fmt: skip
        texts = tokenizer.batch_decode(output.sequences, skip_special_tokens=True)
        first = output.logits[0].float().softmax(-1)
        scores = [None] * len(rows) if self._one is None else first[:, self._one].tolist()
        return [_Written(text, score) for text, score in zip(texts, scores, strict=True)]

    def _decision(self, written: _Written) -> Decision:
        text, score = written
        if score is not None and not math.isfinite(score):
            return Decision(None, "the model gives no numbers")
        score = None if score is None else min(1.0, score)
        known = "" if score is None else f", P({ENTAILED}) = {score:.3f}"
        if text in (ENTAILED, NOT_ENTAILED):
            return Decision(text == ENTAILED, f"the model answers {text}{known}", score)
        shown = one_line(text)
        if not self._warned:
            self._warned = True
            logger.warning(
                "'%s' answers '%s', neither 1 nor 0; that counts as not entailed. Is it a model of TRUE's kind?",
                self._checkpoint.source, shown,
            )  # fmt: skip
        return Decision(False, f"the model answers '{shown}', neither 1 nor 0{known}", score)

    @cached_property
    def _model(self) -> Any:
        return self._checkpoint.load("AutoModelForSeq2SeqLM")

    @cached_property
    def _encoder(self) -> TextEncoder:
        from cosup.tokens import TextEncoder

        return TextEncoder(self._checkpoint.tokenizer)

    @cached_property
    def _one(self) -> int | None:
        """The token that is "1" at the beginning of a text, where it is one token."""
        ids = self._encoder.encode(ENTAILED)
        return ids[0] if len(ids) == 1 else None
