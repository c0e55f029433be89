"""One request to an endpoint that speaks the OpenAI chat format (`POST BASE/chat/completions`), and what can go wrong.

Three kinds of trouble: `UsageError` where no request can succeed (a wrong key or address, no server), `RefusedError`
where this one cannot (too long), `TroubleError` where it may succeed later (a timeout, 429, 5xx, an answer that is no
answer). The key is read from the environment for each request; it is not kept and does not get into messages.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import urlsplit

from cosup.errors import UsageError
from cosup.evaluation.judging.base import one_line

KEY_VARIABLE = "OPENAI_API_KEY"
_LATER = frozenset((408, 409, 425, 429, *range(500, 600)))
_THIS_ONE = frozenset((400, 413, 422))
_LONGEST_WAIT = 60.0  # seconds, whatever the server asks for
_LONGEST_ANSWER = 2**20  # bytes
_CHAT = "/chat/completions"


class TroubleError(Exception):
    """A request failed in a way that may pass.

    Args:
        reason: one line.
        wait: seconds that the server asks to wait, if it does.
    """

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class RefusedError(Exception):
    """The server does not take this request; the message is one line."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A model behind an endpoint.

    Attributes:
        url: the base address, such as `http://localhost:8000/v1`.
        model: as the endpoint calls it.
        timeout: seconds that a request may take.
        max_tokens: of an answer, at most.
        key_variable: environment variable with the key; where it is empty, no key is sent.

    Raises:
        UsageError: the address is none, or holds a key; no model is named.
    """

    url: str
    model: str
    timeout: float
    max_tokens: int
    key_variable: str = KEY_VARIABLE

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", checked_url(self.url))
        if not self.model.strip():
            raise UsageError(f"{self.url} names no model; expected {self.url}#MODEL")

    def complete(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return what the model answers to messages, at temperature 0.

        Raises:
            UsageError: the endpoint cannot be used at all; names the address and what to do.
            RefusedError: the endpoint does not take this request.
            TroubleError: it may be taken later.
        """
        asked = {"model": self.model, "messages": list(messages), "temperature": 0, "max_tokens": self.max_tokens}
        return _content_of(self._post(json.dumps(asked).encode("ascii")))

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "cosup"}
        if key := self._key():
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url + _CHAT, body, headers, method="POST")
        try:
            with urllib.request.build_opener(_NoRedirects).open(request, timeout=self.timeout) as answer:
                return self._masked(_read(answer, time.monotonic() + self.timeout))
        except urllib.error.HTTPError as error:
            with error:
                raise self._trouble_of(error) from None
        except urllib.error.URLError as error:
            raise self._unreachable(error.reason) from None
        except TimeoutError:
            raise TroubleError(f"no answer within {self.timeout:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise TroubleError(one_line(f"the connection broke: {error or type(error).__name__}")) from None

    def _unreachable(self, reason: Any) -> Exception:
        if isinstance(reason, TimeoutError):
            return TroubleError(f"no connection within {self.timeout:g} s")
        if isinstance(reason, ConnectionResetError | BrokenPipeError | ssl.SSLEOFError):
            return TroubleError(one_line(f"the connection broke: {reason}"))
        said = one_line(str(getattr(reason, "strerror", None) or reason))
        return UsageError(f"cannot reach the judge at {self.url}: {said}; start it, or give its right address")

    def _trouble_of(self, error: urllib.error.HTTPError) -> Exception:
        said = self._said(error)
        answer = f"{error.code} {one_line(str(error.reason))}".strip() + (f" ({said})" if said else "")
        if error.code in _THIS_ONE:
            return RefusedError(f"the judge answers {answer}")
        if error.code in _LATER and "insufficient_quota" not in said:
            return TroubleError(f"the judge answers {answer}", _wait_of(error.headers.get("Retry-After")))
        return UsageError(f"the judge at {self.url} answers {answer}; {self._advice(error)}")

    def _advice(self, error: urllib.error.HTTPError) -> str:
        if error.code in (401, 403):
            known = bool(self._key())
            return f"check the key in {self.key_variable}" if known else f"put its key into {self.key_variable}"
        if error.code in (404, 405):
            return f"expected an address that has {_CHAT} below it, and a model it serves (asked for '{self.model}')"
        if 300 <= error.code < 400:
            return f"it sends on to {one_line(str(error.headers.get('Location')))}; give that address"
        return f"asked for '{self.model}'"

    def _said(self, error: urllib.error.HTTPError) -> str:
        """Return the server's own words in a line."""
        try:
            return one_line(self._masked(error.read(_LONGEST_ANSWER)).decode("utf-8", "replace"))
        except (OSError, http.client.HTTPException):
            return ""

    def _masked(self, answer: bytes) -> bytes:
        """Return an answer without the key, which a server may repeat."""
        key = self._key().encode("ascii")
        return answer.replace(key, b"***") if key else answer

    def _key(self) -> str:
        key = os.environ.get(self.key_variable, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise UsageError(f"the key in {self.key_variable} has characters that no key has; set it again")
        return key


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows nothing: a redirected request would lose its body, and take the key to another server."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        return None


def checked_url(url: str) -> str:
    """Return a base address without what comes after it.

    Raises:
        UsageError: it is none of http or https, or holds a password or a query; neither is shown.
    """
    expected = "expected http(s)://HOST/v1"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
        (host or "").encode("idna")  # as the connection will
    except ValueError as error:
        raise UsageError(f"the judge's address is no address: {error}; {expected}") from None
    if "@" in parts.netloc or parts.query:
        raise UsageError(f"the judge's address holds a password or a query; {expected}, and the key in a variable")
    plain = url.isascii() and url.isprintable() and " " not in url
    if parts.scheme not in ("http", "https") or not host or not plain:
        raise UsageError(f"the judge's address is '{one_line(url)}'; {expected}")
    path = parts.path.rstrip("/").removesuffix(_CHAT).rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path}"


def _read(answer: Any, deadline: float) -> bytes:
    """Read a body within a time and a size, however slowly or long the server sends."""
    parts: list[bytes] = []
    while part := answer.read1(65536):
        parts.append(part)
        if time.monotonic() > deadline:
            raise TimeoutError
        if sum(map(len, parts)) > _LONGEST_ANSWER:
            raise TroubleError(f"the judge's answer is longer than {_LONGEST_ANSWER:,} bytes")
    return b"".join(parts)


def _content_of(body: bytes) -> str:
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        content = None
    if not isinstance(content, str):
        raise TroubleError(f"the judge sends no chat answer but '{one_line(body.decode('utf-8', 'replace'), 100)}'")
    return content


def _wait_of(header: str | None) -> float | None:
    """Read `Retry-After` in seconds; its other form, a date, is passed over."""
    try:
        return min(_LONGEST_WAIT, max(0.0, float(header or "")))
    except ValueError:
        return None
