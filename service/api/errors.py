"""Errors as clients see them, and the status of every exception.

Errors have OpenAI's shape: {"error": {"message", "type", "param", "code"}}. Under /v2 they have KServe's: {"error": message}.

400 invalid_request_error      a field is wrong; param names it
401 invalid_request_error      /admin without its token
403, 410 invalid_request_error the url of an image was altered, or has expired
404 invalid_request_error      no such route, model (code model_not_found), job or experiment
405, 406, 413, 415             wrong method, no media type that is accepted, body too large, Content-Encoding unknown
409, 422 invalid_request_error an Idempotency-Key in use, or used before for another request; a job without a result
429 rate_limit_error           too much work is ahead, or too many jobs; Retry-After says when to come back
503 unavailable_error          starting, draining, failed, or the store is down; code model_failed: the model could not be
                               loaded, and trying again does not help
500 server_error               code image_failed: an image could not be computed, and the message names it; code internal_error:
                               a bug, whose cause the log has under the request id
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.routing import Match

from models.catalogue import UnknownModelError
from models.validation import reason_of
from service.api.record import current_record
from service.engine.request import ModelFailedError, OverloadedError, RowFailedError, UnavailableError
from service.features.errors import (
    ConflictError,
    ForbiddenError,
    GoneError,
    InvalidRequestError,
    NotFoundError,
    UnusableError,
    shown_name,
)
from service.store.base import StoreFullError, StoreUnavailableError

INVALID = "invalid_request_error"
RETRY_AFTER_RANGE_S = (1, 120)  # OpenAI's client does not wait longer than two minutes
_FULL_RETRY_S = 60.0  # by then a stored job may have ended or expired


class ClientLeftError(Exception):
    """The client disconnected before its answer was ready. Nobody reads the response."""


class UnauthorizedError(InvalidRequestError):
    """A request for /admin without its token."""


class NotAcceptableError(InvalidRequestError):
    """The Accept header excludes every media type that there is."""


_STATUS: Mapping[type[InvalidRequestError], int] = {  # by the exact class; a plain InvalidRequestError is a 400
    UnauthorizedError: 401,
    ForbiddenError: 403,
    NotFoundError: 404,
    NotAcceptableError: 406,
    ConflictError: 409,
    GoneError: 410,
    UnusableError: 422,
}


@dataclass(frozen=True)
class Problem:
    """One error as clients see it."""

    status: int
    message: str
    kind: str = INVALID
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, object]:
        """OpenAI's shape; on a stream it is the data of the last event."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def note(self) -> None:
        """Note the code in the record, so that the log line and the span of the request have it."""
        current_record().code = self.code or self.kind

    def response(self, path: str = "") -> JSONResponse:
        """Return the answer at `path`, and note its code in the record."""
        self.note()
        body = {"error": self.message} if is_inference_protocol(path) else self.body
        return JSONResponse(body, status_code=self.status, headers=self.headers)


def is_inference_protocol(path: str) -> bool:
    """Return True for paths of the Open Inference Protocol, which has its own shape of errors."""
    return path == "/v2" or path.startswith("/v2/")


def problem_of(error: Exception) -> Problem:
    """Return the Problem of an exception. An unknown exception is a 500 whose message reveals nothing."""
    match error:
        case InvalidRequestError():
            headers = {"www-authenticate": "Bearer"} if isinstance(error, UnauthorizedError) else {}
            return Problem(_STATUS.get(type(error), 400), str(error), param=error.param, code=error.code, headers=headers)
        case RequestValidationError():
            message, param = describe_validation(error)
            return Problem(400, message, param=param)
        case UnknownModelError():
            return Problem(404, str(error), param="model", code="model_not_found")
        case OverloadedError():
            return Problem(429, str(error), "rate_limit_error", None, "overloaded", retry_after_header(error.retry_after_s))
        case ModelFailedError():
            hopeless = retry_after_header(RETRY_AFTER_RANGE_S[1]) | {"x-should-retry": "false"}  # OpenAI's client reads it
            return Problem(503, str(error), "unavailable_error", "model", "model_failed", hopeless)
        case UnavailableError():
            return Problem(503, str(error), "unavailable_error", None, "not_ready", retry_after_header(error.retry_after_s))
        case StoreFullError():
            return Problem(429, str(error), "rate_limit_error", None, "too_many_jobs", retry_after_header(_FULL_RETRY_S))
        case StoreUnavailableError():
            return Problem(503, str(error), "unavailable_error", None, "store_unavailable", retry_after_header(1))
        case RowFailedError():
            return Problem(500, str(error), "server_error", code="image_failed")
        case _:
            return Problem(500, "The server failed to answer; its log has the cause.", "server_error", code="internal_error")


