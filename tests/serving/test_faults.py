"""A bad day: clients that go, stall or crowd in; a step that fails; a server that is told to stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cosup.modeling import CoSupervisedModel
from cosup.serving.settings import Limits
from tests.serving.servers import Running, chat_body, running, wait_for

ASKED = "Where was the author of Red Tide born?"


def send(port: int, body: dict[str, Any]) -> socket.socket:
    """Send a request and return its connection, unread."""
    content = json.dumps(body).encode()
    raw = socket.create_connection(("127.0.0.1", port), timeout=20)
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    raw.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return raw


def read_until(raw: socket.socket, what: bytes) -> bytes:
    """Read until something has come, or the other side has closed."""
    found = b""
    while what not in found and (more := raw.recv(65536)):
        found += more
    return found


def counted(server: Running, name: str) -> float:
    """Return the value of a metric."""
    lines = server.served.runner.metrics.text().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


# -- clients that go --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_frees_its_row_at_once(toy: Path, toy_model: CoSupervisedModel, stream: bool) -> None:
    """In the middle of its answer: the place is free long before the answer would have been whole."""
    with running(toy_model, toy / "index", Limits(batch_size=1), pace=0.2) as server:
        raw = send(server.port, chat_body(ASKED, stream=stream))
        wait_for(lambda: server.served.runner.running == 1)
        if stream:
            assert b"data: " in read_until(raw, b"data: ")
        raw.close()
        began = time.monotonic()
        server.wait_until_idle()
        assert time.monotonic() - began < 2
        assert counted(server, 'cosup_answers_total{reason="disconnected"}') == 1


def test_a_client_that_goes_while_it_waits_leaves_the_queue(toy: Path, toy_model: CoSupervisedModel) -> None:
    with running(toy_model, toy / "index", Limits(batch_size=1), pace=0.3) as server:
        first = send(server.port, chat_body(ASKED, stream=True))
        wait_for(lambda: server.served.runner.running == 1)
        second = send(server.port, chat_body(ASKED, stream=True))
        wait_for(lambda: server.served.runner.waiting == 1)
        second.close()
        wait_for(lambda: server.served.runner.waiting == 0, 3)
        assert server.served.runner.running == 1
        first.close()
        server.wait_until_idle()


def test_a_client_that_reads_nothing_holds_up_nobody(toy: Path, toy_model: CoSupervisedModel) -> None:
    """Its answer is written to its end and its row is free; others are answered meanwhile."""
    with running(toy_model, toy / "index", Limits(batch_size=2)) as server:
        raw = send(server.port, chat_body(ASKED, stream=True))
        assert server.chat().status == 200
        server.wait_until_idle()
        raw.close()


# -- too many ---------------------------------------------------------------------------------------------------------


def test_past_the_queue_requests_are_refused_and_told_when_to_come_back(
    toy: Path, toy_model: CoSupervisedModel
) -> None:
    """One is written, one waits, and so 4 of 6 are refused; what was taken is answered; then there is room again."""
    with running(toy_model, toy / "index", Limits(batch_size=1, queue=1), pace=0.3) as server:
        held = send(server.port, chat_body(ASKED, stream=True))
        wait_for(lambda: server.served.runner.running == 1)
        with ThreadPoolExecutor(5) as pool:
            replies = list(pool.map(lambda _: server.chat(), range(5)))
        held.close()
        refused = [reply for reply in replies if reply.status == 429]
        assert sorted(reply.status for reply in replies) == [200, 429, 429, 429, 429]
        assert {reply.headers["retry-after"] for reply in refused} == {"1"}
        assert refused[0].error["code"] == "queue_full"
        server.wait_until_idle()
        assert server.chat().status == 200
        assert server.ask("POST", "/v1/search", {"query": "Red Tide"}).status == 200


def test_searches_and_embeddings_count_in_the_queue_too(toy: Path, toy_model: CoSupervisedModel) -> None:
    with running(toy_model, toy / "index", Limits(batch_size=1, queue=0), pace=0.3) as server:
        held = send(server.port, chat_body(ASKED, stream=True))
        wait_for(lambda: server.served.runner.running == 1)
        assert server.ask("POST", "/v1/search", {"query": "Red Tide"}).status == 429
        assert server.ask("POST", "/v1/embeddings", {"model": "toy", "input": "x"}).status == 429
        held.close()
        server.wait_until_idle()
        assert server.ask("POST", "/v1/search", {"query": "Red Tide"}).status == 200


# -- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_takes_too_long_ends_as_it_is(toy: Path, toy_model: CoSupervisedModel, stream: bool) -> None:
    with running(toy_model, toy / "index", Limits(timeout=1), pace=0.4) as server:
        reply = server.chat(stream=stream)
        assert reply.status == 200
        last = reply.events[-1] if stream else reply.json
        assert last["choices"][0]["finish_reason"] == "length"
        assert last["cosup"]["finish_reason"] == "timeout"
        server.wait_until_idle()


def test_who_waits_too_long_is_told(toy: Path, toy_model: CoSupervisedModel) -> None:
    """The one that is written ends as it is; those behind it get 503, not an empty answer."""
    with running(toy_model, toy / "index", Limits(batch_size=1, timeout=1), pace=0.3) as server:
        with ThreadPoolExecutor(3) as pool:
            replies = list(pool.map(lambda _: server.chat(), range(3)))
        codes = sorted(reply.status for reply in replies)
        assert codes[0] == 200
        assert set(codes[1:]) <= {200, 503}
        assert 503 in codes
        assert {reply.error["code"] for reply in replies if reply.status == 503} == {"waited_too_long"}
        server.wait_until_idle()


# -- faults of our own ------------------------------------------------------------------------------------------------


def test_a_step_that_fails_fails_its_answers_and_not_the_server(toy: Path, toy_model: CoSupervisedModel) -> None:
    """500 where nothing was sent, an error event where a stream had begun; the next question is answered."""
    with running(toy_model, toy / "index", pace=0.2) as server:
        lane = server.served.runner._lanes[-1]
        raw = send(server.port, chat_body(ASKED, stream=True))
        read_until(raw, b"data: ")

        def broken() -> Any:
            raise RuntimeError("the device is on fire")

        lane.scheduler.step = broken  # type: ignore[method-assign]
        rest = read_until(raw, b"0\r\n\r\n")
        raw.close()
        assert b'"code": "engine"' in rest
        assert b"on fire" not in rest
        assert server.chat().status == 200
        server.wait_until_idle()


def test_a_search_that_fails_is_a_500_in_our_form(toy: Path, toy_model: CoSupervisedModel) -> None:
    with running(toy_model, toy / "index") as server:
        server.served.runner.engine.retriever.inner.index = None  # type: ignore[attr-defined]
        reply = server.ask("POST", "/v1/search", {"query": "x"})
        assert (reply.status, reply.error["type"], reply.error["code"]) == (500, "server_error", "engine")


@pytest.mark.parametrize("stream", [True, False])
def test_one_answers_search_that_fails_fails_that_answer_alone(
    toy: Path, toy_model: CoSupervisedModel, stream: bool
) -> None:
    """Of a batch whose requests are searched together, and so with a passage that cannot be looked up."""
    with running(toy_model, toy / "index", pace=0.01) as server:
        lane = server.served.runner._lanes[-1]
        timed: Any = lane.retriever
        search, passage = timed.inner.search, timed.inner.passage

        def failing(requests: Any, k: int) -> Any:
            if any("Blue Hour" in request.question for request in requests):
                raise RuntimeError("no such shard")
            return search(requests, k)

        def missing(passage_id: str) -> Any:
            if passage_id == "p2":  # of the author of Grey Wolf
                raise OSError(5, "Input/output error")
            return passage(passage_id)

        timed.inner.search, timed.inner.passage = failing, missing
        works = ("Red Tide", "Blue Hour", "Grey Wolf", "Green Door")
        with ThreadPoolExecutor(4) as pool:
            asked = [
                pool.submit(server.chat, f"Where was the author of {work} born?", stream=stream, cosup={"hits": False})
                for work in works
            ]
            found = {work: future.result() for work, future in zip(works, asked, strict=True)}
        failed = {work: b'"engine"' in reply.body for work, reply in found.items()}
        assert failed == {"Red Tide": False, "Blue Hour": True, "Grey Wolf": True, "Green Door": False}
        server.wait_until_idle()
        assert server.served.runner._held == 0


def test_an_engine_that_is_gone_is_told_and_nobody_waits_for_it(toy: Path, toy_model: CoSupervisedModel) -> None:
    """A step fails and no new batch can be made: who waits is told, probes say so, and so is who comes later."""
    with running(toy_model, toy / "index", pace=0.3) as server:
        lane = server.served.runner._lanes[-1]
        found: list[Any] = []
        asking = [threading.Thread(target=lambda: found.append(server.chat())) for _ in range(3)]
        for thread in asking:
            thread.start()
        wait_for(lambda: server.served.runner.running == 3)

        def broken() -> Any:
            raise RuntimeError("the device is on fire")

        lane.renew = broken  # type: ignore[method-assign]
        lane.scheduler.step = broken  # type: ignore[method-assign]
        for thread in asking:
            thread.join(20)
        assert [reply.status for reply in found] == [500] * 3
        wait_for(lambda: not server.served.runner.alive)
        assert server.ask("GET", "/healthz").status == server.ask("GET", "/readyz").status == 503
        for reply in (server.chat(), server.ask("POST", "/v1/search", {"query": "x"})):
            assert (reply.status, reply.error["code"]) == (503, "engine")


# -- the end ----------------------------------------------------------------------------------------------------------


def test_draining_finishes_what_is_written_and_refuses_the_rest(toy: Path, toy_model: CoSupervisedModel) -> None:
    with running(toy_model, toy / "index", Limits(batch_size=1), pace=0.2) as server:
        found: list[Any] = []
        asking = [threading.Thread(target=lambda: found.append(server.chat())) for _ in range(2)]
        asking[0].start()
        wait_for(lambda: server.served.runner.running == 1)
        asking[1].start()
        wait_for(lambda: server.served.runner.waiting == 1)
        server.served.runner.drain()
        for thread in asking:
            thread.join(30)
        assert sorted(reply.status for reply in found) == [200, 503]
        assert server.ask("GET", "/readyz").status == 503
        assert server.ask("GET", "/healthz").status == 200
        assert server.chat().error["code"] == "stopping"


@pytest.mark.parametrize("stream", [True, False])
def test_after_the_grace_answers_end_as_they_are(toy: Path, toy_model: CoSupervisedModel, stream: bool) -> None:
    """Whole in form: a reason, and the end of the stream."""
    with running(toy_model, toy / "index", Limits(grace=1), pace=0.4) as server:
        found: list[Any] = []
        asking = threading.Thread(target=lambda: found.append(server.chat(stream=stream)))
        asking.start()
        wait_for(lambda: server.served.runner.running == 1)
        began = time.monotonic()
        server.served.runner.drain()
        asking.join(20)
        assert time.monotonic() - began < 4
        last = found[0].events[-1] if stream else found[0].json
        assert last["cosup"]["finish_reason"] == "timeout"


@pytest.mark.slow
def test_sigterm_under_load_loses_no_answer(toy: Path) -> None:
    """A real process under 16 clients: every request that was taken is answered whole or refused; it ends with 0."""
    command = [sys.executable, "-m", "cosup", "serve", "--model", str(toy / "model"), "--index", str(toy / "index")]
    with subprocess.Popen(
        [*command, "--port", "0", "--name", "toy", "--dtype", "float32"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        port = int(process.stdout.readline().strip().rpartition(":")[2])
        outcomes: list[Any] = []
        stop = threading.Event()

        def client() -> None:
            while not stop.is_set():
                try:
                    raw = send(port, chat_body(ASKED, stream=True))
                except OSError:  # no longer listening
                    return
                try:
                    outcomes.append(read_until(raw, b"0\r\n\r\n"))
                except OSError as error:
                    outcomes.append(error)
                raw.close()

        with ThreadPoolExecutor(16) as pool:
            for _ in range(16):
                pool.submit(client)
            wait_for(lambda: len(outcomes) > 40, 60)
            process.send_signal(signal.SIGTERM)
            code = process.wait(60)
            stop.set()
        assert process.stderr is not None
        assert code == 0, process.stderr.read()
    whole = [o for o in outcomes if isinstance(o, bytes) and b" 200 " in o[:20]]
    assert len(whole) > 40
    assert all(b"data: [DONE]" in o for o in whole)
    others = [o for o in outcomes if o not in whole]
    assert all(isinstance(o, OSError) or o == b"" or b" 503 " in o[:20] for o in others)


@pytest.mark.slow
def test_memory_is_flat_over_two_thousand_requests(toy: Path, toy_model: CoSupervisedModel) -> None:
    """Streams, clients that go, refusals: no row, no task and no memory is left behind."""

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    async def one(port: int, number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        content = json.dumps(chat_body(ASKED, stream=number % 2 == 0, max_tokens=0 if number % 7 == 0 else 8)).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Connection: close\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
        await reader.read(100 if number % 5 == 0 else -1)
        writer.close()

    async def many(port: int, count: int) -> None:
        for start in range(0, count, 20):
            await asyncio.gather(*(one(port, number) for number in range(start, start + 20)))

    with running(toy_model, toy / "index") as server:
        asyncio.run(many(server.port, 1000))
        before = resident()
        asyncio.run(many(server.port, 2000))
        server.wait_until_idle()
        assert resident() - before < 10  # 5 kB a request
        assert not any(lane.jobs for lane in server.served.runner._lanes)
        assert server.served.runner._held == 0
