"""Errors that clients see, in OpenAI's form: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import logging
from typing import Any

from starlette.responses import JSONResponse

logger = logging.getLogger(__name__)

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}
RETRY_SECONDS = 1


class ApiError(Exception):
    """Something that a client is told.

    Args:
        status: of the response.
        message: what was received and what to do, in one or two sentences.
        param: the field that is meant.
        code: short name of the kind of error.
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code

    def body(self) -> dict[str, Any]:
        """Return the response's JSON."""
        kind = TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """Return the response; one that asks to come back says when."""
        headers = {"Retry-After": str(RETRY_SECONDS)} if self.status in (429, 503) else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, headers=headers)


def busy(waiting: int) -> ApiError:
    """Return the error for a full queue."""
    return ApiError(429, f"{waiting} requests are waiting already; try again in a moment", code="queue_full")


def stopping() -> ApiError:
    """Return the error for a server that is about to stop."""
    return ApiError(503, "the server is stopping; try again in a moment", code="stopping")


def broken() -> ApiError:
    """Return the error for a server whose engine has ended."""
    return ApiError(503, "the engine has failed for good; see the server's log", code="engine")


def too_slow(seconds: float) -> ApiError:
    """Return the error for what is not done in its time."""
    return ApiError(503, f"this took more than {seconds:g} seconds; send less at a time, or try again", code="too_slow")


def failure(error: Exception) -> ApiError:
    """Log what nobody foresaw, and return what clients are told of it."""
    if isinstance(error, ApiError):
        return error
    logger.error("the engine failed: %s: %s", type(error).__name__, error, exc_info=error)
    return ApiError(500, f"the engine failed ({type(error).__name__}); see the server's log", code="engine")
