"""An endpoint on this machine that a test has answer as it wants, and settings that wait for nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cosup.evaluation.judging.chat import ChatSettings

FAST = ChatSettings(timeout=5, attempts=3, parallel=4, backoff=0.001)


class Server:
    """An endpoint on this machine; `answer` takes premise and hypothesis, and returns text, or status and body."""

    def __init__(self) -> None:
        self.answer: Callable[[str, str], Any] = lambda premise, hypothesis: "yes: it says so"
        self.requests: list[dict[str, Any]] = []
        self.headers: dict[str, str] = {}
        self.at_once = self.most_at_once = 0
        outer, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.requests.append({"path": self.path, "key": self.headers["Authorization"], **body})
                    outer.at_once += 1
                    outer.most_at_once = max(outer.most_at_once, outer.at_once)
                pair = json.loads(body["messages"][-1]["content"])
                found = outer.answer(pair["premise"], pair["hypothesis"])
                with lock:
                    outer.at_once -= 1
                self.reply(*found) if isinstance(found, tuple) else self.reply(200, chat(found))

            def reply(self, status: int, body: bytes) -> None:
                try:
                    self.send_response(status)
                    for name, value in outer.headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    pass  # whoever asked has gone

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def asked_about(self, hypothesis: str) -> int:
        return sum(json.loads(r["messages"][-1]["content"])["hypothesis"] == hypothesis for r in self.requests)


def chat(text: Any) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()
