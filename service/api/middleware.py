"""What surrounds every request: its id, its log line, what is left of the service, HEAD, and the answer when we fail."""

from __future__ import annotations

import asyncio
import re
import time
import uuid

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import Problem, problem_of
from service.api.state import Lane
from service.engine.engine import Engine
from service.engine.request import UnavailableError
from service.telemetry import Metrics

REQUEST_ID = "x-request-id"
_SANE_ID = re.compile(r"^[A-Za-z0-9._:-]{1,128}$")
_QUIET = frozenset({"/livez", "/readyz", "/metrics"})  # polled every few seconds by machines

_REFUSED = frozenset(
    {400, 404, 406, 408, 413, 422}
)  # for what is wrong with them; overload and the like are counted where they arise

_log = structlog.get_logger("service.api")


class RequestContext:
    """Gives every response an x-request-id (the client's own if it is sane), logs it, and answers 500 without a traceback.

    Requests that were refused before any model was asked are counted under the model `none`.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        proposed = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = proposed if _SANE_ID.match(proposed) else uuid.uuid4().hex
        started = time.perf_counter()
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except asyncio.CancelledError:  # the server's drain is over
                if status is not None:
                    raise
                late = problem_of(UnavailableError("The service has shut down before this was answered; send it elsewhere."))
                await late.response(scope["path"])(scope, receive, send_with_id)
            except Exception:
                _log.exception("request_failed", path=scope["path"])
                if status is not None:  # too late for an answer: let the server close the connection
                    raise
                message = f"The server failed to answer; its log has the cause under request id {request_id}."
                answer = Problem(500, message, "server_error", code="internal_error").response(scope["path"])
                await answer(scope, receive, send_with_id)
            finally:
                if scope["method"] == "POST" and status in _REFUSED:
                    self._metrics.requests_total.labels("none", "invalid").inc()
                log = _log.debug if scope["path"] in _QUIET else _log.info
                seconds = round(time.perf_counter() - started, 4)
                log("request", method=scope["method"], path=scope["path"], status=status, seconds=seconds)


class HeadAsGet:
    """Answers HEAD as GET without the body, at every route that has GET."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_no_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self._app({**scope, "method": "GET"}, receive, send_no_body)


class RateLimitHeaders:
    """Tells whoever asked a model for images how much more it would take, in headers named as OpenAI names them.

    Seconds are those that the admission rule counts: until the work admitted to the request's lane (its model and service
    tier) is done, beside that of the others. Answers that were given before a model was decided have none of these.

    x-ratelimit-limit-seconds      work that may wait in the lane before requests are refused
    x-ratelimit-remaining-seconds  how much more may wait now
    x-ratelimit-reset-seconds      when requests are taken again; 0 while they are
    """

    def __init__(self, app: ASGIApp, engine: Engine, limit_s: float) -> None:
        self._app = app
        self._engine = engine
        self._limit_s = limit_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_limits(message: Message) -> None:
            lane: Lane | None = scope.get("state", {}).get("lane")
            if message["type"] == "http.response.start" and lane is not None:
                wait_s = self._engine.wait_s(lane.model, flex=lane.flex)
                if wait_s is not None:
                    headers = MutableHeaders(scope=message)
                    headers["x-ratelimit-limit-seconds"] = f"{self._limit_s:g}"
                    headers["x-ratelimit-remaining-seconds"] = f"{max(0.0, self._limit_s - wait_s):.3f}"
                    headers["x-ratelimit-reset-seconds"] = f"{max(0.0, wait_s - self._limit_s):.3f}"
            await send(message)

        await self._app(scope, receive, send_with_limits)
