"""One engine for all clients: a thread that steps the continuous batch, and what web requests hand to it.

Everything that runs a model runs on that thread: answers step by step, and between two steps what else is asked for
(embeddings, searches), a piece at a time. What happens to an answer goes back to the event loop of its request.

An answer keeps to the index that it began with: when the corpus changes, a new lane takes the answers to come, and the
old one goes once its last answer is written.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

from cosup.errors import CosupError
from cosup.generation.engine import Engine
from cosup.generation.events import Event, Finished
from cosup.generation.settings import GenerationSettings
from cosup.records import Question
from cosup.serving.errors import ApiError, broken, busy, failure, stopping, too_slow
from cosup.serving.jobs import Job, News, fail, fulfil, put, tell
from cosup.serving.lanes import Lane
from cosup.serving.metrics import Metrics
from cosup.serving.settings import Limits

T = TypeVar("T")


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
        self._lanes = [Lane(engine, limits.batch_size, self.metrics)]
        self._submitted: deque[Job] = deque()
        self._cancelled: deque[Job] = deque()
        self._calls: deque[Callable[[], None]] = deque()
        self._swaps: deque[Callable[[], None]] = deque()
        self._held = 0  # requests that have, or wait for, a place
        self._state = threading.Condition()
        self._drained: float | None = None  # when
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
    def alive(self) -> bool:
        """Whether the engine works; once it does not, it never will again."""
        return self._thread.ident is None or self._thread.is_alive()

    @property
    def ready(self) -> bool:
        """Whether answers are taken."""
        return self._thread.is_alive() and self._drained is None

    # -- from the event loop ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def drain(self) -> None:
        """Take nothing new; what waits is refused, and what is being written goes on for the time of grace."""
        with self._state:
            self._drained = self._drained or time.monotonic()
            self._state.notify()

    def stop(self) -> None:
        """End the thread; what is still being written ends as it is."""
        self.drain()
        with self._state:
            self._stopped = True
            self._state.notify()
        if self._thread.is_alive():
            self._thread.join()

    async def answer(
        self, question: Question, settings: GenerationSettings, live: bool, with_hits: bool = False
    ) -> AsyncGenerator[tuple[Event, Job], None]:
        """Answer a question in the common batch; `Finished` comes last.

        Closing the iterator takes the answer out of the batch at once.

        Raises:
            ApiError: the queue is full, the server stops, the question cannot be asked, or it waited too long.
        """
        deadline = time.monotonic() + self.limits.timeout
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

    async def call(self, *works: Callable[[Engine], T]) -> list[T]:
        """Run something on the engine's thread, each piece of it between two steps; nothing more once the caller goes.

        Returns:
            What the pieces give.

        Raises:
            ApiError: the queue is full, the server stops, or it takes too long.
            InputError: as the pieces do.
        """
        with self._state:
            self._admit_request()
        try:
            async with asyncio.timeout(self.limits.timeout):
                return [await self._between_steps(self._calls, work) for work in works]
        except TimeoutError:
            raise too_slow(self.limits.timeout) from None
        finally:
            self._release(1)

    async def swap(self, make: Callable[[], Engine]) -> None:
        """Let another engine take the answers to come, those that wait among them; what has begun stays where it is.

        Args:
            make: makes the engine, on the engine's thread.
        """
        await self._between_steps(self._swaps, lambda _: self._change_lanes(make()))

    async def _between_steps(self, queue: deque[Callable[[], None]], work: Callable[[Engine], T]) -> T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def run() -> None:
            if future.cancelled():
                return
            try:
                result = work(self.engine)
            except Exception as error:  # noqa: BLE001 - whatever it is, the request that asked is told
                told = error if isinstance(error, ApiError | CosupError) else failure(error)
                tell(loop, fail, future, told)
            else:
                tell(loop, fulfil, future, result)

        with self._state:
            self._check_works()
            queue.append(run)
            self._state.notify()
        return await future

    def _admit_request(self) -> None:
        self._check_works()
        if self._drained is not None:
            raise stopping()
        if self._held >= self.limits.batch_size + self.limits.queue:
            raise busy(self.waiting)
        self._held += 1

    def _check_works(self) -> None:
        if self._stopped or not self.alive:
            raise broken() if self._drained is None else stopping()

    def _release(self, count: int) -> None:
        with self._state:
            self._held -= count

    # -- on the engine's thread --------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while self._turn():
                pass
        except Exception as error:  # noqa: BLE001 - nobody may wait for a thread that is gone
            with self._state:
                self._stopped = True
            for lane in self._lanes:
                self._deliver(lane.fail(error))
        else:
            for lane in self._lanes:
                for job in list(lane.jobs.values()):
                    self._deliver(lane.end_early(job))
        with self._state:
            left, calls = list(self._submitted), [*self._swaps, *self._calls]
        self._deliver([(job, stopping()) for job in left])
        for call in calls:
            call()

    def _turn(self) -> bool:
        """Do what was asked for since the last turn, and one step; whether there is a next turn."""
        with self._state:
            while not (self._stopped or self._asked or any(lane.busy for lane in self._lanes)):
                self._state.wait()
            if self._stopped:
                return False
            swaps, calls = list(self._swaps), [self._calls.popleft()] if self._calls else []
            submitted, cancelled = list(self._submitted), list(self._cancelled)
            for queue in (self._swaps, self._submitted, self._cancelled):
                queue.clear()
        for each in (*swaps, *calls):
            each()
        for job in submitted:
            self._begin(job)
        for job in cancelled:
            self._take_out(job)
        self._keep_time()
        self._step()
        return True

    @property
    def _asked(self) -> bool:
        return bool(self._submitted or self._cancelled or self._calls or self._swaps)

    def _begin(self, job: Job) -> None:
        try:
            self._lanes[-1].begin(job)
        except Exception as error:  # noqa: BLE001 - whatever it is, the thread goes on
            self._deliver([(job, failure(error))])

    def _step(self) -> None:
        """Step every lane once, tell what has happened, and drop the old lanes that are done."""
        for lane in self._lanes:
            if not lane.busy:
                continue
            try:
                news = lane.step()
            except Exception as error:  # noqa: BLE001 - the answers of the batch fail, the server does not
                self._deliver(lane.fail(error))
                lane.renew()
            else:
                self._deliver(news)
        self._drop_idle()

    def _change_lanes(self, engine: Engine) -> None:
        lane = Lane(engine, self.limits.batch_size, self.metrics)
        moved = [job for old in self._lanes for job in old.take_out_waiting()]
        self._lanes.append(lane)
        for job in moved:
            self._begin(job)
        self._drop_idle()

    def _drop_idle(self) -> None:
        self._lanes[:-1] = [lane for lane in self._lanes[:-1] if lane.busy]

    def _take_out(self, job: Job) -> None:
        """Free the place of a request that is gone."""
        if any(lane.take_out(job) for lane in self._lanes):
            self._release(1)
            self.metrics.finished.labels("disconnected").inc()

    def _keep_time(self) -> None:
        """End what has had its time; once the server is to stop, what waits at once and the rest after the grace."""
        if self._drained is not None:
            grace = self._drained + self.limits.grace
            for lane in self._lanes:
                self._deliver(lane.refuse_waiting())
                for job in lane.jobs.values():
                    job.deadline = min(job.deadline, grace)
        now = time.monotonic()
        for lane in self._lanes:
            self._deliver(lane.past_deadline(now, self.limits.timeout))

    def _deliver(self, news: News) -> None:
        """Hand events to the loops of their requests, in one wake-up a loop."""
        if ended := sum(isinstance(event, Finished | Exception) for _, event in news):
            self._release(ended)
        by_loop: dict[asyncio.AbstractEventLoop, News] = {}
        for item in news:
            by_loop.setdefault(item[0].loop, []).append(item)
        for loop, items in by_loop.items():
            tell(loop, put, items)
