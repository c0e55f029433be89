"""Records: what passes from room to room, and its JSON form.

Every record is a frozen dataclass with `from_dict` (checks every field, raises `InputError`) and `to_dict`
(the inverse; optional fields that are unset are left out). Readers add the file and line to the error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from cosup import fields
from cosup.errors import InputError
from cosup.fields import Json, Scalar


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of text that can be retrieved and cited; `metadata` is what searches can be limited by."""

    id: str
    title: str
    text: str
    metadata: Mapping[str, Scalar] = field(default_factory=dict, hash=False)

    @property
    def rendered(self) -> str:
        """The text that is embedded and spliced: `title :: text`, or the text alone without a title."""
        return f"{self.title} :: {self.text}" if self.title else self.text

    @classmethod
    def from_dict(cls, record: Json) -> Passage:
        """Check and read `{"id", "title", "text", "metadata"?}`; the title may be missing."""
        return cls(
            fields.identity(record),
            fields.text(record, "title", default=""),
            fields.text(record, "text", filled=True),
            fields.metadata(record),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        record: dict[str, Any] = {"id": self.id, "title": self.title, "text": self.text}
        return record | ({"metadata": dict(self.metadata)} if self.metadata else {})


@dataclass(frozen=True, slots=True)
class Evidence:
    """A gold passage of a question, with the sentence that answers it where that is known."""

    passage_id: str
    sentence: str | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """A question with what is known of its answer.

    Attributes:
        answers: aliases of one answer, except where a task says that all are wanted.
        long_answer: an answer in sentences.
        evidence: gold passages in the order in which they are needed.
        candidates: ids the search is limited to, or None for the whole corpus.
        instruction: task text before the question.
        label: a class label (fact checking).
        answer_sets: answers that are all wanted, each with its aliases (the sub-questions of ASQA, QAMPARI's lists).
        claims: statements that a good answer supports (ALCE's ELI5).
        evidence_sets: alternatives where there are several, each the ids of gold passages that suffice together (KILT);
            empty where all of `evidence` is needed.
    """

    id: str
    question: str
    answers: tuple[str, ...] = ()
    long_answer: str | None = None
    evidence: tuple[Evidence, ...] = ()
    candidates: tuple[str, ...] | None = None
    instruction: str | None = None
    label: str | None = None
    answer_sets: tuple[tuple[str, ...], ...] = ()
    claims: tuple[str, ...] = ()
    evidence_sets: tuple[tuple[str, ...], ...] = ()

    @property
    def gold_ids(self) -> tuple[str, ...]:
        """Distinct gold passage ids in order of first appearance."""
        return tuple(dict.fromkeys(e.passage_id for e in self.evidence))

    @classmethod
    def from_dict(cls, record: Json) -> Question:
        """Check and read a question; everything but `id` and `question` may be missing.

        Raises:
            InputError: a field is wrong, or a name is nearly that of a field that is missing.
        """
        fields.check_names(record, cls)
        candidates = record.get("candidates")
        return cls(
            id=fields.identity(record),
            question=fields.text(record, "question", filled=True),
            answers=fields.texts(record, "answers"),
            long_answer=fields.optional_text(record, "long_answer"),
            evidence=fields.each(record, "evidence", _evidence),
            candidates=None if candidates is None else fields.texts(record, "candidates"),
            instruction=fields.optional_text(record, "instruction"),
            label=fields.optional_text(record, "label"),
            answer_sets=fields.text_lists(record, "answer_sets"),
            claims=fields.texts(record, "claims"),
            evidence_sets=fields.text_lists(record, "evidence_sets"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        evidence = [{"passage_id": e.passage_id, "sentence": e.sentence} for e in self.evidence]
        record: dict[str, Any] = {"id": self.id, "question": self.question, "answers": list(self.answers)}
        record |= {"long_answer": self.long_answer, "evidence": evidence}
        candidates = None if self.candidates is None else list(self.candidates)
        record |= fields.set_only(candidates=candidates, instruction=self.instruction, label=self.label)
        wanted = [list(aliases) for aliases in self.answer_sets]
        record |= fields.set_only(answer_sets=wanted or None, claims=list(self.claims) or None)
        return record | fields.set_only(evidence_sets=[list(ids) for ids in self.evidence_sets] or None)


@dataclass(frozen=True, slots=True)
class TextSegment:
    """Part of an output that stands outside citations."""

    text: str

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"text": self.text}


@dataclass(frozen=True, slots=True)
class RetrievalSegment:
    """Part of an output that retrieves a passage and claims what the passage supports."""

    passage_id: str
    claim: str

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"passage_id": self.passage_id, "claim": self.claim}


Segment: TypeAlias = TextSegment | RetrievalSegment


@dataclass(frozen=True, slots=True)
class Example:
    """A training example: a prompt, the output in segments, and ids of passages that must not be picked.

    `prompt` (and `instruction`, where there is one) is put into the model folder's prompt format when it is
    encoded, in training as in answering, so that both see the same tokens.
    """

    id: str
    prompt: str
    output: tuple[Segment, ...]
    negatives: tuple[str, ...] = ()
    instruction: str | None = None

    @property
    def passage_ids(self) -> tuple[str, ...]:
        """Ids of the retrieved passages, in order, repeats kept."""
        return tuple(s.passage_id for s in self.output if isinstance(s, RetrievalSegment))

    @classmethod
    def from_dict(cls, record: Json) -> Example:
        """Check and read `{"id", "prompt", "output", "negatives"?, "instruction"?}`."""
        fields.check_names(record, cls)
        output = fields.each(record, "output", _segment)
        if not output:
            raise InputError("field 'output' is empty; expected at least one segment")
        prompt = fields.text(record, "prompt", filled=True)
        return cls(
            fields.identity(record),
            prompt,
            output,
            fields.texts(record, "negatives"),
            fields.optional_text(record, "instruction"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        record = {"id": self.id, "prompt": self.prompt, "output": [s.to_dict() for s in self.output]}
        return record | fields.set_only(negatives=list(self.negatives) or None, instruction=self.instruction)


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage found by a search, with its similarity to the query."""

    passage_id: str
    score: float


@dataclass(frozen=True, slots=True)
class Retrieval:
    """One `[Ret]`: the character offset in the answer's text where it happened, and what was found, best first.

    The first `read` hits were read; 0 where the model abstained from citing.
    """

    position: int
    hits: tuple[Hit, ...]
    read: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; `read` is left out where it is 1."""
        hits = [{"passage_id": h.passage_id, "score": h.score} for h in self.hits]
        return {"position": self.position, "hits": hits} | ({} if self.read == 1 else {"read": self.read})


@dataclass(frozen=True, slots=True)
class Citation:
    """A claim and the passage it is cited to.

    `text[start:end]` of the answer is the claim up to its `[n]` mark, that is, without its closing full stop.
    `n` numbers distinct passages by first citation, from 1; `score` is the retrieval score.
    """

    n: int
    passage_id: str
    claim: str
    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model wrote for one question: one line of `predictions.jsonl`.

    Attributes:
        text: what the model wrote, without passages, with `[n]` marks.
        answer: the text after the last claim, or the last claim where nothing follows.
        finish_reason: `eos`, `length` (its own limit of new tokens), `context` (the model's context is full) or
            `cancelled`.
    """

    id: str
    question: str
    text: str
    answer: str
    segments: tuple[Segment, ...] = ()
    citations: tuple[Citation, ...] = ()
    retrievals: tuple[Retrieval, ...] = ()
    finish_reason: str = "eos"

    @classmethod
    def from_dict(cls, record: Json) -> Answer:
        """Check and read a prediction; only `id` and `text` are required, so that other systems' files pass too.

        Raises:
            InputError: a field is wrong, or a name is nearly that of a field that is missing (`citation`): what it
                holds would go unseen. The gold `answers` of a question may stand there.
        """
        fields.check_names(record, cls, others=("answers",))
        text = fields.text(record, "text")
        return cls(
            id=fields.identity(record),
            question=fields.text(record, "question", default=""),
            text=text,
            answer=fields.text(record, "answer", default=text),
            segments=fields.each(record, "segments", _segment),
            citations=fields.each(record, "citations", _citation),
            retrievals=fields.each(record, "retrievals", _retrieval),
            finish_reason=fields.text(record, "finish_reason", default="eos"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "id": self.id,
            "question": self.question,
            "text": self.text,
            "answer": self.answer,
            "segments": [s.to_dict() for s in self.segments],
            "citations": [{name: getattr(c, name) for name in c.__slots__} for c in self.citations],
            "retrievals": [r.to_dict() for r in self.retrievals],
            "finish_reason": self.finish_reason,
        }


def _evidence(record: Json) -> Evidence:
    return Evidence(fields.text(record, "passage_id", filled=True), fields.optional_text(record, "sentence"))


def _segment(record: Json) -> Segment:
    if "passage_id" in record:
        return RetrievalSegment(fields.text(record, "passage_id", filled=True), fields.text(record, "claim"))
    if "text" in record:
        return TextSegment(fields.text(record, "text"))
    raise InputError(f"a segment has {', '.join(map(repr, record)) or 'no field'}; expected 'text' or 'passage_id'")


def _citation(record: Json) -> Citation:
    n, start, end = (fields.whole(record, name) for name in ("n", "start", "end"))
    score = fields.number(record, "score") if record.get("score") is not None else 0.0
    return Citation(n, fields.text(record, "passage_id"), fields.text(record, "claim"), start, end, score)


def _hit(record: Json) -> Hit:
    return Hit(fields.text(record, "passage_id"), fields.number(record, "score"))


def _retrieval(record: Json) -> Retrieval:
    hits = fields.each(record, "hits", _hit)
    read = fields.whole(record, "read") if "read" in record else 1
    if read < 0:
        raise fields.wrong("read", record["read"], "a number of at least 0")
    return Retrieval(fields.whole(record, "position"), hits, read)
