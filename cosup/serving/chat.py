"""Conversations into questions, and what happens to an answer into messages and chunks of OpenAI's form."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

from cosup.errors import InputError, UsageError
from cosup.evaluation.excerpts import passage_marks
from cosup.generation.events import ClaimClosed, Event, Finished, Retrieved
from cosup.generation.live import LiveText
from cosup.generation.settings import GenerationSettings
from cosup.index.filters import Filter
from cosup.records import Answer, Citation, Hit, Passage, Question
from cosup.serving.errors import ApiError
from cosup.serving.jobs import Job
from cosup.serving.schemas import (
    Annotation,
    ChatRequest,
    ChatResponse,
    Choice,
    CosupAnswer,
    CosupOptions,
    HitOut,
    Message,
    ReplyMessage,
    Search,
    UrlCitation,
    Usage,
)
from cosup.serving.settings import Limits

_MARKS = re.compile(r"\s?\[\d+\]")
_TURNS = {"user": "User", "assistant": "Assistant"}
_ALIKE = ("top_k", "min_score", "ret_first", "max_retrievals", "read", "distinct")  # as in `GenerationSettings`
_QUESTION = "question"  # its id, as on the command line: a seed then gives the same answer


def question_of(messages: Sequence[Message], options: CosupOptions) -> Question:
    """Return what a conversation asks: its last message, or all of it in turns where it has several.

    What the system says is the instruction. `[n]` marks of earlier answers are left out.

    Raises:
        ApiError: the last message is not the user's, or has no text.
    """
    turns = [message for message in messages if message.role in _TURNS]
    if not turns or turns[-1].role != "user":
        raise ApiError(400, "the last message is not the user's; expected a question there", "messages")
    if not turns[-1].text.strip():
        raise ApiError(400, "the last message has no text; expected a question there", "messages")
    instruction = "\n".join(m.text for m in messages if m.role not in _TURNS and m.text.strip())
    text = turns[-1].text
    if len(turns) > 1:
        text = " ".join(f"{_TURNS[turn.role]}: {_said(turn)}" for turn in turns)
    candidates = None if options.candidates is None else tuple(options.candidates)
    return Question(_QUESTION, text, candidates=candidates, instruction=instruction or None)


def settings_of(request: ChatRequest, own: GenerationSettings, limits: Limits) -> GenerationSettings:
    """Return how to write: the server's settings with what a request sets in place of them.

    Raises:
        ApiError: values exclude one another.
    """
    options = request.cosup or CosupOptions()
    asked = request.max_completion_tokens or request.max_tokens or own.max_new_tokens
    changes: dict[str, Any] = {"max_new_tokens": min(asked, limits.max_tokens)}
    if request.temperature is not None:
        changes |= {"do_sample": request.temperature > 0, "temperature": request.temperature}
    if request.top_p is not None:
        changes["top_p"] = request.top_p
    sampled = changes.get("do_sample", own.do_sample)
    if request.seed is not None or sampled:
        changes["seed"] = random.getrandbits(31) if request.seed is None else request.seed
    changes |= {name: value for name in _ALIKE if (value := getattr(options, name)) is not None}
    if (chosen := filter_of(options.filter, "cosup.filter")) is not None:
        changes["filter"] = chosen
    try:
        return replace(own, **changes)
    except UsageError as error:
        raise ApiError(400, str(error), "cosup") from None


def filter_of(record: Mapping[str, Any] | None, where: str) -> Filter | None:
    """Read a filter on metadata.

    Raises:
        ApiError: it is none.
    """
    if record is None:
        return None
    try:
        return Filter.parse(record)
    except (UsageError, InputError) as error:
        raise ApiError(400, str(error), where) from None


@dataclass
class Reply:
    """What a request is answered with: the ids and names that all its chunks share.

    Attributes:
        id: of the answer.
        model: its name.
        with_hits: whether to say what searches found.
        created: seconds since 1970.
    """

    id: str
    model: str
    with_hits: bool
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, finished: Finished, job: Job) -> ChatResponse:
        """Return the response of a request that does not stream."""
        answer = finished.answer
        message = ReplyMessage(
            content=answer.text,
            annotations=[annotation(citation, job.passages[citation.passage_id]) for citation in answer.citations],
        )
        return ChatResponse(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=[Choice(message=message, finish_reason=_reason(answer))],
            usage=usage_of(job),
            cosup=self.about(answer, job),
        )

    def about(self, answer: Answer, job: Job) -> CosupAnswer:
        """Return what an answer has beside its content."""
        return CosupAnswer(
            answer=answer.answer,
            finish_reason="timeout" if job.timed_out else answer.finish_reason,
            retrievals=[
                Search(position=r.position, read=r.read, hits=self.hits(r.hits, job) if self.with_hits else [])
                for r in answer.retrievals
            ],
            passage_tokens=job.read_tokens,
        )

    def hits(self, hits: Sequence[Hit], job: Job) -> list[HitOut]:
        """Return hits with the titles of their passages."""
        return [
            HitOut(passage_id=hit.passage_id, title=job.passages[hit.passage_id].title, score=hit.score) for hit in hits
        ]

    async def chunks(
        self, events: AsyncIterator[tuple[Event, Job]], question: Question, with_usage: bool
    ) -> AsyncIterator[str]:
        """Yield an answer as server-sent events, as it is written."""
        live = LiveText(question)
        yield self._chunk({"role": "assistant", "content": ""})
        async for event, job in events:
            if isinstance(event, Retrieved) and self.with_hits:
                found = [hit.model_dump() for hit in self.hits(event.hits, job)]
                yield self._chunk({}, cosup={"retrieval": {"read": event.read, "hits": found}})
            if new := live.add(event):
                yield self._chunk({"content": new})
            if isinstance(event, ClaimClosed):
                cited = [annotation(c, job.passages[c.passage_id]).model_dump() for c in event.citations]
                yield self._chunk({"annotations": cited})
            if isinstance(event, Finished):
                about = self.about(event.answer, job).model_dump()
                yield self._chunk({}, _reason(event.answer), cosup=about)
                if with_usage:
                    yield self._line({"choices": [], "usage": usage_of(job).model_dump()})
        yield "data: [DONE]\n\n"

    def _chunk(self, delta: Mapping[str, Any], reason: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self._line({"choices": [choice], **more})

    def _line(self, content: Mapping[str, Any]) -> str:
        about = {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model}
        return f"data: {json.dumps({**about, **content}, ensure_ascii=False)}\n\n"


def error_line(error: ApiError) -> str:
    """Return an error as the last event of a stream that has begun."""
    return f"data: {json.dumps(error.body())}\n\n"


def annotation(citation: Citation, passage: Passage) -> Annotation:
    """Return a citation with what of its passage supports it."""
    link = passage.metadata.get("url")
    is_link = isinstance(link, str) and link.startswith(("https://", "http://"))
    return Annotation(
        url_citation=UrlCitation(
            start_index=citation.start,
            end_index=citation.end,
            title=passage.title,
            url=str(link) if is_link else f"/v1/passages/{quote(passage.id, safe='')}",
            passage_id=passage.id,
            score=citation.score,
            n=citation.n,
            claim=citation.claim,
            marks=[(mark.start, mark.end) for mark in passage_marks(passage.text, (), [citation.claim])],
        )
    )


def usage_of(job: Job) -> Usage:
    """Return what an answer took."""
    return Usage(
        prompt_tokens=job.prompt_tokens,
        completion_tokens=job.new_tokens,
        total_tokens=job.prompt_tokens + job.new_tokens,
    )


def _reason(answer: Answer) -> Any:
    return "stop" if answer.finish_reason == "eos" else "length"


def _said(turn: Message) -> str:
    return _MARKS.sub("", turn.text).strip() if turn.role == "assistant" else turn.text.strip()
