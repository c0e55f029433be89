"""What goes between web requests and the engine: answers on their way, and how its thread tells an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cosup.generation.events import Event, EventStream
from cosup.generation.retrieval import RetrievalRequest, Retriever
from cosup.generation.rows import Row
from cosup.generation.settings import GenerationSettings
from cosup.records import Hit, Passage, Question
from cosup.serving.metrics import Metrics

T = TypeVar("T")


@dataclass(eq=False)
class Job:
    """One answer on its way.

    Attributes:
        question: what is asked.
        settings: how to write.
        live: whether events are wanted as they happen, or the end alone.
        with_hits: whether the passages of all hits are wanted, or those that are read alone.
        loop: where the request runs.
        deadline: on the monotonic clock.
        passages: those that its events name, by id.
    """

    question: Question
    settings: GenerationSettings
    live: bool
    with_hits: bool
    loop: asyncio.AbstractEventLoop
    deadline: float
    passages: dict[str, Passage] = field(default_factory=dict)
    events: asyncio.Queue[Event | Exception] = field(default_factory=asyncio.Queue)
    row: Row | None = None
    stream: EventStream | None = None
    prompt_tokens: int = 0
    timed_out: bool = False
    submitted: float = field(default_factory=time.monotonic)
    begun: float | None = None
    prefilled: bool = False

    @property
    def new_tokens(self) -> int:
        """Tokens that were written."""
        return 0 if self.row is None else self.row.new_tokens

    @property
    def read_tokens(self) -> int:
        """Tokens of passages that were read."""
        return 0 if self.row is None else self.row.read_tokens


News = list[tuple[Job, Event | Exception]]


class TimedRetriever:
    """A retriever whose searches are timed."""

    def __init__(self, retriever: Retriever, metrics: Metrics) -> None:
        self.inner = retriever
        self.metrics = metrics

    def search(self, requests: Sequence[RetrievalRequest], k: int) -> list[list[Hit]]:
        """Search, and note how long it took."""
        with self.metrics.retrieval.time():
            return self.inner.search(requests, k)

    def passage(self, passage_id: str) -> Passage:
        """Look up a passage."""
        return self.inner.passage(passage_id)


def tell(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: Any) -> None:
    """Call a function on an event loop, from another thread; nothing where the loop is closed."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(function, *args)


def put(items: News) -> None:
    """Hand events to their requests; on the loop."""
    for job, event in items:
        job.events.put_nowait(event)


def fulfil(future: asyncio.Future[T], result: T) -> None:
    """Give a future its result, unless its request is gone; on the loop."""
    if not future.done():
        future.set_result(result)


def fail(future: asyncio.Future[Any], error: Exception) -> None:
    """Give a future its error, unless its request is gone; on the loop."""
    if not future.done():
        future.set_exception(error)
