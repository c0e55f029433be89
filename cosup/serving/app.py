"""The routes: what is asked of the one engine, the corpus and the page's files."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

import numpy as np
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from cosup.errors import CosupError, InputError, did_you_mean
from cosup.generation.events import Event, Finished
from cosup.generation.searching import search as search_questions
from cosup.records import Passage, Question
from cosup.serving import schemas as form
from cosup.serving.chat import Reply, error_line, filter_of, question_of, settings_of
from cosup.serving.corpus import Corpus, embed_passages, embed_queries
from cosup.serving.document import as_api_error, document, errors_of, nobody_there, told
from cosup.serving.errors import ApiError, broken, stopping
from cosup.serving.guard import Bounded, Counted, Guard
from cosup.serving.jobs import Job
from cosup.serving.metrics import CONTENT_TYPE
from cosup.serving.runner import Runner
from cosup.serving.settings import ServeSettings
from cosup.serving.streaming import ClientGoneError, EventStreamResponse, while_connected
from cosup.version import __version__

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass
class Served:
    """What one server serves.

    Attributes:
        settings: see there.
        corpus: what is searched.
        runner: what writes.
        created: when it began, in seconds since 1970.
    """

    settings: ServeSettings
    corpus: Corpus
    runner: Runner
    created: int = field(default_factory=lambda: int(time.time()))

    def check_model(self, name: str) -> None:
        """Refuse a model of another name. Raises `ApiError`."""
        if name != self.settings.name:
            known = self.settings.name
            hint = did_you_mean(name, [known])
            raise ApiError(
                404, f"model {name[:100]!r} is not served{hint}; there is {known!r}", "model", "model_not_found"
            )


def create_app(served: Served) -> FastAPI:
    """Return the ASGI app of a server; its lifespan starts and stops the engine's thread."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        served.runner.start()
        seconds, watching = served.settings.reload_seconds, None
        if seconds:
            watching = asyncio.create_task(served.corpus.watch(served.runner, seconds))
        try:
            yield
        finally:
            if watching is not None:
                watching.cancel()
            await asyncio.to_thread(served.runner.stop)

    app = FastAPI(
        title="cosup", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        description="One language model that writes and retrieves: answers whose claims cite passages.",
    )  # fmt: skip
    for router in (_chat_routes(served), _corpus_routes(served), _other_routes(served)):
        app.include_router(router)
    app.openapi = lambda: document(app)  # type: ignore[method-assign]
    for kind in (ApiError, CosupError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, told)
    app.add_exception_handler(ClientGoneError, nobody_there)
    app.add_middleware(Bounded, limits=served.settings.limits)
    app.add_middleware(Guard, settings=served.settings)
    if served.settings.cors:
        app.add_middleware(CORSMiddleware, allow_origins=served.settings.cors, allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(Counted, metrics=served.runner.metrics)
    return app


# -- answers -----------------------------------------------------------------------------------------------------------


def _chat_routes(served: Served) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["answers"])

    @router.post(
        "/chat/completions",
        response_model=form.ChatResponse,
        responses=errors_of(400, 401, 403, 404, 408, 413, 429, 503)
        | {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
    )
    async def chat(asked: form.ChatRequest, request: Request) -> Any:
        """Answer a question with passages retrieved while it is written; each claim is an annotation."""
        served.check_model(asked.model)
        options = asked.cosup or form.CosupOptions()
        question = question_of(asked.messages, options)
        settings = settings_of(asked, served.corpus.settings, served.settings.limits)
        reply = Reply(f"chatcmpl-{secrets.token_hex(12)}", served.settings.name, options.hits)
        events = served.runner.answer(question, settings, asked.stream, options.hits)
        if asked.stream:
            with_usage = asked.stream_options is not None and asked.stream_options.include_usage
            return await _streamed(reply, events, question, with_usage, request)
        async with contextlib.aclosing(events) as coming:
            finished, job = await while_connected(request, anext(coming))
            assert isinstance(finished, Finished)
            return reply.whole(finished, job)

    @router.post(
        "/embeddings",
        response_model=form.EmbeddingResponse,
        responses=errors_of(400, 401, 403, 404, 408, 413, 429, 503),
    )
    async def embeddings(asked: form.EmbeddingRequest, request: Request) -> form.EmbeddingResponse:
        """Embed passages (or questions, by `input_type`) in the space that the pair searches."""
        served.check_model(asked.model)
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        _check_texts(served, texts, asked.dimensions)
        embed = embed_passages if asked.input_type == "passage" else embed_queries
        vectors, tokens = await while_connected(request, embed(served.runner, texts))
        data = [
            form.Embedding(index=number, embedding=_encoded(vector, asked.encoding_format))
            for number, vector in enumerate(vectors)
        ]
        usage = form.EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens)
        return form.EmbeddingResponse(data=data, model=served.settings.name, usage=usage)

    @router.get("/models", response_model=form.ModelList, responses=errors_of(401, 403))
    async def models() -> form.ModelList:
        """Name the model that is served."""
        return form.ModelList(data=[_model(served)])

    @router.get("/models/{name:path}", response_model=form.ModelOut, responses=errors_of(401, 403, 404))
    async def model(name: str) -> form.ModelOut:
        """Say whether a model is served."""
        served.check_model(name)
        return _model(served)

    return router


