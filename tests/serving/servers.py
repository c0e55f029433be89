"""Servers for tests: in a thread of the test's process, on a real port, over a pair that knows the toy corpus."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from cosup.generation.settings import GenerationSettings
from cosup.modeling import CoSupervisedModel
from cosup.serving.app import Served
from cosup.serving.corpus import Corpus
from cosup.serving.runner import Runner
from cosup.serving.server import bound, config_of
from cosup.serving.settings import Limits, ServeSettings
from tests.generation.conftest import known_folder

NAME = "toy"


@dataclass
class Reply:
    """A response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = self.json["error"]
        assert set(found) == {"message", "type", "param", "code"}
        return found

    @property
    def events(self) -> list[Any]:
        """The JSON of a stream's events; `[DONE]` must come last."""
        lines = [line for line in self.body.decode().split("\n\n") if line]
        assert all(line.startswith("data: ") for line in lines)
        assert lines[-1] == "data: [DONE]"
        return [json.loads(line[6:]) for line in lines[:-1]]


@dataclass
class Running:
    """A server that runs."""

    served: Served
    port: int
    server: uvicorn.Server

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """Send one request over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            kind = {} if content is None else {"Content-Type": "application/json"}
            connection.request(method, path, content, {**kind, **{k.replace("_", "-"): v for k, v in headers.items()}})
            response = connection.getresponse()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def chat(self, question: str = "Where was the author of Red Tide born?", **more: Any) -> Reply:
        """Ask one question."""
        headers = more.pop("headers", {})
        return self.ask("POST", "/v1/chat/completions", chat_body(question, **more), **headers)

    def wait_until_idle(self, seconds: float = 20) -> None:
        """Wait until no answer is on its way and nobody waits."""
        wait_for(lambda: self.served.runner.running == 0 and self.served.runner.waiting == 0, seconds)


def chat_body(question: str, **more: Any) -> dict[str, Any]:
    return {"model": NAME, "messages": [{"role": "user", "content": question}], **more}


def wait_for(what: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `model/`, a pair that knows its questions, and `index/`; not to be changed."""
    return known_folder("llama", tmp_path_factory)


@pytest.fixture(scope="session")
def toy_model(toy: Path) -> CoSupervisedModel:
    return CoSupervisedModel.from_pretrained(toy / "model").eval()


@contextlib.contextmanager
def running(
    model: CoSupervisedModel, index: Path, limits: Limits | None = None, pace: float = 0.0, **settings: Any
) -> Iterator[Running]:
    """Run a server; `pace` is how many seconds each step of the generator takes longer."""
    writing = settings.pop("writing", GenerationSettings())
    own = ServeSettings(port=0, name=NAME, limits=limits or Limits(), **{"reload_seconds": 0.0, **settings})
    corpus = Corpus(str(index), model, writing)
    runner = Runner(corpus.engine(), own.limits, lambda: len(corpus))
    if pace:
        slow_down(runner, pace)
    served = Served(own, corpus, runner)
    server = uvicorn.Server(config_of(served))
    with bound("127.0.0.1", 0, own.limits.stalled_seconds) as place:
        thread = threading.Thread(target=server.run, args=([place],), name="server")
        thread.start()
        try:
            wait_for(lambda: server.started or not thread.is_alive())
            yield Running(served, place.getsockname()[1], server)
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


def slow_down(runner: Runner, seconds: float) -> None:
    """Let every step of a server's engine take longer."""
    scheduler = runner._lanes[-1].scheduler
    step = scheduler.step

    def slow_step() -> Any:
        time.sleep(seconds)
        return step()

    scheduler.step = slow_step  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def server(toy: Path, toy_model: CoSupervisedModel) -> Iterator[Running]:
    """A server with its defaults, over an index that is not changed."""
    with running(toy_model, toy / "index") as found:
        yield found


@pytest.fixture
def own_index(toy: Path, tmp_path: Path) -> Path:
    """An index that a test may change."""
    shutil.copytree(toy / "index", tmp_path / "index")
    return tmp_path / "index"
