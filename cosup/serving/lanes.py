"""A lane: an engine over one state of the corpus, with the answers that began with it; all on the engine's thread."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from cosup.errors import InputError
from cosup.generation.engine import Engine
from cosup.generation.events import Event, Finished, Retrieved
from cosup.generation.prompts import TooLongError
from cosup.generation.rows import Row
from cosup.records import Hit
from cosup.serving.errors import ApiError, failure, stopping
from cosup.serving.jobs import Job, News, TimedRetriever
from cosup.serving.metrics import Metrics


class Lane:
    """Answers over one corpus, step by step.

    Args:
        engine: over it.
        batch_size: answers written at once.
        metrics: what is noted.
    """

    def __init__(self, engine: Engine, batch_size: int, metrics: Metrics) -> None:
        self.retriever = TimedRetriever(engine.retriever, metrics)
        self.engine = engine.searching_with(self.retriever)
        self.metrics = metrics
        self.batch_size = batch_size
        self.renew()
        self.jobs: dict[int, Job] = {}  # by origin of their rows

    @property
    def busy(self) -> bool:
        """Whether an answer is on its way or waits."""
        return self.scheduler.busy

    def begin(self, job: Job) -> None:
        """Let an answer wait for its place.

        Raises:
            ApiError: the question cannot be asked.
        """
        try:
            row = self.engine.row(job.question, job.settings)
            for passage_id in job.question.candidates or ():
                self.retriever.passage(passage_id)
        except TooLongError as error:
            raise ApiError(400, f"the question {error.fact}", "messages", "context_length_exceeded") from None
        except InputError as error:
            raise ApiError(400, str(error), "cosup.candidates", "no_such_passage") from None
        job.row, job.prompt_tokens, job.stream = row, len(row.pending), None
        if job.live and job.settings.beam == 1:  # of a beam nothing is certain before the end
            job.stream = self.engine.events(row)
        self.jobs[row.origin] = job
        self.scheduler.add(row)

    def step(self) -> News:
        """Step all answers once and return what has happened; an answer whose retrieval failed ends with that error.

        Raises:
            Exception: the whole step failed; see `fail`.
        """
        started = time.monotonic()
        done = self.scheduler.step()
        now = time.monotonic()
        self.metrics.decode.observe(now - started)
        news = self._retrievals_failed()
        for job in list(self.jobs.values()):
            self._time(job, started, now)
            if job.stream is not None:
                news += self._told(job, job.stream.news())
        for row in done:
            if row.origin in self.jobs:
                news += self._ended(self.jobs[row.origin], row)
        return news

    def take_out(self, job: Job) -> bool:
        """Free the place of an answer; whether it had one here."""
        if job.row is None or self.jobs.pop(job.row.origin, None) is None:
            return False
        self.scheduler.cancel(job.row)
        return True

    def take_out_waiting(self) -> list[Job]:
        """Take out the answers that have not begun, and return them."""
        rows = list(self.scheduler.waiting)
        waiting = [self.jobs[row.origin] for row in rows]
        for job in waiting:
            self.take_out(job)
        return waiting

    def refuse_waiting(self) -> News:
        """End the answers that have not begun."""
        return [(job, stopping()) for job in self.take_out_waiting()]

    def past_deadline(self, now: float, seconds: float) -> News:
        """End the answers whose time is over: those that have begun as they are, the others with an error."""
        news: News = []
        for job in [job for job in self.jobs.values() if job.deadline < now]:
            if job.row in self.scheduler.waiting:
                self.take_out(job)
                text = f"no place became free within {seconds:g} seconds; try again later"
                news.append((job, ApiError(503, text, code="waited_too_long")))
            else:
                job.timed_out = True
                news += self.end_early(job)
        return news

    def end_early(self, job: Job) -> News:
        """End an answer as it is."""
        assert job.row is not None
        self.scheduler.cancel(job.row)
        return self._ended(job, job.row)

    def fail(self, error: Exception) -> News:
        """Give up all answers after a step that failed. Then `renew`, before anything else is begun."""
        failed, self.jobs = list(self.jobs.values()), {}
        told = failure(error)
        self.metrics.finished.labels("error").inc(len(failed))
        return [(job, told) for job in failed]

    def renew(self) -> None:
        """Begin with an empty batch."""
        self.scheduler = self.engine.scheduler(self.batch_size, bear_failures=True)

    # -- what is told ----------------------------------------------------------------------------------------------

    def _ended(self, job: Job, row: Row) -> News:
        """Tell the end of an answer, its last events before it."""
        job.row = row  # of a beam, the best
        events: Iterable[Event] = [Finished(self.engine.answer(row))]
        if job.stream is not None:
            events = job.stream.news()
        elif job.live:
            events = self.engine.events(row).news()
        return self._told(job, events)

    def _told(self, job: Job, events: Iterable[Event]) -> News:
        """Return events with the passages they name looked up; an answer for which that fails ends with the error.

        One that is told to its end is counted and forgotten.
        """
        news: News = []
        try:
            for event in events:
                self._look_up(job, event)
                news.append((job, event))
        except Exception as error:  # noqa: BLE001 - one answer fails, not the batch
            self.take_out(job)
            self.metrics.finished.labels("error").inc()
            news.append((job, failure(error)))
        if news and isinstance(news[-1][1], Finished) and job.row is not None:
            del self.jobs[job.row.origin]
            self._count(job, job.row)
        return news

    def _look_up(self, job: Job, event: Event) -> None:
        """Look up the passages that an event names, while the index that has them is at hand."""
        found: Sequence[Hit] = ()
        if isinstance(event, Retrieved):
            found = event.hits if job.with_hits else event.hits[: event.read]
        elif isinstance(event, Finished):
            searches = event.answer.retrievals
            found = [hit for r in searches for hit in (r.hits if job.with_hits else r.hits[: r.read])]
        for hit in found:
            if hit.passage_id not in job.passages:
                job.passages[hit.passage_id] = self.retriever.passage(hit.passage_id)

    def _retrievals_failed(self) -> News:
        """End the answers one of whose retrievals failed in this step."""
        news: News = []
        for origin, error in self.scheduler.take_failures().items():
            if (job := self.jobs.pop(origin, None)) is not None:
                self.metrics.finished.labels("error").inc()
                news.append((job, failure(error)))
        return news

    # -- what is noted ---------------------------------------------------------------------------------------------

    def _time(self, job: Job, started: float, now: float) -> None:
        """Note when an answer began (with the step that first read something of it) and when its prompt was read."""
        assert job.row is not None
        if job.begun is None and job.row.context:
            job.begun = started
            self.metrics.waiting.observe(started - job.submitted)
        if job.begun is not None and not job.prefilled and (job.row.new_tokens or job.row.retrievals):
            job.prefilled = True
            self.metrics.prefill.observe(now - job.begun)

    def _count(self, job: Job, row: Row) -> None:
        self.metrics.answers.observe(time.monotonic() - job.submitted)
        for kind, count in (("prompt", job.prompt_tokens), ("written", row.new_tokens), ("passage", row.read_tokens)):
            self.metrics.tokens.labels(kind).inc(count)
        self.metrics.searches.inc(row.retrievals)
        self.metrics.finished.labels("timeout" if job.timed_out else row.finish_reason).inc()
