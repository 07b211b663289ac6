"""Every error in OpenAI's shape: {"error": {"message", "type", "param", "code"}}.

400 invalid_request_error      a field is wrong; param names it
404 invalid_request_error      no such route, or no such model (code model_not_found)
405, 413 invalid_request_error wrong method, body too large
429 rate_limit_error           too much work is ahead; Retry-After says when to come back
503 unavailable_error          starting, draining, failed, or the model failed to load
500 server_error               an image could not be computed (code image_failed, the message names it: an answer holds all of
                               its images or none), or our fault; the log has the cause under the request id
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from models.catalogue import UnknownModelError
from service.engine.request import OverloadedError, RowFailedError, UnavailableError

INVALID = "invalid_request_error"
RETRY_AFTER_RANGE_S = (1, 120)  # the official client does not wait longer than two minutes


class ClientLeftError(Exception):
    """The client disconnected before its answer was ready; nobody reads the response."""


class InvalidRequestError(Exception):
    """A request that cannot be served as it is: a 400 that names the field."""

    def __init__(self, message: str, param: str | None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


def error_response(
    status: int,
    message: str,
    *,
    kind: str = INVALID,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """One error in OpenAI's shape."""
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return JSONResponse(body, status_code=status, headers=headers)


def retry_after_header(seconds: float) -> dict[str, str]:
    """Retry-After as whole seconds within what clients honour."""
    low, high = RETRY_AFTER_RANGE_S
    return {"retry-after": str(min(max(math.ceil(seconds), low), high))}


def describe_validation(error: RequestValidationError) -> tuple[str, str | None]:
    """(one sentence, field) of the first thing wrong with a body."""
    first = error.errors()[0]
    kind, place = first["type"], [str(part) for part in first["loc"][1:]]
    if kind == "json_invalid":
        return f"The body is not valid JSON (at character {place[0]}): {first['ctx']['error']}.", None
    if kind == "string_unicode":
        return "The body holds a string that is not valid Unicode.", ".".join(place) or None
    if not place:
        return "Send a JSON object as the body, with the header Content-Type: application/json.", None
    field = ".".join(place)
    if kind == "extra_forbidden":
        return f"Unknown field {field!r}; leave it out. GET /docs lists the fields.", field
    reason = first["msg"].removeprefix("Value error, ").removesuffix(".")
    return f"{field}: {reason[:1].lower()}{reason[1:]}.", field


def install_error_handlers(app: FastAPI) -> None:
    """Map every exception that handlers raise to its response. What is not listed here becomes a 500 in the middleware."""

    @app.exception_handler(InvalidRequestError)
    async def invalid(_: Request, error: InvalidRequestError) -> JSONResponse:
        return error_response(400, str(error), param=error.param, code=error.code)

    @app.exception_handler(RequestValidationError)
    async def validation(_: Request, error: RequestValidationError) -> JSONResponse:
        message, param = describe_validation(error)
        return error_response(400, message, param=param)

    @app.exception_handler(UnknownModelError)
    async def unknown_model(_: Request, error: UnknownModelError) -> JSONResponse:
        return error_response(404, str(error), param="model", code="model_not_found")

    @app.exception_handler(OverloadedError)
    async def overloaded(_: Request, error: OverloadedError) -> JSONResponse:
        return error_response(
            429,
            str(error),
            kind="rate_limit_error",
            code="overloaded",
            headers=retry_after_header(error.retry_after_s),
        )

    @app.exception_handler(UnavailableError)
    async def unavailable(_: Request, error: UnavailableError) -> JSONResponse:
        return error_response(
            503, str(error), kind="unavailable_error", code="not_ready", headers=retry_after_header(RETRY_AFTER_RANGE_S[0])
        )

    @app.exception_handler(ClientLeftError)
    async def client_left(_: Request, __: ClientLeftError) -> Response:
        return Response(status_code=499)  # nginx's number for it, seen only in the log

    @app.exception_handler(RowFailedError)
    async def failed(_: Request, error: RowFailedError) -> JSONResponse:
        return error_response(500, str(error), kind="server_error", code="image_failed")

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        message, code = error.detail, None
        if error.status_code == 400:  # the framework's own, for a body that it cannot decode at all
            message = "The body is not valid JSON in UTF-8."
        elif error.status_code == 404:
            message, code = f"There is nothing at {request.url.path}; GET /docs lists what there is.", "not_found"
        elif error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "another method")
            message, code = f"{request.method} is not allowed at {request.url.path}; use {allowed}.", "method_not_allowed"
        return error_response(error.status_code, message, code=code, headers=error.headers)
