"""Questions of several lengths, and all that an answer says."""

from __future__ import annotations

from dataclasses import replace

from cosup.generation.settings import GenerationSettings
from cosup.records import Answer
from tests import pairs

LONG = replace(pairs.QUESTIONS[1], id="long", question="It was written by Ada Vale. " * 3 + pairs.QUESTIONS[1].question)
QUESTIONS = (*pairs.QUESTIONS[:5], LONG)
PLAIN = GenerationSettings(max_new_tokens=60)


def told(answer: Answer) -> tuple[object, ...]:
    """Return all of an answer but its scores, which depend on rounding."""
    spans = [(c.n, c.passage_id, c.claim, c.start, c.end) for c in answer.citations]
    return answer.text, answer.answer, answer.segments, spans, answer.finish_reason