async def _streamed(
    reply: Reply,
    events: AsyncGenerator[tuple[Event, Job], None],
    question: Question,
    with_usage: bool,
    request: Request,
) -> Response:
    """Wait for the first event, so that what is wrong with a request is its status, then stream."""
    first = await while_connected(request, anext(events))

    async def all_events() -> AsyncGenerator[tuple[Event, Job], None]:
        async with contextlib.aclosing(events) as coming:
            yield first
            async for event in coming:
                yield event

    async def lines() -> AsyncGenerator[str, None]:
        async with contextlib.aclosing(all_events()) as coming:
            try:
                async for line in reply.chunks(coming, question, with_usage):
                    yield line
            except (ApiError, CosupError) as error:
                yield error_line(as_api_error(error))

    rest = lines()
    return EventStreamResponse(await anext(rest), rest)


def _check_texts(served: Served, texts: Sequence[str], dimensions: int | None) -> None:
    if len(texts) > served.settings.limits.texts:
        most = served.settings.limits.texts
        raise ApiError(400, f"input has {len(texts)} texts; expected {most} at most", "input")
    empty = next((number for number, text in enumerate(texts) if not text.strip()), None)
    if empty is not None:
        raise ApiError(400, f"text {empty} of the input is empty", "input")
    own = served.corpus.index.dimension
    if dimensions not in (None, own):
        raise ApiError(400, f"dimensions is {dimensions}; the pair's vectors have {own}", "dimensions")


def _encoded(vector: np.ndarray[Any, np.dtype[np.float32]], encoding: str) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return [float(value) for value in vector]


def _model(served: Served) -> form.ModelOut:
    return form.ModelOut(id=served.settings.name, created=served.created)


# -- the corpus --------------------------------------------------------------------------------------------------------


