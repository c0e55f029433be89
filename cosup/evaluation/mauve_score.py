"""MAUVE as ALCE calls it: how near the answers are, as a set, to the reference answers (Pillutla et al. 2021)."""

from __future__ import annotations

import string
from collections.abc import Sequence

from cosup.errors import UsageError, needs_extra
from cosup.evaluation.alce_records import AlceRecord
from cosup.evaluation.judging.base import one_line

WORDS = 100
MAX_TOKENS = 512
BATCH = 8


def mauve_score(records: Sequence[AlceRecord], model: str | None, device: int = -1) -> float:
    """Return MAUVE in percent between `question answer` and `question output`, each cut to 100 words.

    Args:
        model: name or folder of the language model whose states are compared; the official scorer takes gpt2-large.
        device: number of the GPU, -1 for the CPU.

    Raises:
        InputError: a record has no `question` or `answer`.
        UsageError: no model was named or it cannot be used, or `mauve-text` is not installed.
    """
    if not model:
        raise UsageError("MAUVE needs a language model: name its folder or hub id (the official one is gpt2-large)")
    human = [_shortened(record.text("question"), record.text("answer")) for record in records]
    ours = [_shortened(record.text("question"), record.plain) for record in records]
    try:
        from mauve import compute_mauve
    except ImportError as error:
        raise UsageError(needs_extra("MAUVE", "eval", error.name or "mauve-text")) from None
    try:
        found = compute_mauve(
            p_text=human,
            q_text=ours,
            device_id=device,
            max_text_length=MAX_TOKENS,
            verbose=False,
            batch_size=BATCH,
            featurize_model_name=model,
        )
    except (OSError, ValueError) as error:
        raise UsageError(f"MAUVE cannot be computed with '{model}': {one_line(str(error))}") from error
    return 100 * float(found.mauve)


def _shortened(question: str, answer: str) -> str:
    return " ".join(f"{question} {answer.strip()}".split()[:WORDS]).rstrip(string.punctuation)