def retry_after_header(seconds: float) -> dict[str, str]:
    """Return a Retry-After header in whole seconds, within the range that clients follow."""
    low, high = RETRY_AFTER_RANGE_S
    return {"retry-after": str(min(max(math.ceil(seconds), low), high))}


def describe_validation(error: RequestValidationError) -> tuple[str, str | None]:
    """Return one sentence about the first error in a body, and the name of its field."""
    first: ErrorDetails = error.errors()[0]
    kind, place = first["type"], [str(part) for part in first["loc"][1:]]
    if kind == "json_invalid":
        return f"The body is not valid JSON (at character {place[0]}): {first['ctx']['error']}.", None
    if kind == "string_unicode":
        return "The body holds a string that is not valid Unicode.", ".".join(place) or None
    if not place:
        return "Send a JSON object as the body, with the header Content-Type: application/json.", None
    field = ".".join(place)
    if kind == "extra_forbidden":
        return f"Unknown field {shown_name(field)}; leave it out. GET /docs lists the fields.", field
    return f"{field}: {reason_of(first)}.", field


def install_error_handlers(app: FastAPI) -> None:
    """Map every exception of routes to its response. One that is not listed here becomes a 500 in the middleware."""

    async def answer(request: Request, error: Exception) -> Response:
        return problem_of(error).response(request.url.path)

    for kind in (
        InvalidRequestError,
        RequestValidationError,
        UnknownModelError,
        OverloadedError,
        UnavailableError,
        RowFailedError,
        StoreFullError,
        StoreUnavailableError,
    ):
        app.add_exception_handler(kind, answer)

    @app.exception_handler(ClientLeftError)
    async def client_left(_: Request, __: ClientLeftError) -> Response:
        return Response(status_code=499)  # nginx's status for this; only the log shows it

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        path, headers = request.url.path, dict(error.headers or {})
        message, code = error.detail, None
        if error.status_code == 400:  # raised by the framework for a body that it cannot decode at all
            message = _undecodable(error.__cause__)
        elif error.status_code == 404:
            remedy = "leave out the slash at its end" if path.endswith("/") else "GET /docs lists what there is"
            message, code = f"There is nothing at {path}; {remedy}.", "not_found"
        elif error.status_code == 405:
            headers["Allow"] = _allowed(request)
            if request.method == "OPTIONS":  # RFC 9110, section 9.3.7
                return Response(status_code=204, headers=headers)
            message, code = f"{request.method} is not allowed at {path}; use {headers['Allow']}.", "method_not_allowed"
        return Problem(error.status_code, message, code=code, headers=headers).response(path)


def _undecodable(cause: BaseException | None) -> str:
    """Say why the framework could not read a body."""
    if isinstance(cause, RecursionError):
        return "The body is JSON nested too deeply to be read; send a flat object."
    if isinstance(cause, ValueError) and "digits" in str(cause):  # CPython's limit on converting integers
        return "The body holds an integer of thousands of digits; send a number in the range of its field."
    return "The body is not valid JSON in UTF-8."


def _allowed(request: Request) -> str:
    """List every method of a path. The framework's own Allow header has those of one route only."""

    def has(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)

    methods = [method for method in ("DELETE", "GET", "POST") if has(method)]
    return ", ".join([*methods, "HEAD", "OPTIONS"] if "GET" in methods else [*methods, "OPTIONS"])