def _corpus_routes(served: Served) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["passages"])
    changes = errors_of(400, 401, 403, 404, 408, 409, 413, 429, 503)

    @router.post("/search", response_model=form.SearchResponse, responses=errors_of(400, 401, 403, 408, 413, 429, 503))
    async def search(asked: form.SearchRequest, request: Request) -> form.SearchResponse:
        """Find what a search right after a question would find, without writing an answer."""
        if not asked.query.strip():
            raise ApiError(400, "query is empty", "query")
        filter = filter_of(asked.filter, "filter")
        candidates = None if asked.candidates is None else tuple(asked.candidates)
        question = Question("query", asked.query, candidates=candidates)

        def found(engine: Any) -> list[form.SearchHit]:
            (hits,) = search_questions(engine, [question], asked.top_k, filter)
            return [
                form.SearchHit(score=hit.score, passage=_shown(engine.retriever.passage(hit.passage_id)))
                for hit in hits
            ]

        (data,) = await while_connected(request, served.runner.call(found))
        return form.SearchResponse(data=data)

    @router.get("/passages/{passage_id:path}", response_model=form.PassageOut, responses=errors_of(401, 403, 404))
    async def passage(passage_id: str) -> form.PassageOut:
        """Return a passage of the corpus."""
        return _shown(served.corpus.passage(passage_id))

    @router.post("/passages", response_model=form.Changed, responses=changes)
    async def add(asked: form.AddRequest) -> form.Changed:
        """Add passages to the corpus, whole or not at all; answers from then on know them. Needs the admin key."""
        passages = _passages_in(asked, served.settings.limits.passages)
        try:
            await served.corpus.add(served.runner, passages, asked.replace)
        except InputError as error:
            raise ApiError(409, str(error), "passages") from None
        return form.Changed(added=len(passages), passages=len(served.corpus))

    @router.delete("/passages/{passage_id:path}", response_model=form.Changed, responses=changes)
    async def delete(passage_id: str) -> form.Changed:
        """Take a passage out of the corpus. Needs the admin key."""
        try:
            await served.corpus.delete(served.runner, passage_id)
        except InputError as error:
            raise ApiError(404, str(error), "passage_id", "no_such_passage") from None
        return form.Changed(deleted=1, passages=len(served.corpus))

    return router


def _passages_in(asked: form.AddRequest, most: int) -> list[Passage]:
    if len(asked.passages) > most:
        raise ApiError(400, f"{len(asked.passages)} passages; expected {most} at most in a request", "passages")
    try:
        return [Passage.from_dict(own.model_dump()) for own in asked.passages]
    except InputError as error:
        raise ApiError(400, str(error), "passages") from None


def _shown(passage: Passage) -> form.PassageOut:
    return form.PassageOut(id=passage.id, title=passage.title, text=passage.text, metadata=dict(passage.metadata))


# -- health, metrics, the page -----------------------------------------------------------------------------------------


def _other_routes(served: Served) -> APIRouter:
    router = APIRouter(tags=["server"])

    @router.head("/healthz", include_in_schema=False)
    @router.get("/healthz", response_model=form.Health, responses=errors_of(503))
    async def healthz() -> form.Health:
        """Say that the server is there and its engine works."""
        if not served.runner.alive:
            raise broken()
        return form.Health(status="ok")

    @router.head("/readyz", include_in_schema=False)
    @router.get("/readyz", response_model=form.Health, responses=errors_of(503))
    async def readyz() -> form.Health:
        """Say whether answers are taken."""
        if not served.runner.ready:
            raise stopping() if served.runner.alive else broken()
        return form.Health(status="ok")

    @router.get("/metrics", responses={200: {"content": {"text/plain": {}}}, **errors_of(401, 403)})
    async def metrics() -> Response:
        """Return what the server measures of itself, as Prometheus reads it."""
        return Response(served.runner.metrics.text(), media_type=CONTENT_TYPE)

    @router.head("/", include_in_schema=False)
    @router.get("/", include_in_schema=False)
    async def page() -> Response:
        """Return the page."""
        return _file("index.html")

    @router.get("/web/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        """Return one of the page's files."""
        return _file(name)

    return router


def _file(name: str) -> Response:
    place = _web_files().get(name)
    if place is None:
        raise ApiError(404, f"there is no file {name[:100]!r}")
    headers = {
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return Response(place.read_bytes(), media_type=TYPES[name[name.rfind(".") :]], headers=headers)


@cache
def _web_files() -> dict[str, Traversable]:
    """Return the page's files by name: no other name is looked for."""
    there = resources.files("cosup.serving").joinpath("web").iterdir()
    return {file.name: file for file in there if file.name[file.name.rfind(".") :] in TYPES}
