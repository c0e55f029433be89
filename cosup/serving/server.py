"""A server on a port: bound, announced, and stopped without losing an answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from math import ceil
from types import FrameType

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from cosup.errors import NOTICE, UsageError
from cosup.serving.app import Served, create_app

logger = logging.getLogger(__name__)


def run_server(place: socket.socket, served: Served, announce: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM, then let the answers on their way come to their ends.

    Args:
        place: of `bound`.
        served: what is served.
        announce: called with the address, once it can be reached.
    """
    host = served.settings.host
    name, port = f"[{host}]" if ":" in host else host, place.getsockname()[1]
    with _terminated_quietly():
        _Server(config_of(served), served, lambda: announce(f"http://{name}:{port}")).run(sockets=[place])


def config_of(served: Served) -> uvicorn.Config:
    """Return how uvicorn is to run the app."""
    limits = served.settings.limits
    return uvicorn.Config(
        create_app(served),
        log_level="warning",
        access_log=False,
        server_header=False,
        http=patient(limits.stalled_seconds),
        timeout_graceful_shutdown=ceil(limits.grace) + 5,
        timeout_keep_alive=30,
        limit_concurrency=limits.batch_size + limits.queue + 1024,
    )


def patient(seconds: float) -> type[H11Protocol]:
    """Return uvicorn's protocol, which waits so many seconds for the head of a request and no longer."""

    class Patient(H11Protocol):
        timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._expect()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:  # the head is there
                self._expect(False)
            elif self.timer is None and self.conn.trailing_data[0]:
                self._expect()

        def connection_lost(self, exc: Exception | None) -> None:
            self._expect(False)
            super().connection_lost(exc)

        def _expect(self, head: bool = True) -> None:
            if self.timer is not None:
                self.timer.cancel()
            self.timer = self.loop.call_later(seconds, self.transport.abort) if head else None

    return Patient


class _Server(uvicorn.Server):
    """Uvicorn's, which refuses new answers as soon as it is told to stop."""

    def __init__(self, config: uvicorn.Config, served: Served, started: Callable[[], None]) -> None:
        super().__init__(config)
        self.served = served
        self.tell = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin, and tell."""
        await super().startup(sockets)
        if self.started:
            self.tell()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take no more answers, and stop once those on their way are written."""
        logger.log(NOTICE, "stopping; %d answers are on their way", self.served.runner.running)
        self.served.runner.drain()
        super().handle_exit(sig, frame)


@contextlib.contextmanager
def bound(host: str, port: int, stalled_seconds: float) -> Iterator[socket.socket]:
    """Bind to an address; connections end whose client takes nothing for so many seconds.

    Raises:
        UsageError: it cannot be bound to.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # of a client that takes nothing: the connection ends, buffers and all
            place.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * stalled_seconds))
        try:
            place.bind((host, port))
        except OSError as error:
            what = error.strerror or error
            raise UsageError(f"cannot listen on {host}:{port}: {what}; choose another --port") from error
        yield place


@contextlib.contextmanager
def _terminated_quietly() -> Iterator[None]:
    """Let a server that was told to stop end as one that is done; uvicorn raises the signal again afterwards."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)
