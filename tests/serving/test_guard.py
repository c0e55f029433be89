"""Who may ask and how much: keys, hosts, origins, sizes, times."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest

from cosup.errors import InputError, UsageError
from cosup.modeling import CoSupervisedModel
from cosup.serving.settings import Limits, ServeSettings, is_loopback, read_keys
from tests.serving.servers import Running, running, wait_for

CHAT = "/v1/chat/completions"


# -- keys -------------------------------------------------------------------------------------------------------------


def test_with_keys_nobody_else_asks(toy: Path, toy_model: CoSupervisedModel) -> None:
    """The page, its files, health and the document are open; the admin's key asks too, and alone changes the corpus."""
    keys = {"api_keys": frozenset({"one", "two"}), "admin_keys": frozenset({"root"})}
    with running(toy_model, toy / "index", **keys) as server:
        for path in ("/", "/web/app.js", "/healthz", "/readyz", "/openapi.json"):
            assert server.ask("GET", path).status == 200, path
        for path in ("/v1/models", "/v1/passages/w0", "/metrics", "/v1/nothing"):
            refused = server.ask("GET", path)
            assert (refused.status, refused.error["type"]) == (401, "authentication_error"), path
            assert refused.headers["www-authenticate"] == "Bearer"
        for given in ("Bearer three", "Bearer", "Basic one", "one", "Bearer on", "Bearer onee", "Bearer \u00fc"):
            assert server.ask("GET", "/v1/models", Authorization=given).status == 401, given
        for given in ("Bearer one", "bearer two", "Bearer root"):
            assert server.ask("GET", "/v1/models", Authorization=given).status == 200, given
        assert server.chat(headers={"Authorization": "Bearer one"}).status == 200
        for method, path in (("POST", "/v1/passages"), ("DELETE", "/v1/passages/w0")):
            assert server.ask(method, path, {}, Authorization="Bearer one").status == 403
            assert server.ask(method, path, {}).status == 401
        assert server.ask("POST", "/v1/passages", {}, Authorization="Bearer root").status == 400


def test_with_an_admin_key_alone_asking_stays_open(toy: Path, toy_model: CoSupervisedModel) -> None:
    """On this machine; what changes the corpus needs the key."""
    with running(toy_model, toy / "index", admin_keys=frozenset({"root"})) as server:
        assert server.chat().status == 200
        assert server.ask("DELETE", "/v1/passages/w0").status == 401
        assert server.ask("DELETE", "/v1/passages/w0", Authorization="Bearer other").status == 403


def test_without_an_admin_key_the_corpus_stays(server: Running) -> None:
    refused = server.ask("DELETE", "/v1/passages/w0")
    assert (refused.status, refused.error["code"]) == (403, "no_admin_key")
    assert server.ask("POST", "/v1/passages", {"passages": [{"id": "x", "text": "y"}]}).status == 403


