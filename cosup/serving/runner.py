"""One engine for all clients: a thread that steps the continuous batch, and what web requests hand to it.

Everything that runs a model runs on that thread: answers step by step, and between two steps what else is asked for
(embeddings, searches), a piece at a time. What happens to an answer goes back to the event loop of its request.

An answer keeps to the index that it began with: when the corpus changes, a new *lane* (engine and batch) takes the
answers to come, and the old one goes once its last answer is written.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from cosup.errors import CosupError
from cosup.generation.engine import Engine
from cosup.generation.events import Event, Finished, Retrieved
from cosup.generation.rows import Row
from cosup.generation.scheduler import Scheduler
from cosup.generation.settings import GenerationSettings
from cosup.records import Hit, Question
from cosup.serving.errors import ApiError, busy, stopping
from cosup.serving.jobs import Job, TimedRetriever, fail, fulfil, put, tell
from cosup.serving.metrics import Metrics
from cosup.serving.settings import Limits

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(eq=False)
class _Lane:
    """An engine over one state of the corpus, with the answers that began with it."""

    engine: Engine
    scheduler: Scheduler
    jobs: dict[int, Job] = field(default_factory=dict)  # by origin of their rows


class Runner:
    """Drives answers and everything else that runs the pair.

    Args:
        engine: the first one; `swap` puts another in its place.
        limits: how many answers, how many wait.
        passages: returns how many passages are searched, for the metrics.
    """

    def __init__(self, engine: Engine, limits: Limits, passages: Callable[[], float] = lambda: 0) -> None:
        self.limits = limits
        self.metrics = Metrics(lambda: self.waiting, lambda: self.running, passages)
        self._lanes = [self._lane(engine)]
        self._submitted: deque[Job] = deque()
        self._cancelled: deque[Job] = deque()
        self._calls: deque[Callable[[], None]] = deque()
        self._held = 0
        self._state = threading.Condition()
        self._draining = False
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="cosup-engine", daemon=True)

    @property
    def engine(self) -> Engine:
        """The engine that takes the next answer."""
        return self._lanes[-1].engine

    @property
    def running(self) -> int:
        """Answers that are being written."""
        return sum(len(lane.scheduler.rows) for lane in list(self._lanes))

    @property
    def waiting(self) -> int:
        """Requests that wait for their place."""
        return max(0, self._held - self.running)

    @property
    def ready(self) -> bool:
        """Whether answers are taken."""
        return self._thread.is_alive() and not self._draining

    # -- from the event loop ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def drain(self) -> None:
        """Take nothing new; what waits is refused, and what is being written goes on."""
        with self._state:
            self._draining = True
            self._state.notify()

    def stop(self) -> None:
        """End the thread; what is still being written ends as it is."""
        with self._state:
            self._draining = self._stopped = True
            self._state.notify()
        if self._thread.is_alive():
            self._thread.join()

    async def answer(
        self, question: Question, settings: GenerationSettings, live: bool, with_hits: bool = False
    ) -> AsyncGenerator[tuple[Event, Job], None]:
        """Answer a question in the common batch; `Finished` comes last.

        Closing the iterator takes the answer out of the batch at once.

        Raises:
            ApiError: the queue is full, the server stops, or the question waited too long.
            InputError: the question cannot be asked.
        """
        deadline = time.monotonic() + self.limits.seconds
        job = Job(question, settings, live, with_hits, asyncio.get_running_loop(), deadline)
        with self._state:
            self._admit_request()
            self._submitted.append(job)
            self._state.notify()
        finished = False
        try:
            while not finished:
                event = await job.events.get()
                finished = isinstance(event, Finished | Exception)
                if isinstance(event, Exception):
                    raise event
                yield event, job
        finally:
            if not finished:
                with self._state:
                    self._cancelled.append(job)
                    self._state.notify()

    async def call(self, work: Callable[[Engine], T]) -> T:
        """Run something on the engine's thread, between two steps.

        Raises:
            ApiError: the queue is full, or the server stops.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def run() -> None:
            try:
                result = work(self.engine)
            except Exception as error:  # noqa: BLE001 - whatever it is, the request that asked is told
                told = error if isinstance(error, ApiError | CosupError) else _failure(error)
                tell(loop, fail, future, told)
            else:
                tell(loop, fulfil, future, result)
            self._release(1)

        with self._state:
            self._admit_request()
            self._calls.append(run)
            self._state.notify()
        return await future

    async def swap(self, engine: Engine) -> None:
        """Let another engine take the answers to come; those that have begun stay with theirs."""
        lane = self._lane(engine)
        with self._state:
            self._calls.append(lambda: self._lanes.append(lane))
            self._state.notify()

    def _admit_request(self) -> None:
        if self._draining:
            raise stopping()
        if self._held >= self.limits.batch_size + self.limits.queue:
            raise busy(self.waiting)
        self._held += 1

    def _release(self, count: int) -> None:
        with self._state:
            self._held -= count

    # -- on the engine's thread --------------------------------------------------------------------------------------

    def _lane(self, engine: Engine) -> _Lane:
        engine.retriever = TimedRetriever(engine.retriever, self.metrics)
        return _Lane(engine, engine.scheduler(self.limits.batch_size))

    def _work(self) -> None:
        while True:
            with self._state:
                while not (self._stopped or self._submitted or self._cancelled or self._calls or self._busy):
                    self._state.wait()
                if self._stopped:
                    break
                submitted, cancelled = list(self._submitted), list(self._cancelled)
                calls = [self._calls.popleft()] if self._calls else []
                self._submitted.clear()
                self._cancelled.clear()
                draining = self._draining
            for call in calls:
                call()
            for job in submitted:
                self._begin(job)
            for job in cancelled:
                self._take_out(job)
            if draining:
                self._refuse_waiting()
            self._check_deadlines()
            self._step()
        for lane in self._lanes:
            for job in list(lane.jobs.values()):
                self._end_early(lane, job)
        self._deliver([(job, stopping()) for job in self._submitted])

    @property
    def _busy(self) -> bool:
        return any(lane.scheduler.busy for lane in self._lanes)

    def _begin(self, job: Job) -> None:
        lane = self._lanes[-1]
        try:
            row = lane.engine.row(job.question, job.settings)
            for passage_id in job.question.candidates or ():
                lane.engine.retriever.passage(passage_id)
        except Exception as error:  # noqa: BLE001 - whatever it is, the thread goes on
            self._deliver([(job, error if isinstance(error, CosupError) else _failure(error))])
            return
        job.row, job.prompt_tokens = row, len(row.pending)
        if job.live and job.settings.beam_size == 1:  # of a beam nothing is certain before the end
            job.stream = lane.engine.events(row)
        lane.jobs[row.origin] = job
        lane.scheduler.add(row)

    def _step(self) -> None:
        """Step every lane once, and tell what has happened."""
        for lane in list(self._lanes):
            if lane.scheduler.busy:
                started = time.perf_counter()
                try:
                    news = self._news(lane, lane.scheduler.step())
                except Exception as error:  # noqa: BLE001 - the answers of the batch fail, the server does not
                    self._fail(lane, error)
                    continue
                self.metrics.decode.observe(time.perf_counter() - started)
                self._deliver(news)
            elif lane is not self._lanes[-1]:
                self._lanes.remove(lane)

    def _news(self, lane: _Lane, done: Sequence[Row]) -> list[tuple[Job, Event | Exception]]:
        news: list[tuple[Job, Event | Exception]] = []
        now = time.monotonic()
        for job in lane.jobs.values():
            self._time(job, now)
            if job.stream is not None:
                news += ((job, self._with_passages(lane, job, event)) for event in job.stream.news())
        for row in done:
            job = lane.jobs.pop(row.origin)
            job.row = row  # of a beam, the best
            if job.stream is None:
                ends = lane.engine.events(row).news() if job.live else [Finished(lane.engine.answer(row))]
                news += ((job, self._with_passages(lane, job, event)) for event in ends)
            self._count(job, row, now)
        return news

    def _with_passages(self, lane: _Lane, job: Job, event: Event) -> Event:
        """Look up the passages that an event names, while the index that has them is at hand."""
        found: list[Hit] = []
        if isinstance(event, Retrieved):
            found = list(event.hits if job.with_hits else event.hits[: event.read])
        elif isinstance(event, Finished) and job.stream is None:
            searches = event.answer.retrievals
            found = [hit for r in searches for hit in (r.hits if job.with_hits else r.hits[: r.read])]
        for hit in found:
            if hit.passage_id not in job.passages:
                job.passages[hit.passage_id] = lane.engine.retriever.passage(hit.passage_id)
        return event

    def _time(self, job: Job, now: float) -> None:
        assert job.row is not None
        if job.begun is None and job.row.context:
            job.begun = now
            self.metrics.waiting.observe(now - job.submitted)
        if not job.prefilled and (job.row.new_tokens or job.row.retrievals):
            job.prefilled = True
            self.metrics.prefill.observe(now - (job.begun or now))

    def _count(self, job: Job, row: Row, now: float) -> None:
        self.metrics.answers.observe(now - job.submitted)
        self.metrics.tokens.labels("prompt").inc(job.prompt_tokens)
        self.metrics.tokens.labels("written").inc(row.new_tokens)
        self.metrics.tokens.labels("passage").inc(job.read_tokens)
        self.metrics.searches.inc(row.retrievals)
        self.metrics.finished.labels("timeout" if job.timed_out else row.finish_reason).inc()

    # -- ends before the end -----------------------------------------------------------------------------------------

    def _take_out(self, job: Job) -> None:
        """Free the row of a request that is gone."""
        for lane in self._lanes:
            if job.row is not None and lane.jobs.pop(job.row.origin, None) is not None:
                lane.scheduler.cancel(job.row)
                self._release(1)
                self.metrics.finished.labels("disconnected").inc()

    def _refuse_waiting(self) -> None:
        for lane in self._lanes:
            for row in list(lane.scheduler.waiting):
                lane.scheduler.cancel(row)
                self._deliver([(lane.jobs.pop(row.origin), stopping())])

    def _check_deadlines(self) -> None:
        now = time.monotonic()
        for lane in self._lanes:
            for job in [job for job in lane.jobs.values() if job.deadline < now]:
                if job.row is not None and job.row in lane.scheduler.waiting:
                    lane.scheduler.cancel(job.row)
                    del lane.jobs[job.row.origin]
                    text = f"no place became free within {self.limits.seconds:g} seconds; try again later"
                    self._deliver([(job, ApiError(503, text, code="waited_too_long"))])
                else:
                    job.timed_out = True
                    self._end_early(lane, job)

    def _end_early(self, lane: _Lane, job: Job) -> None:
        """End an answer as it is."""
        assert job.row is not None
        lane.scheduler.cancel(job.row)
        lane.jobs.pop(job.row.origin, None)
        events = [Finished(lane.engine.answer(job.row))] if job.stream is None else list(job.stream.news())
        self._count(job, job.row, time.monotonic())
        self._deliver([(job, self._with_passages(lane, job, event)) for event in events])

    def _fail(self, lane: _Lane, error: Exception) -> None:
        """Tell all answers of a batch that it failed, and go on with an empty one."""
        failed, lane.jobs = list(lane.jobs.values()), {}
        lane.scheduler = lane.engine.scheduler(self.limits.batch_size)
        told = _failure(error)
        self._deliver([(job, told) for job in failed])
        self.metrics.finished.labels("error").inc(len(failed))

    def _deliver(self, news: Sequence[tuple[Job, Event | Exception]]) -> None:
        """Hand events to the loops of their requests, in one wake-up a loop."""
        if ended := sum(isinstance(event, Finished | Exception) for _, event in news):
            self._release(ended)
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Job, Event | Exception]]] = {}
        for item in news:
            by_loop.setdefault(item[0].loop, []).append(item)
        for loop, items in by_loop.items():
            tell(loop, put, items)


def _failure(error: Exception) -> ApiError:
    """Log what nobody foresaw, and return what clients are told of it."""
    logger.error("the engine failed: %s: %s", type(error).__name__, error, exc_info=error)
    return ApiError(500, f"the engine failed ({type(error).__name__}); see the server's log", code="engine")
