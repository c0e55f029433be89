"""An endpoint that is busy, late, broken or wrong: asked again or given up, and keys and addresses kept safe."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from cosup.errors import UsageError
from cosup.evaluation.judging.base import Decision
from cosup.evaluation.judging.chat import ChatJudge, ChatSettings
from cosup.evaluation.judging.http import checked_url
from tests.evaluation.judging.endpoint import FAST, Server, chat

KEY = "sk-very-secret"


# -- what may pass -------------------------------------------------------------------------------------------------


def test_nonsense_is_tried_again_and_then_undecided(server: Server) -> None:
    server.answer = lambda premise, hypothesis: "bananas\x1b[31m" if hypothesis == "b" else "yes"
    found = ChatJudge(server.url, "tiny", FAST).decide([("p", "a"), ("p", "b")])
    reason = "undecided after 3 attempts: the judge answers 'bananas [31m', neither yes nor no"
    assert found == [Decision(True, "the model says yes"), Decision(None, reason)]
    assert server.asked_about("b") == 3
    assert server.asked_about("a") == 1


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"{}", b"[]", b"[" * 5000, b'{"choices": []}', b"\xff", chat(None), chat(["yes"]), chat({})],
)
def test_bodies_that_hold_no_answer_are_undecided(server: Server, body: bytes) -> None:
    server.answer = lambda premise, hypothesis: (200, body)
    (decision,) = ChatJudge(server.url, "tiny", FAST).decide([("p", "h")])
    assert decision.entailed is None
    assert "the judge sends no chat answer but" in decision.reason
    assert len(decision.reason) <= 300
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 529])
def test_a_busy_server_is_asked_again(server: Server, status: int) -> None:
    left = [(status, b"busy"), (status, b"busy")]
    server.answer = lambda premise, hypothesis: left.pop() if left else "no: it rains"
    assert ChatJudge(server.url, "tiny", FAST).decide([("p", "h")]) == [Decision(False, "the model says no: it rains")]
    assert len(server.requests) == 3


def test_a_server_that_stays_broken_leaves_pairs_undecided(server: Server) -> None:
    server.answer = lambda premise, hypothesis: (503, b'{"error": "no capacity"}')
    (decision,) = ChatJudge(server.url, "tiny", FAST).decide([("p", "h")])
    assert decision.entailed is None
    assert "after 3 attempts: the judge answers 503 Service Unavailable" in decision.reason
    assert "no capacity" in decision.reason


def test_the_wait_that_a_server_asks_for_is_kept(server: Server) -> None:
    left = [(429, b"")]
    server.answer = lambda premise, hypothesis: left.pop() if left else "yes"
    server.headers["Retry-After"] = "0.3"
    began = time.monotonic()
    assert ChatJudge(server.url, "tiny", FAST).decide([("p", "h")])[0].entailed is True
    assert time.monotonic() - began >= 0.3


def test_waits_grow(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float | None] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout)
            return False

    monkeypatch.setattr("cosup.evaluation.judging.chat.random.uniform", lambda low, high: low)
    server.answer = lambda premise, hypothesis: (500, b"")
    ChatJudge(server.url, "tiny", ChatSettings(attempts=4, backoff=2))._decide(("p", "h"), Stop())
    assert waits == [0, 1, 2, 4]


def test_a_server_that_is_too_slow_leaves_the_pair_undecided(server: Server) -> None:
    over = threading.Event()

    def answer(premise: str, hypothesis: str) -> str:
        if hypothesis == "slow":
            over.wait(5)
        return "yes"

    server.answer = answer
    settings = ChatSettings(timeout=0.1, attempts=2, backoff=0.001)
    found = ChatJudge(server.url, "tiny", settings).decide([("p", "slow"), ("p", "quick")])
    over.set()
    assert found[0] == Decision(None, "undecided after 2 attempts: no answer within 0.1 s")
    assert found[1].entailed is True


def raw_server(answer: Callable[[socket.socket], None]) -> tuple[str, Callable[[], None]]:
    """Return the address of a server that takes connections one by one, and what ends it."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                answer(connection)

    thread = threading.Thread(target=serve)
    thread.start()

    def end() -> None:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()

    return f"http://127.0.0.1:{listener.getsockname()[1]}/v1", end


