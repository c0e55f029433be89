"""Clients of a long run: what they do, and what must be true of what they are told."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx  # comes with `openai`, of the extra `dev`
import numpy as np

from cosup.index.faiss_index import FaissIndex
from cosup.records import Passage

logger = logging.getLogger("soak")

ADMIN = "a-key-for-this-run-alone"
HEADERS = {"Authorization": f"Bearer {ADMIN}"}
SLACK = 10.0  # seconds until a change on disk is taken up by the server, at the very latest
EXPECTED = {200, 400, 404, 429}  # what a healthy server says to this load; 400 and 404 to what is asked wrongly


@dataclass
class Life:
    """When a passage was in the corpus, at the widest, and what it was called; `end` is None while it is there."""

    title: str
    begin: float
    end: float | None = None


@dataclass
class Soak:
    """The run so far: the lives of all passages, and what was seen."""

    lives: dict[str, list[Life]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    longest: float = 0.0

    def born(self, passage_id: str, title: str, at: float) -> None:
        """Note that a passage is there from now on."""
        self.lives.setdefault(passage_id, []).append(Life(title, at))

    def gone(self, passage_id: str, at: float) -> None:
        """Note that a passage is there no longer."""
        self.lives[passage_id][-1].end = at

    def check(self, annotation: Mapping[str, Any], content: str, began: float, ended: float) -> None:
        """Note a fault where a citation points to what was not there, or claims what was not written."""
        cited = annotation["url_citation"]
        self.counts["citations"] += 1
        lives = self.lives.get(cited["passage_id"], [])
        if not any(
            life.title == cited["title"] and life.begin <= ended and (life.end is None or life.end >= began)
            for life in lives
        ):
            self.fault(f"cites {cited['passage_id']!r}, {cited['title']!r}, which was not in the corpus")
        if not 0 <= cited["start_index"] < cited["end_index"] <= len(content):
            self.fault(f"a citation's span {cited['start_index']}:{cited['end_index']} is not in its answer")

    def status(self, route: str, status: int) -> bool:
        """Count a response; return whether it brought what was asked for."""
        self.statuses[status] += 1
        self.counts[route] += 1
        if status not in EXPECTED:
            self.fault(f"{route}: status {status}")
        return status == 200

    def fault(self, text: str) -> None:
        """Note what should not have happened."""
        logger.warning("FAULT: %s", text)
        self.faults.append(text)


class Clients:
    """What clients do, each a coroutine that does one thing."""

    def __init__(
        self, soak: Soak, http: httpx.AsyncClient, questions: Sequence[str], folder: Path, rng: random.Random
    ) -> None:
        self.soak = soak
        self.http = http
        self.questions = questions
        self.folder = folder
        self.rng = rng
        self.own: list[str] = []  # ids of added passages that are there
        self.numbers = iter(range(10**9))

    def kinds(self) -> list[tuple[Callable[[], Awaitable[None]], int]]:
        """Return what a client may do, with weights."""
        return [
            *((self.ask, 30), (self.stream, 25), (self.hang_up, 8), (self.search, 10), (self.embed, 5)),
            *((self.read, 5), (self.err, 7)),
        ]

    def body(self, **more: Any) -> dict[str, Any]:
        """Return a request for an answer; half of them may read added passages alone."""
        options: dict[str, Any] = {"ret_first": self.rng.random() < 0.7, "hits": self.rng.random() < 0.3}
        if self.own and self.rng.random() < 0.5:
            options["filter"] = {"soak": True}
        if self.rng.random() < 0.2:
            more["temperature"] = 0.9
        return {
            "model": "served",
            "messages": [{"role": "user", "content": self.rng.choice(self.questions)}],
            "cosup": options,
            **more,
        }

    async def ask(self) -> None:
        """Take an answer whole."""
        began = time.time()
        response = await self.http.post("/v1/chat/completions", json=self.body())
        ended = time.time()
        self.soak.longest = max(self.soak.longest, ended - began)
        if self.soak.status("answers", response.status_code):
            message = response.json()["choices"][0]["message"]
            for annotation in message.get("annotations") or []:
                self.soak.check(annotation, message["content"], began, ended)

    async def stream(self, upto: int | None = None) -> None:
        """Take an answer as it is written; hang up after `upto` events, where that is given."""
        began, content, annotations, events = time.time(), "", [], 0
        async with self.http.stream("POST", "/v1/chat/completions", json=self.body(stream=True)) as response:
            if not self.soak.status("streams" if upto is None else "hung up", response.status_code):
                await response.aread()
                return
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event, events = json.loads(line[len("data: ") :]), events + 1
                if "error" in event:
                    self.soak.fault(f"a stream ended with {event['error']}")
                for choice in event.get("choices") or []:
                    content += choice["delta"].get("content") or ""
                    annotations += choice["delta"].get("annotations") or []
                if upto is not None and events >= upto:
                    return
        ended = time.time()
        self.soak.longest = max(self.soak.longest, ended - began)
        for annotation in annotations:
            self.soak.check(annotation, content, began, ended)

    async def hang_up(self) -> None:
        """Close the connection in the middle of an answer."""
        await self.stream(upto=self.rng.randint(1, 4))

    async def search(self) -> None:
        """Search, with a filter or without."""
        began = time.time()
        where = {"filter": {"soak": True}} if self.rng.random() < 0.5 else {}
        query = {"query": self.rng.choice(self.questions), "top_k": 5, **where}
        response = await self.http.post("/v1/search", json=query)
        if self.soak.status("searches", response.status_code):
            for hit in response.json()["data"]:
                passage = hit["passage"]["id"]
                if not any(life.end is None or life.end >= began for life in self.soak.lives.get(passage, [])):
                    self.soak.fault(f"a search found {passage!r}, which was not in the corpus")

    async def embed(self) -> None:
        """Embed a few texts."""
        texts = self.rng.sample(self.questions, 3)
        response = await self.http.post("/v1/embeddings", json={"model": "served", "input": texts})
        self.soak.status("embeddings", response.status_code)

    async def read(self) -> None:
        """Read a passage that is there, or was."""
        passage = self.rng.choice(list(self.soak.lives))
        response = await self.http.get(f"/v1/passages/{passage.replace('/', '%2F')}")
        self.soak.status("passages", response.status_code)

    async def err(self) -> None:
        """Send what must be refused, in one of several ways."""
        bodies = (
            {"model": "served"},
            {**self.body(), "n": 3},
            {**self.body(), "cosup": {"top_kk": 3}},
            {"model": "other"},
        )
        response = await self.http.post("/v1/chat/completions", json=self.rng.choice(bodies))
        if self.soak.status("wrong requests", response.status_code):
            self.soak.fault("a wrong request was answered")

    # -- the corpus ----------------------------------------------------------------------------------------------------

    def made_up(self) -> Passage:
        """Return a passage of this run."""
        number = next(self.numbers)
        town, trade = self.rng.choice(("Soaking", "Flatford", "Longrun")), self.rng.choice(("glass", "rope", "clocks"))
        text = f"{town} is a town. Besides a famous windmill, the town is known for {trade}."
        return Passage(f"soak/{number}", f"{town} {number}", text, {"soak": True})

    async def change(self) -> None:
        """Add, replace or take out passages, by request or on disk; never more than forty are kept."""
        if self.rng.random() < 0.2:
            await self.change_on_disk()
        elif len(self.own) > 40 or (self.own and self.rng.random() < 0.4):
            passage = self.own.pop(self.rng.randrange(len(self.own)))
            response = await self.http.delete(f"/v1/passages/{passage.replace('/', '%2F')}", headers=HEADERS)
            if self.soak.status("deleted", response.status_code):
                self.soak.gone(passage, time.time())
        else:
            await self.add()

    async def add(self) -> None:
        """Add some passages, or replace one."""
        again = self.own and self.rng.random() < 0.3
        added = [self.made_up() for _ in range(1 if again else self.rng.randint(1, 4))]
        if again:
            added = [Passage(self.rng.choice(self.own), added[0].title, added[0].text, {"soak": True})]
        before = time.time()
        records = [{"id": p.id, "title": p.title, "text": p.text, "metadata": dict(p.metadata)} for p in added]
        for passage in added:  # before they are sent: an answer may cite them sooner than the response is here
            self.soak.lives.setdefault(passage.id, []).append(Life(passage.title, before))
        body = {"passages": records, "replace": bool(again)}
        response = await self.http.post("/v1/passages", json=body, headers=HEADERS)
        if not self.soak.status("replaced" if again else "added", response.status_code):
            for passage in added:
                self.soak.lives[passage.id].pop()
        elif again:
            self.soak.lives[added[0].id][-2].end = time.time()
        else:
            self.own += [passage.id for passage in added]

    async def change_on_disk(self) -> None:
        """Add a passage to the index folder behind the server's back."""
        passage = self.made_up()
        body = {"model": "served", "input": [passage.rendered]}
        response = await self.http.post("/v1/embeddings", json=body)
        if not self.soak.status("embeddings", response.status_code):
            return
        vectors = np.asarray([item["embedding"] for item in response.json()["data"]], np.float32)
        self.soak.born(passage.id, passage.title, time.time())

        def change() -> None:
            FaissIndex.load(self.folder, None).add([passage], vectors)

        await asyncio.to_thread(change)
        self.soak.counts["added on disk"] += 1
        await asyncio.sleep(SLACK)
        self.own.append(passage.id)
