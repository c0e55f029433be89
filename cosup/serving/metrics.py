"""What a server measures of itself, in Prometheus' text form."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_WHOLE = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """Counters and histograms of one server; times are in seconds.

    Args:
        queued: returns how many requests wait.
        running: returns how many answers are being written.
        passages: returns how many passages are searched.
    """

    def __init__(
        self, queued: Callable[[], float], running: Callable[[], float], passages: Callable[[], float]
    ) -> None:
        self.registry = CollectorRegistry()
        histogram, counter = self._histogram, self._counter
        self.prefill = histogram("prefill_seconds", "From the start of an answer to its first token or search", _WHOLE)
        self.decode = histogram("decode_step_seconds", "One step of the generator for all answers", _FAST)
        self.retrieval = histogram("retrieval_seconds", "One search of the index, for one or several answers", _FAST)
        self.waiting = histogram("queue_seconds", "From a request to the start of its answer", _WHOLE)
        self.answers = histogram("answer_seconds", "From a request to the end of its answer", _WHOLE)
        self.requests = counter("requests", "Requests by route, method and status", ("route", "method", "status"))
        self.tokens = counter("tokens", "Tokens of prompts, of passages read, and written", ("kind",))
        self.searches = counter("retrievals", "Searches that answers made")
        self.finished = counter("answers", "Answers by how they ended", ("reason",))
        for name, text, value in (
            ("queue_length", "Requests that wait", queued),
            ("running", "Answers being written", running),
            ("passages", "Passages that are searched", passages),
        ):
            Gauge(f"cosup_{name}", text, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """Return everything as Prometheus reads it."""
        return generate_latest(self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"cosup_{name}", text, registry=self.registry, buckets=buckets)

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"cosup_{name}", text, labels, registry=self.registry)
