"""A server on a port: bound, announced, and stopped without losing an answer."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn

from cosup.errors import CosupError
from cosup.serving.app import Served, create_app


def run_server(served: Served, announce: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM, then let the answers on their way come to their ends.

    Args:
        served: what is served.
        announce: called with the address, once it can be reached.

    Raises:
        CosupError: the address cannot be bound to.
    """
    settings = served.settings
    with _bound(settings.host, settings.port) as place, _terminated_quietly():
        config = uvicorn.Config(
            create_app(served),
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(settings.limits.grace_seconds) + 5,
            timeout_keep_alive=30,
        )
        port = place.getsockname()[1]
        name = f"[{settings.host}]" if ":" in settings.host else settings.host
        _Server(config, served, lambda: announce(f"http://{name}:{port}")).run(sockets=[place])


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
        self.served.runner.drain()
        super().handle_exit(sig, frame)


@contextlib.contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            place.bind((host, port))
        except OSError as error:
            what = error.strerror or error
            raise CosupError(f"cannot listen on {host}:{port}: {what}; choose another --port") from error
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
