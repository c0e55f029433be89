"""`cosup serve` from the command line: what it refuses, and that it serves and stops."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cosup.console import Console
from cosup.demo import run_demo
from tests.commands import TOY_DEMO, Cosup
from tests.pairs import TinyWorld


def words(world: TinyWorld, *more: object) -> list[object]:
    return ["serve", "--model", world.model, "--index", world.index, "--port", "0", *more]


def test_an_address_beyond_this_machine_needs_a_key(
    cosup: Cosup, tiny_world: TinyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COSUP_API_KEYS", raising=False)
    said = cosup.refused(*words(tiny_world, "--host", "0.0.0.0"))
    assert "--host 0.0.0.0 can be reached from elsewhere and there is no API key; set COSUP_API_KEYS" in said


def test_a_port_that_is_taken_is_told(cosup: Cosup, tiny_world: TinyWorld) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said = cosup.refused(*words(tiny_world)[:-1], taken.getsockname()[1])
    assert "cannot listen on 127.0.0.1:" in said
    assert "choose another --port" in said


def test_bad_files_and_values_are_refused(cosup: Cosup, tiny_world: TinyWorld, tmp_path: Path) -> None:
    assert "holds no key" in _refused_with(cosup, tiny_world, tmp_path, "--api-keys")
    assert "no such" in cosup.refused("serve", "--model", tmp_path / "none", "--index", tiny_world.index)
    assert "--queue" in cosup.refused(*words(tiny_world, "--queue", "-1"))
    assert "top_k is 0" in cosup.refused(*words(tiny_world, "--top-k", "0"))


def _refused_with(cosup: Cosup, world: TinyWorld, folder: Path, option: str) -> str:
    (folder / "keys").write_text("# none\n")
    return cosup.refused(*words(world, option, folder / "keys"))


def test_without_the_extra_it_says_what_to_install(
    cosup: Cosup, tiny_world: TinyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "fastapi" else find(name))
    said = cosup.refused(*words(tiny_world))
    assert said == "error: serving needs the extra 'serve' (fastapi is not installed): pip install 'cosup[serve]'\n"


@contextlib.contextmanager
def started(*command: object, **environment: str) -> Iterator[tuple[str, Any]]:
    """Run a command that serves; yield its address and the process, and stop it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cosup", *map(str, command)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment},
    )  # fmt: skip
    with process:
        try:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            address = next((line.strip() for line in lines if line.startswith("http")), "")
            assert address, process.stderr.read() if process.stderr else ""
            yield address, process
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0


def fetched(url: str, body: Any = None, **headers: str) -> Any:
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    with urllib.request.urlopen(asked, timeout=30) as response:
        return json.loads(response.read())


@pytest.mark.slow
def test_it_serves_says_where_and_stops_when_told(tiny_world: TinyWorld) -> None:
    """With a key of the environment on every address; the name is the one given."""
    options = ("--host", "0.0.0.0", "--name", "mine", "--max-tokens", "3")
    with started(*words(tiny_world, *options), COSUP_API_KEYS="secret") as (address, _):
        place = f"http://127.0.0.1:{address.rpartition(':')[2]}"
        body = {"model": "mine", "messages": [{"role": "user", "content": "Who?"}]}
        answer = fetched(f"{place}/v1/chat/completions", body, Authorization="Bearer secret")
        assert answer["usage"]["completion_tokens"] <= 3
        with pytest.raises(urllib.error.HTTPError, match="401"):
            fetched(f"{place}/v1/models")


@pytest.mark.slow
def test_the_demo_is_served(tmp_path: Path) -> None:
    """One that is there already at once; the page is there too."""
    run_demo(tmp_path / "demo", settings=TOY_DEMO, console=Console(quiet=True))
    with started("demo", "--serve", "--output", tmp_path / "demo", "--port", "0") as (address, _):
        assert fetched(f"{address}/v1/models")["data"][0]["id"] == "demo"
        with urllib.request.urlopen(address, timeout=30) as page:
            assert "<title>cosup" in page.read().decode()
