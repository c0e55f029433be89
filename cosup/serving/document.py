"""Errors in OpenAI's form, and the OpenAPI document that says which ones each route has."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from cosup.errors import CosupError, InputError, did_you_mean
from cosup.serving import schemas as form
from cosup.serving.errors import ApiError

logger = logging.getLogger(__name__)

GONE = Response(status_code=499)  # nobody reads it
_WHAT = {
    400: "The request cannot be used; the message says why.",
    401: "The API key is missing or wrong.",
    403: "The key may not do this, or the request comes from elsewhere.",
    404: "There is no such model or passage.",
    405: "The route does not take this method.",
    408: "The request did not come in time.",
    409: "The change does not fit the corpus.",
    413: "The request is too large.",
    429: "The queue is full; Retry-After says when to come back.",
    503: "The server is stopping, no place became free, or the corpus cannot be reached.",
}


async def told(request: Request, error: Exception) -> JSONResponse:
    """Turn what went wrong into OpenAI's form."""
    if isinstance(error, HTTPException):
        text = str(error.detail)
        if error.status_code == 404:
            text = f"there is no {request.url.path[:200]!r} here; /openapi.json lists the routes"
        elif error.status_code == 405:
            text = (
                f"this route does not take {request.method[:20]}; send {(error.headers or {}).get('Allow', 'another')}"
            )
        response = ApiError(error.status_code, text).response()
        response.headers.update(error.headers or {})
        return response
    return as_api_error(error).response()


def as_api_error(error: Exception) -> ApiError:
    """Return what clients are told of an error: what is theirs to mend as it is, what is ours in general words."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestValidationError):
        return _invalid(error)
    if isinstance(error, InputError):
        return ApiError(400, str(error))
    if isinstance(error, CosupError):
        logger.error("a request failed: %s", error)
        return ApiError(503, "this cannot be done at the moment; see the server's log", code="unavailable")
    return ApiError(500, f"something failed ({type(error).__name__}); see the server's log", code="fault")


async def nobody_there(_: Request, error: Exception) -> Response:  # noqa: ARG001 - a handler is given both
    """Answer a client that has gone."""
    return GONE


def _invalid(error: RequestValidationError) -> ApiError:
    """Say which field of a request is wrong, and how; its value is not repeated."""
    found = error.errors()
    first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])  # it may be what another lacks
    place = [str(part) for part in first["loc"] if part != "body"]
    name = ".".join(place)[:200]
    if not place and first["type"] == "model_attributes_type":
        return ApiError(400, "the body is no JSON object; send one, with 'Content-Type: application/json'")
    if first["type"] == "json_invalid":
        return ApiError(400, "the body is not valid JSON", code="invalid_json")
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"unknown field {name!r}{did_you_mean(place[-1], _fields_at(place[:-1]))}", name)
    if name in form.NEUTRAL_ONLY:
        return ApiError(400, f"{name} cannot be honoured here; leave it out", name, "unsupported")
    if "metadata" in place and place[0] == "passages":
        place = place[: place.index("metadata") + 2]
        return ApiError(400, f"{'.'.join(place)[:200]}: expected text, a number, true or false", ".".join(place)[:200])
    return ApiError(400, f"{name or 'the body'}: {first['msg']}", name or None)


def _fields_at(place: Sequence[str]) -> list[str]:
    if place[:1] == ["cosup"]:
        return list(form.CosupOptions.model_fields)
    kinds = (form.ChatRequest, form.EmbeddingRequest, form.SearchRequest, form.AddRequest, form.PassageIn)
    return sorted({name for kind in kinds for name in kind.model_fields})


def errors_of(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what the document says of a route's errors."""
    return {status: {"model": form.ErrorOut, "description": _WHAT[status]} for status in statuses}


def document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document: keys, and 400 in the place of FastAPI's own 422."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        for route in made["paths"].values():
            for operation in route.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            made["components"]["schemas"].pop(name, None)
        made["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        made["security"] = [{"key": []}, {}]
        app.openapi_schema = made
    return app.openapi_schema
