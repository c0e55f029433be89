"""Who may ask, and how much: what stands before the routes, as plain ASGI.

Keys come as `Authorization: Bearer KEY`. Without any, a browser's page of another site must not be able to ask through
its visitor, so names of hosts and origins that are not ours are refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cosup.serving.errors import ApiError
from cosup.serving.metrics import Metrics
from cosup.serving.settings import Limits, ServeSettings, is_loopback

OPEN = frozenset({"/", "/healthz", "/readyz", "/openapi.json"})
WEB = "/web/"
PASSAGES, CHANGES = "/v1/passages", ("POST", "DELETE")  # what needs an admin key


class Guard:
    """Refuses who may not ask.

    Args:
        app: what stands behind.
        settings: keys, host, origins.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self.app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http":
            try:
                self._check(scope)
            except ApiError as error:
                await error.response()(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers, path = Headers(scope=scope), str(scope["path"])
        self._check_origin(headers)
        key = _bearer(headers)
        if scope["method"] in CHANGES and (path == PASSAGES or path.startswith(f"{PASSAGES}/")):
            if not self.settings.admin_keys:
                raise ApiError(
                    403, "the corpus cannot be changed here: the server has no admin key", code="no_admin_key"
                )
            if not _among(key, self.settings.admin_keys):
                raise ApiError(401 if key is None else 403, "this needs the admin key", code="admin_key_needed")
        elif not (self.settings.is_open or path in OPEN or path.startswith(WEB) or self._knows(key)):
            raise ApiError(
                401, "missing or wrong API key; send it as 'Authorization: Bearer KEY'", code="invalid_api_key"
            )

    def _knows(self, key: str | None) -> bool:
        return _among(key, (*self.settings.api_keys, *self.settings.admin_keys))

    def _check_origin(self, headers: Headers) -> None:
        host = headers.get("host", "")
        if self.settings.is_open and not _is_ours(_hostname(host), self.settings.host):
            raise ApiError(
                403, f"the host {host[:100]!r} is not this server's; ask {self.settings.host}", code="wrong_host"
            )
        origin = headers.get("origin")
        if origin is None or origin in self.settings.cors or not self.settings.is_open:
            return
        if origin not in (f"http://{host}", f"https://{host}"):
            raise ApiError(403, f"pages of {origin[:100]} may not ask here; --cors names those that may", code="origin")


class _ClientStalledError(Exception):
    """A client does not take what it is sent, or is gone."""


class Bounded:
    """Reads a request whole, up to its limits of size and time, and lets no client hold up what it is sent.

    Args:
        app: what stands behind.
        limits: see there.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.app = app
        self.limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on once it is read."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self.limits.stalled_seconds):
                body = await self._body(scope, receive)
        except TimeoutError:
            text = f"the request did not come whole within {self.limits.stalled_seconds:g} seconds"
            await ApiError(408, text, code="slow_request").response()(scope, receive, send)
            return
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        if body is None:
            return
        waiting = [{"type": "http.request", "body": body, "more_body": False}]

        async def replayed() -> Message:
            return waiting.pop() if waiting else await receive()

        async def sent(message: Message) -> None:
            try:
                async with asyncio.timeout(self.limits.stalled_seconds):
                    await send(message)
            except (TimeoutError, OSError) as error:
                raise _ClientStalledError from error

        with contextlib.suppress(_ClientStalledError):
            await self.app(scope, replayed, sent)

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return a request's body; None where the client went away before it was whole."""
        most = self.limits.max_body
        too_large = ApiError(413, f"the request has more than {most:,} bytes; send less at a time", code="too_large")
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdecimal() and int(length) > most:
            raise too_large
        parts, size = list[bytes](), 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > most:
                raise too_large
            if not message.get("more_body", False):
                return b"".join(parts)


class Counted:
    """Counts requests by route and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and note what came of it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = "gone"

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            route = str(getattr(scope.get("route"), "path", "other"))
            method = scope["method"] if scope["method"] in ("GET", "POST", "DELETE") else "other"
            self.metrics.requests.labels(route, method, status).inc()


def _bearer(headers: Headers) -> str | None:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" and key.strip() else None


def _among(key: str | None, known: Iterable[str]) -> bool:
    """Whether a key is one of the known, in a time that does not tell how near it is."""
    given, found = (key or "").encode("utf-8", "replace"), False
    for own in known:
        found |= secrets.compare_digest(given, own.encode())
    return found and key is not None


def _hostname(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _is_ours(name: str, bound: str) -> bool:
    return name == bound.lower() or is_loopback(name)
