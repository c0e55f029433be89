"""Prompts of questions, and whether they fit: what can be known of a question without an index."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cosup.data.reading import line_of
from cosup.errors import InputError, UsageError
from cosup.generation.rows import CLAIM_ROOM
from cosup.generation.settings import GenerationSettings
from cosup.modeling import CoSupervisedModel
from cosup.records import Question

_CONTROLS = 2  # [Ret] and [Cs]


class TooLongError(InputError):
    """A question that leaves no room for a claim in the context.

    Args:
        question_id: of the question.
        tokens: of its prompt.
        length: of the context.
        room: for a prompt.

    Attributes:
        fact: what is wrong with it, for those who name the question otherwise.
    """

    def __init__(self, question_id: str, tokens: int, length: int, room: int) -> None:
        self.fact = (
            f"has {tokens} tokens with its prompt; the context of {length} leaves room for {max(0, room)}: shorten it"
        )
        super().__init__(f"question '{question_id}' {self.fact}")


class Prompts:
    """Puts questions into a pair's prompt.

    Args:
        model: the pair.
        settings: with the length of the context, where it is not the pair's own.

    Attributes:
        encoder: how the pair reads texts.

    Raises:
        UsageError: `max_length` is more than the generator's context.
    """

    def __init__(self, model: CoSupervisedModel, settings: GenerationSettings) -> None:
        self.model = model
        self.encoder = model.example_encoder(self.length(settings))

    def length(self, settings: GenerationSettings) -> int:
        """Return how many tokens the context has.

        Raises:
            UsageError: more than the generator has positions.
        """
        length = settings.max_length or self.model.settings.max_length
        limit = getattr(self.model.generator.config, "max_position_embeddings", None)
        if limit is not None and length > limit:
            raise UsageError(f"max_length is {length}; the generator has {limit} positions")
        return length

    def ids(self, question: Question, length: int) -> list[int]:
        """Return the tokens of a question's prompt.

        Args:
            question: what is asked.
            length: of the context, in tokens.

        Raises:
            TooLongError: no claim would fit behind it.
        """
        prompt = self.encoder.prompt(question.question, question.instruction)
        room = length - CLAIM_ROOM - _CONTROLS
        if len(prompt) > room:
            raise TooLongError(question.id, len(prompt), length, room)
        return prompt


def check_lengths(
    model: CoSupervisedModel, settings: GenerationSettings, asked: Iterable[Question], path: Path
) -> None:
    """Check that questions fit into the context, all of them before any is answered.

    Args:
        model: the pair that is to answer.
        settings: it is to answer with.
        asked: the questions.
        path: their file, for the message.

    Raises:
        InputError: names the first that does not fit and says how many do not.
    """
    prompts = Prompts(model, settings)
    length, problems = prompts.length(settings), []
    for question in asked:
        try:
            prompts.ids(question, length)
        except TooLongError as error:
            problems.append((question.id, str(error)))
    if problems:
        first, message = problems[0]
        more = f"; {len(problems) - 1:,} more are too long" if len(problems) > 1 else ""
        raise InputError(message + more, path, line_of(path, first))
