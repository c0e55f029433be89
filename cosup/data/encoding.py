"""Examples as token ids: one encoding for training and for answering.

A sequence is `prompt | [Ret] passage [Cs] claim [Ce] | .. | final text | EOS` (paper, section 3). Each part is
encoded by itself, so that the engine, which reads and writes part by part, sees the tokens that training saw.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

from transformers import PreTrainedTokenizerBase

from cosup.errors import UsageError
from cosup.records import Example, Passage, RetrievalSegment, TextSegment
from cosup.tokens import ControlTokenIds, TextEncoder

logger = logging.getLogger(__name__)

PROMPT = "{instruction}## Input:\n\n{question}\n\n## Output:\n\n"
PAPER_PROMPT = "{instruction}## Input:\n\n{question}## Output:\n\n"
PROMPTS = {"paper": PAPER_PROMPT, "cosup": PROMPT}  # what a format may be called


class Kind(IntEnum):
    """What a token of a training sequence is; decides whether it is supervised."""

    PROMPT = 0
    WRITTEN = 1
    PASSAGE = 2
    FORCED = 3


@dataclass
class EncodedExample:
    """One example as tokens.

    Attributes:
        input_ids: the whole sequence.
        kinds: what each token is.
        ret_positions: index of each `[Ret]`.
        passage_ids: the passage each `[Ret]` must pick.
        negatives: passages that none of them may pick.
        example_id: id of the example.
        answer: the text after the last retrieval, before the end; None where the example does not end in text.
    """

    input_ids: list[int] = field(default_factory=list)
    kinds: list[Kind] = field(default_factory=list)
    ret_positions: list[int] = field(default_factory=list)
    passage_ids: list[str] = field(default_factory=list)
    negatives: tuple[str, ...] = ()
    example_id: str = ""
    answer: str | None = None

    def add(self, ids: list[int], kind: Kind) -> None:
        """Append tokens of one kind."""
        self.input_ids += ids
        self.kinds += [kind] * len(ids)

    def cut(self, length: int) -> None:
        """Keep the first `length` tokens and the retrievals that stand in them."""
        self.input_ids, self.kinds = self.input_ids[:length], self.kinds[:length]
        self.ret_positions = [p for p in self.ret_positions if p < length]
        self.passage_ids = self.passage_ids[: len(self.ret_positions)]

    def queries_only(self) -> EncodedExample | None:
        """Return the sequence up to its last `[Ret]` with nothing supervised, None where it has no `[Ret]`.

        For examples that add to the contrast of a step and to nothing else.
        """
        if not self.ret_positions:
            return None
        length = self.ret_positions[-1] + 1
        return replace(self, input_ids=self.input_ids[:length], kinds=[Kind.PROMPT] * length)


class ExampleEncoder:
    """Encodes prompts, passages and whole examples for the generator.

    Args:
        tokenizer: the generator's tokenizer.
        control: ids of its control tokens.
        prompt: prompt format with `{question}` and optionally `{instruction}`.
        max_length: longest sequence in tokens; longer examples are cut, with one warning.
        max_passage_length: longest passage in tokens; longer ones are cut.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        control: ControlTokenIds,
        prompt: str = PROMPT,
        max_length: int = 1024,
        max_passage_length: int = 256,
    ) -> None:
        check_prompt(prompt)
        self.text = TextEncoder(tokenizer)
        self.control = control
        self.prompt_format = prompt
        self.max_length = max_length
        self.max_passage_length = max_passage_length
        self._warned = False

    def prompt(self, question: str, instruction: str | None = None) -> list[int]:
        """Return the ids of a rendered prompt, after the BOS where the tokenizer adds one."""
        return self.text.prefix + self.text.encode(render_prompt(self.prompt_format, question, instruction))

    def passage(self, passage: Passage) -> list[int]:
        """Return the ids of a passage as it is spliced, cut to `max_passage_length`."""
        return self.text.encode(passage.rendered, self.max_passage_length)

    def example(self, example: Example, passages: Mapping[str, Passage]) -> EncodedExample:
        """Encode a whole example.

        Args:
            example: prompt and output.
            passages: where its passage ids are looked up; `check_references` has made sure that they are there.
        """
        last = example.output[-1] if example.output else None
        answer = last.text if isinstance(last, TextSegment) else None
        encoded = EncodedExample(negatives=example.negatives, example_id=example.id, answer=answer)
        encoded.add(self.prompt(example.prompt, example.instruction), Kind.PROMPT)
        for segment in example.output:
            if isinstance(segment, RetrievalSegment):
                self._add_retrieval(encoded, segment, passages[segment.passage_id])
            else:
                encoded.add(self.text.encode(segment.text), Kind.WRITTEN)
        encoded.add([self.control.eos], Kind.WRITTEN)
        if len(encoded.input_ids) > self.max_length:
            self._warn(example, len(encoded.input_ids))
            encoded.cut(self.max_length)
        return encoded

    def _add_retrieval(self, encoded: EncodedExample, segment: RetrievalSegment, passage: Passage) -> None:
        encoded.ret_positions.append(len(encoded.input_ids))
        encoded.passage_ids.append(segment.passage_id)
        encoded.add([self.control.ret], Kind.WRITTEN)
        encoded.add(self.passage(passage), Kind.PASSAGE)
        encoded.add([self.control.cs], Kind.FORCED)
        encoded.add([*self.text.encode(segment.claim), self.control.ce], Kind.WRITTEN)

    def _warn(self, example: Example, length: int) -> None:
        if not self._warned:
            logger.warning(
                "example '%s' has %d tokens and is cut to max_length=%d; further cuts are not told",
                example.id, length, self.max_length,
            )  # fmt: skip
        self._warned = True


@dataclass(frozen=True)
class PassageEncoder:
    """Encodes passages for the embedder, alike wherever it reads them.

    Attributes:
        text: encodes in the template of the embedder's tokenizer.
        prompt: what the embedder wants before a passage.
        max_length: longest passage in tokens; longer ones are cut.
    """

    text: TextEncoder
    prompt: str = ""
    max_length: int = 256

    def __call__(self, text: str) -> list[int]:
        """Return the ids of a passage's rendered text."""
        return self.text.encode_with_template(self.prompt + text, self.max_length)

    def batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of several, faster than one by one."""
        return self.text.encode_batch_with_template([self.prompt + text for text in texts], self.max_length)


def check_prompt(prompt: str) -> None:
    """Check a prompt format.

    Raises:
        UsageError: it lacks `{question}` or has another placeholder.
    """
    unknown = [name for name in re.findall(r"\{(\w+)\}", prompt) if name not in ("question", "instruction")]
    if "{question}" not in prompt or unknown:
        raise UsageError(f"prompt is {prompt!r}; expected {{question}} in it and no placeholder but {{instruction}}")


def prompt_of(given: str) -> str:
    """Return a prompt format, given as itself or by its name in `PROMPTS`; `PairSettings` checks it."""
    return PROMPTS.get(given, given)


def render_prompt(prompt: str, question: str, instruction: str | None = None) -> str:
    """Fill a prompt format in one pass, so that braces in a question stay text; an instruction ends with a newline."""
    lead = instruction.rstrip("\n") + "\n" if instruction else ""
    values = {"{question}": question, "{instruction}": lead}
    return re.sub(r"\{question\}|\{instruction\}", lambda match: values[match.group()], prompt)
