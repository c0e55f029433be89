"""The HTTP API, over the wire: whole requests with damaged bodies and paths, and bytes that are no HTTP.

A status is one that the document names for the route, and never 500; an error has OpenAI's form.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hypothesis import strategies as st

from cosup.errors import CosupError
from cosup.index.build import build_index
from cosup.serving.settings import Limits
from tests import pairs
from tests.fuzz.damage import ODD, as_json, damaged_bytes, damaged_value
from tests.fuzz.running import Run, Target
from tests.serving.servers import NAME, Running, running

CHAT = {
    "model": NAME,
    "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Where was Ada Vale born?"}],
    "max_tokens": 2,
    "temperature": 0.5,
    "top_p": 0.9,
    "seed": 1,
    "stream": False,
    "stream_options": {"include_usage": True},
    "n": 1,
    "user": "me",
    "cosup": {"top_k": 3, "hits": True, "filter": {"lang": "en"}, "candidates": ["p1"], "ret_first": True},
}
PLAIN = {"model": NAME, "messages": [{"role": "user", "content": "Where?"}], "max_tokens": 2}
BODIES: dict[str, list[Any]] = {
    "POST /v1/chat/completions": [CHAT, PLAIN, PLAIN | {"stream": True, "stream_options": {"include_usage": True}}],
    "POST /v1/embeddings": [
        {"model": NAME, "input": ["Elm", "Ash"], "input_type": "query", "encoding_format": "base64", "dimensions": 32},
        {"model": NAME, "input": "Elm"},
    ],
    "POST /v1/search": [{"query": "Elm", "top_k": 2, "filter": {"n": {"gt": 1}}, "candidates": ["p1", "w2"]}],
    "POST /v1/passages": [
        {"passages": [{"id": "z1", "title": "Elm", "text": "Elm is small.", "metadata": {"n": 1}}], "replace": True}
    ],
}
PAGES = ("/v1/passages/w1", "/v1/models", f"/v1/models/{NAME}", "/healthz", "/readyz", "/metrics", "/", "/openapi.json")
PAGES = (*PAGES, "/web/app.js")
PLACES = (*PAGES, "/v1/passages/z1", "/web/../app.py", "/v1/search", "/v1/passages")
STEPS = ("/..", "/%2e%2e", "\x00", "/etc/passwd", "é", "?x=1", "//", "x" * 3000, "%00", "#", "\\", "\n", " ")


def _request(line: str, body: bytes = b"") -> bytes:
    return line.encode("utf-8", "surrogatepass") + b"\n" + body


WHOLE = tuple(_request(line, as_json(body)) for line, bodies in BODIES.items() for body in bodies)
WHOLE = (*WHOLE, *(_request(f"GET {place}") for place in PAGES))
DAMAGED_BODIES = st.one_of(
    *(
        damaged_value(body).map(lambda v, line=line: _request(line, as_json(v)))
        for line, own in BODIES.items()
        for body in own
    )
)
PATHS = st.builds(
    lambda method, place, step, at: _request(f"{method} {place[:at]}{step}{place[at:]}"),
    st.sampled_from(["GET", "DELETE", "GET", "HEAD", "POST", "PUT", "OPTIONS", "TRACE", "X-Y"]),
    st.sampled_from(PLACES),
    st.one_of(st.sampled_from(STEPS), st.text(max_size=10)),
    st.integers(1, 30),
)
ODD_BODIES = st.builds(
    lambda line, value: _request(line, as_json(value)), st.sampled_from(list(BODIES)), st.sampled_from(ODD)
)
REQUESTS = st.one_of(DAMAGED_BODIES, DAMAGED_BODIES, DAMAGED_BODIES, PATHS, ODD_BODIES, damaged_bytes(WHOLE))
WIRE = tuple(
    line + b"\r\nHost: 127.0.0.1\r\nAuthorization: Bearer root\r\nContent-Type: application/json\r\n" + rest
    for line, rest in (
        (b"GET /healthz HTTP/1.1", b"Connection: close\r\n\r\n"),
        (b"POST /v1/search HTTP/1.1", b'Connection: close\r\nContent-Length: 16\r\n\r\n{"query": "Elm"}'),
        (
            b"POST /v1/search HTTP/1.1",
            b'Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{"query": "Elm"}\r\n0\r\n\r\n',
        ),
    )
)


@contextlib.contextmanager
def served(folder: Path) -> Iterator[Running]:
    """Run a server over an untrained pair, whose answers are nonsense, and an index of its own."""
    model = pairs.pair().eval()
    model.save_pretrained(folder / "model")
    model = type(model).from_pretrained(folder / "model").eval()
    build_index(model, pairs.PASSAGES, folder / "index")
    limits = Limits(max_tokens=3, stalled_seconds=2, timeout=20)
    with running(model, folder / "index", limits, admin_keys=frozenset({"root"})) as server:
        yield server


class Client:
    """Asks over one connection as long as that stays open, and checks what comes."""

    def __init__(self, server: Running) -> None:
        self.server = server
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        document = server.ask("GET", "/openapi.json").json
        self.documented = {
            (method.upper(), re.compile(re.sub(r"\\{\w+\\}", ".+", re.escape(path)))): set(
                map(int, operation["responses"])
            )
            for path, operations in document["paths"].items()
            for method, operation in operations.items()
        }

    def send(self, data: bytes) -> None:
        """Send one request: its method and path on the first line, then its body.

        Raises:
            CosupError: it was refused as it should be.
        """
        line, _, body = data.partition(b"\n")
        method, _, path = line.decode("utf-8", "replace").partition(" ")
        method = re.sub(r"[^A-Za-z-]", "", method)[:20] or "GET"
        path = "/" + quote(path, safe="/%?=&.#-_~").lstrip("/")
        headers = {"Content-Type": "application/json", "Authorization": "Bearer root"}
        try:
            self.connection.request(method, path, body or None, headers)
            response = self.connection.getresponse()
            content = response.read()
        except (ConnectionError, http.client.HTTPException):
            self.connection.close()
            assert self.server.ask("GET", "/healthz").status == 200
            raise CosupError("the connection was closed") from None
        self._check(method, path, response, content)

    def _check(self, method: str, path: str, response: http.client.HTTPResponse, content: bytes) -> None:
        status = response.status
        assert status < 500, (status, content)
        known = [
            s for (own, form), s in self.documented.items() if own == method and form.fullmatch(path.partition("?")[0])
        ]
        assert not known or any(status in statuses | {403, 307} for statuses in known), (method, path, status, content)
        assert known or status in (200, 307, 400, 401, 403, 404, 405), (method, path, status, content)
        if method == "HEAD" or status == 307:
            return
        kind = response.getheader("content-type", "")
        if status >= 400 and kind.startswith("text/plain"):
            assert content == b"Invalid HTTP request received."
        elif status >= 400:
            error = json.loads(content)["error"]
            assert set(error) == {"message", "type", "param", "code"}
            assert error["message"]
        elif kind.startswith("application/json"):
            json.loads(content)
        elif kind.startswith("text/event-stream"):
            assert content.endswith(b"data: [DONE]\n\n")
        if status >= 400:
            raise CosupError(f"{status}")


@contextlib.contextmanager
def _api(folder: Path) -> Iterator[Run]:
    with served(folder) as server:
        client = Client(server)
        with contextlib.closing(client.connection):
            yield client.send
        assert server.ask("GET", "/healthz").status == 200
        server.wait_until_idle()


def _received(place: socket.socket) -> bytes:
    """Return what comes until the other side closes, or says nothing for as long as the socket waits."""
    found = b""
    with contextlib.suppress(TimeoutError):
        while part := place.recv(65536):
            found += part
    return found


@contextlib.contextmanager
def _wire(folder: Path) -> Iterator[Run]:
    with served(folder) as server:

        def run(data: bytes) -> None:
            # The server takes the end of what is sent for a client that hung up: it comes once nothing is answered.
            with (
                socket.create_connection(("127.0.0.1", server.port), timeout=30 if data in WIRE else 0.2) as place,
                contextlib.suppress(ConnectionError),
            ):
                place.sendall(data)
                found = _received(place)
                if not found:
                    place.settimeout(30)
                    place.shutdown(socket.SHUT_WR)
                    found = _received(place)
                statuses = [int(s) for s in re.findall(rb"(?:^|\n)HTTP/1\.1 (\d{3})", found)]
                assert all(status < 500 for status in statuses), found
                if statuses[:1] == [200]:
                    return
            raise CosupError("refused")

        yield run
        assert server.ask("GET", "/healthz").status == 200


HTTPS = (
    Target("http-api", _api, REQUESTS, WHOLE),
    Target("http-wire", _wire, damaged_bytes(WIRE), WIRE),
)