def test_keys_come_from_a_variable_and_a_file(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# ours\none\n\n  two \n")
    assert read_keys("three, four,", tmp_path / "keys") == {"one", "two", "three", "four"}
    assert read_keys(None, None) == read_keys("", None) == frozenset()
    (tmp_path / "empty").write_text("# none\n")
    with pytest.raises(InputError, match="holds no key"):
        read_keys(None, tmp_path / "empty")
    with pytest.raises(InputError, match="cannot be read"):
        read_keys(None, tmp_path / "nowhere")
    with pytest.raises(UsageError, match="white space or characters beyond ASCII"):
        read_keys("a b", None)


def test_without_a_key_only_this_machine_is_served() -> None:
    assert ServeSettings(host="127.0.0.1").is_open
    for host in ("0.0.0.0", "192.168.0.2", "::", "example.org"):
        with pytest.raises(UsageError, match="can be reached from elsewhere and there is no API key"):
            ServeSettings(host=host)
        with pytest.raises(UsageError, match="there is no API key"):
            ServeSettings(host=host, admin_keys=frozenset({"k"}))
        assert not ServeSettings(host=host, api_keys=frozenset({"k"})).is_open
    assert [is_loopback(h) for h in ("localhost", "127.3.2.1", "::1", "10.0.0.1", "x")] == [True] * 3 + [False] * 2


# -- hosts and origins ------------------------------------------------------------------------------------------------


def test_an_open_server_is_not_asked_through_its_visitors_browser(server: Running) -> None:
    """Another name for this machine (DNS rebinding), and pages of other sites, are refused."""
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", ""):
        refused = server.ask("GET", "/v1/models", Host=host)
        assert (refused.status, refused.error["code"]) == (403, "wrong_host"), host
    for host in (f"127.0.0.1:{server.port}", "localhost", f"[::1]:{server.port}"):
        assert server.ask("GET", "/v1/models", Host=host).status == 200
    assert server.chat(headers={"Origin": "https://evil.example"}).error["code"] == "origin"
    for origin in ("null", "http://[", "http://", "file://", f"{server.address}/", f"{server.address}.evil.example"):
        assert server.chat(headers={"Origin": origin}).status == 403, origin
    assert server.chat(headers={"Origin": server.address}).status == 200
    plain = server.ask("POST", CHAT, b'{"model": "toy"}', Content_Type="text/plain")
    assert plain.status == 400
    assert "access-control-allow-origin" not in server.ask("GET", "/v1/models").headers


@pytest.mark.parametrize(
    "origin", ["*", "https://our.site/", "our.site", "https://our.site/page", "https://*.our.site"]
)
def test_an_origin_that_no_browser_sends_is_refused_at_the_start(origin: str) -> None:
    with pytest.raises(UsageError, match="expected a site such as https://our"):
        ServeSettings(cors=(origin,))


def test_pages_that_are_named_may_ask(toy: Path, toy_model: CoSupervisedModel) -> None:
    with running(toy_model, toy / "index", cors=("https://ours.example",)) as server:
        asked = server.ask(
            "OPTIONS", CHAT, Origin="https://ours.example", Access_Control_Request_Method="POST",
            Access_Control_Request_Headers="content-type",
        )  # fmt: skip
        assert (asked.status, asked.headers["access-control-allow-origin"]) == (200, "https://ours.example")
        answered = server.chat(headers={"Origin": "https://ours.example"})
        assert (answered.status, answered.headers["access-control-allow-origin"]) == (200, "https://ours.example")
        assert server.chat(headers={"Origin": "https://evil.example"}).status == 403


# -- sizes and times --------------------------------------------------------------------------------------------------


def test_a_body_that_is_too_large_is_refused_before_it_is_read(toy: Path, toy_model: CoSupervisedModel) -> None:
    """By its length, and by counting where none is given; the server goes on."""
    with running(toy_model, toy / "index", Limits(max_body=5000)) as server:
        refused = server.ask("POST", CHAT, b" " * 5001)
        assert (refused.status, refused.error["code"]) == (413, "too_large")
        assert server.ask("POST", CHAT, b" " * 5000).status == 400
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            for _ in range(6):
                raw.sendall(b"3e8\r\n" + b" " * 1000 + b"\r\n")
            assert b" 413 " in raw.recv(1000)
        assert server.chat().status == 200


def test_a_client_that_sends_slowly_is_not_waited_for(toy: Path, toy_model: CoSupervisedModel) -> None:
    with running(toy_model, toy / "index", Limits(stalled_seconds=1)) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{{".encode())
            began = time.monotonic()
            raw.settimeout(10)
            assert b" 408 " in raw.recv(1000)
            assert 0.5 < time.monotonic() - began < 8
        assert server.chat().status == 200


@pytest.mark.parametrize("sent", [b"", b"POST /v1/chat/com", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"])
def test_the_head_of_a_request_is_not_waited_for_either(toy: Path, toy_model: CoSupervisedModel, sent: bytes) -> None:
    """Nothing, half a line, half a head; also behind a request that was answered."""
    with running(toy_model, toy / "index", Limits(stalled_seconds=1)) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
            raw.sendall(sent)
            began = time.monotonic()
            assert _end_of(raw)
            assert 0.5 < time.monotonic() - began < 8
        if sent:
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
                raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert b" 200 " in raw.recv(1000)
                raw.sendall(sent)
                assert _end_of(raw)
        assert server.chat().status == 200


def _end_of(raw: socket.socket) -> bool:
    """Read to the end of a connection, whatever comes before it; whether there is one in time."""
    try:
        while raw.recv(1000):
            pass
        return True
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def test_a_client_that_takes_nothing_is_given_up(toy: Path, toy_model: CoSupervisedModel) -> None:
    """More than the buffers between hold is on its way to it: the connection ends, and nothing of it is left."""
    with running(toy_model, toy / "index", Limits(stalled_seconds=1)) as server:
        content = json.dumps({"model": "toy", "input": ["x"] * 256}).encode()
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        with raw:
            raw.connect(("127.0.0.1", server.port))
            head = "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            request = f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content
            raw.sendall(request * 40)  # pipelined: answers of more than 5 MB
            wait_for(lambda: not server.server.server_state.connections, 30)
        assert server.chat().status == 200


def test_deep_json_is_no_server_error(server: Running) -> None:
    for depth in (100, 900, 940, 960, 980, 5000):
        deep = '{"a": ' * depth + "1" + "}" * depth
        body = (
            f'{{"model": "toy", "messages": [{{"role": "user", "content": "x"}}], "metadata": {deep}, "max_tokens": 1}}'
        )
        assert server.ask("POST", CHAT, body.encode()).status in (200, 400), depth
        body = f'{{"query": "x", "filter": {deep}}}'
        assert server.ask("POST", "/v1/search", body.encode()).status == 400, depth


def test_what_nobody_foresaw_is_told_in_our_form(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """500 with the kind of error and nothing else of it, an error of the disk among them."""

    def broken(passage_id: str) -> None:
        raise OSError(5, "Input/output error", "/srv/secret")

    monkeypatch.setattr(server.served.corpus, "passage", broken)
    reply = server.ask("GET", "/v1/passages/w0")
    assert (reply.status, reply.error["type"]) == (500, "server_error")
    assert "secret" not in reply.body.decode()


def test_probes_may_ask_for_the_head_alone(server: Running) -> None:
    for path in ("/", "/healthz", "/readyz"):
        found = server.ask("HEAD", path)
        assert (found.status, found.body) == (200, b""), path


def test_limits_are_checked() -> None:
    with pytest.raises(UsageError, match="batch_size is 0; expected at least 1"):
        Limits(batch_size=0)
    assert Limits(queue=0).queue == 0


def test_answers_have_at_most_the_servers_tokens(toy: Path, toy_model: CoSupervisedModel) -> None:
    with running(toy_model, toy / "index", Limits(max_tokens=3)) as server:
        assert server.chat(max_tokens=50).json["usage"]["completion_tokens"] == 3
        assert server.chat().json["usage"]["completion_tokens"] == 3


def test_the_pages_files_are_sent_with_a_policy_and_nothing_else_is(server: Running) -> None:
    page = server.ask("GET", "/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["content-type"].startswith("text/html")
    assert server.ask("GET", "/web/app.js").headers["content-type"].startswith("text/javascript")
    for path in (
        "/web/../app.py",
        "/web/..%2fapp.py",
        "/web/nothing.js",
        f"/web/{300 * 'a'}.js",
        "/web/",
        "/web/.hidden",
        "/web/%5c..%5capp.py",
    ):
        assert server.ask("GET", path).status == 404, path