@pytest.mark.parametrize("sent", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort"])
def test_a_connection_that_breaks_is_tried_again(server: Server, sent: bytes) -> None:
    asked: list[int] = []

    def answer(connection: socket.socket) -> None:
        asked.append(1)
        connection.sendall(sent)

    url, end = raw_server(answer)
    (decision,) = ChatJudge(url, "tiny", FAST).decide([("p", "h")])
    end()
    assert decision.entailed is None
    assert len(asked) == 3


def test_an_answer_that_trickles_in_is_cut_off_in_time(server: Server) -> None:
    def answer(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(1000):
            try:
                connection.sendall(b"x")
            except OSError:
                return
            time.sleep(0.03)

    url, end = raw_server(answer)
    (decision,) = ChatJudge(url, "tiny", ChatSettings(timeout=0.2, attempts=1)).decide([("p", "h")])
    end()
    assert decision == Decision(None, "undecided after 1 attempts: no answer within 0.2 s")


def test_an_endless_answer_is_given_up(server: Server) -> None:
    server.answer = lambda premise, hypothesis: (200, b"x" * (2**20 + 1))
    (decision,) = ChatJudge(server.url, "tiny", ChatSettings(attempts=1)).decide([("p", "h")])
    assert "longer than 1,048,576 bytes" in decision.reason


# -- what cannot pass ----------------------------------------------------------------------------------------------


def test_a_wrong_key_ends_it_at_once_and_is_never_shown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answer = lambda premise, hypothesis: (401, f"Incorrect API key: {KEY}".encode())
    pairs = [("p", str(i)) for i in range(200)]
    with pytest.raises(UsageError) as missing:
        ChatJudge(server.url, "tiny", FAST).decide(pairs)
    assert str(missing.value).startswith(f"the judge at {server.url} answers 401 Unauthorized (")
    assert str(missing.value).endswith("; put its key into OPENAI_API_KEY")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(UsageError, match="check the key in OPENAI_API_KEY") as wrong:
        ChatJudge(server.url, "tiny", FAST).decide(pairs)
    assert KEY not in str(wrong.value)
    assert "Incorrect API key: ***" in str(wrong.value)
    assert len(server.requests) < 50


def test_the_key_is_sent_and_kept_nowhere(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", f"{KEY}\n")
    server.answer = lambda premise, hypothesis: f"yes: you sent {KEY}"
    judge = ChatJudge(server.url, "tiny", ChatSettings(key_variable="MY_KEY"))
    (decision,) = judge.decide([("p", "h")])
    assert server.requests[0]["key"] == f"Bearer {KEY}"
    assert decision == Decision(True, "the model says yes: you sent ***")
    assert KEY not in judge.name + repr(vars(judge))


def test_a_key_that_no_header_can_hold_is_refused_unseen(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a\nb")
    with pytest.raises(UsageError, match=r"^the key in OPENAI_API_KEY has characters that no key has; set it again$"):
        ChatJudge(server.url, "tiny", FAST).decide([("p", "h")])


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, r"404 Not Found \(nothing\); expected an address that has /chat/completions below it, and a model"),
        (403, r"403 Forbidden \(nothing\); put its key into OPENAI_API_KEY"),
        (402, r"402 Payment Required \(nothing\); asked for 'tiny'"),
        (308, r"308 Permanent Redirect \(nothing\); it sends on to http://elsewhere/v1; give that address"),
    ],
)
def test_what_no_repetition_mends_is_reported_once(server: Server, status: int, message: str) -> None:
    server.answer = lambda premise, hypothesis: (status, b"nothing")
    server.headers["Location"] = "http://elsewhere/v1"
    with pytest.raises(UsageError, match=f"the judge at {server.url} answers {message}"):
        ChatJudge(server.url, "tiny", FAST).decide([("p", "h")] * 100)
    assert len(server.requests) < 30


def test_a_used_up_quota_is_no_wait(server: Server) -> None:
    server.answer = lambda premise, hypothesis: (429, b'{"error": {"code": "insufficient_quota"}}')
    with pytest.raises(UsageError, match="insufficient_quota"):
        ChatJudge(server.url, "tiny", FAST).decide([("p", "h")])


def test_a_server_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    message = rf"^cannot reach the judge at http://127.0.0.1:{port}/v1: Connection refused; start it, or give its right"
    with pytest.raises(UsageError, match=message):
        ChatJudge(f"http://127.0.0.1:{port}/v1", "tiny", FAST).decide([("p", "h")] * 100)


def test_a_pair_that_is_too_long_is_undecided_even_if_it_comes_first(server: Server) -> None:
    def answer(premise: str, hypothesis: str) -> Any:
        return (400, b"maximum context length is 10") if len(premise) > 20 else "yes"

    server.answer = answer
    found = ChatJudge(server.url, "tiny", FAST).decide([("long " * 20, "h"), ("short", "h")])
    assert found[0] == Decision(None, "the judge answers 400 Bad Request (maximum context length is 10)")
    assert found[1].entailed is True


def test_an_endpoint_that_takes_no_request_is_reported(server: Server) -> None:
    server.answer = lambda premise, hypothesis: (400, b"unsupported parameter max_tokens")
    with pytest.raises(UsageError, match=r"unsupported parameter max_tokens\), and takes no request at http://127"):
        ChatJudge(server.url, "tiny", FAST).decide([("p", "h")] * 100)
    assert len(server.requests) < 40


def test_an_error_does_not_wait_for_those_who_hang(server: Server) -> None:
    over = threading.Event()

    def answer(premise: str, hypothesis: str) -> Any:
        if hypothesis == "1":
            return 401, b""
        over.wait(5)
        return "yes"

    server.answer = answer
    began = time.monotonic()
    with pytest.raises(UsageError, match="401"):
        ChatJudge(server.url, "tiny", FAST).decide([("p", str(i)) for i in range(4)])
    assert time.monotonic() - began < 3
    over.set()


# -- addresses and names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://host:8000/v1", "http://host:8000/v1"),
        ("https://host/v1/", "https://host/v1"),
        ("https://host/v1/chat/completions", "https://host/v1"),
        ("http://[::1]:80", "http://[::1]:80"),
    ],
)
def test_addresses(given: str, url: str) -> None:
    assert checked_url(given) == url


@pytest.mark.parametrize(
    "given", ["host/v1", "ftp://host/v1", "http://", "http:///v1", "http://h ost/v1", "http://h\n/v1", "http://a..b/v1"]
)
def test_what_is_no_address_is_refused(given: str) -> None:
    with pytest.raises(UsageError, match="the judge's address is"):
        checked_url(given)


@pytest.mark.parametrize(
    "given", ["http://me:secret@host/v1", "https://host/v1?key=secret", "http://h:secret/v1?secret"]
)
def test_addresses_with_secrets_are_refused_without_showing_them(given: str) -> None:
    with pytest.raises(UsageError) as refused:
        checked_url(given)
    assert "key=" not in str(refused.value)
    assert "@" not in str(refused.value)
