"""Middleware of every request: its id, log line and trace; rate-limit headers; HEAD; the answer to an unexpected error."""

from __future__ import annotations

import asyncio
import re
import uuid
from dataclasses import dataclass

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.catalogue import Resolved
from service import __version__
from service.api.errors import Problem, problem_of
from service.api.record import RequestRecord, outcome_of_status, recording
from service.engine.engine import Engine
from service.engine.request import UnavailableError
from service.observability.metrics import Metrics
from service.observability.tracing import RequestSpan, Tracing

REQUEST_ID = "x-request-id"
VERSION = "x-sfddm-version"
_SANE_ID = re.compile(r"^[A-Za-z0-9._:-]{1,128}$")
_QUIET = frozenset({"/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})  # polled by machines

_log = structlog.get_logger("service.api")


class RequestContext:
    """Gives every response an x-request-id, logs the request, traces it, and answers 500 without a traceback.

    The id is the client's own if it is well-formed. Responses under /v1 also name the version of the service. A POST that was
    refused before its model was known is counted under the model `none`. Requests to the paths that machines poll (_QUIET) are
    not traced.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing | None = None) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        proposed = headers.get(REQUEST_ID, "")
        request_id = proposed if _SANE_ID.match(proposed) else uuid.uuid4().hex
        bound, span = {"request_id": request_id}, None
        if self._tracing is not None and scope["path"] not in _QUIET:
            span = self._tracing.begin(scope["method"], scope["path"], headers)
            bound["trace_id"] = span.trace_id
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                answered = MutableHeaders(scope=message)
                answered[REQUEST_ID] = request_id
                if scope["path"].startswith("/v1/"):
                    answered[VERSION] = __version__
            await send(message)

        with structlog.contextvars.bound_contextvars(**bound), recording() as record:
            try:
                await self._app(scope, receive, send_with_id)
            except asyncio.CancelledError:  # the drain has ended before this request
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
                self._close(scope, request_id, status, record, span)

    def _close(
        self, scope: Scope, request_id: str, status: int | None, record: RequestRecord, span: RequestSpan | None
    ) -> None:
        """Count, trace and log a request that is over, however it ended."""
        method, path = scope["method"], scope["path"]
        outcome = record.outcome or outcome_of_status(status)
        if method == "POST" and record.outcome is None and outcome == "invalid":
            self._metrics.requests_total.labels("none", outcome).inc()
        facts = record.fields() | {"outcome": outcome}
        if span is not None:
            route = getattr(scope.get("route"), "path", None)
            attributes = {f"sfddm.{name}": value for name, value in facts.items()}
            attributes |= {"http.route": route, "http.response.status_code": status, "sfddm.request_id": request_id}
            span.end(f"{method} {route}" if route else method, outcome, attributes, record.phases)
        log = _log.debug if path in _QUIET else _log.info
        log("request", method=method, path=path, status=status, seconds=record.seconds, **facts)


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


@dataclass(frozen=True)
class RateLimitScope:
    """The model and service tier whose capacity the rate-limit headers report.

    It is the request's `state.rate_limit_scope`, once the model is decided.
    """

    model: Resolved
    flex: bool = False


class RateLimitHeaders:
    """Adds headers that report how much more work the model of a request would take, named as OpenAI names them.

    Seconds are those that the admission rule counts: until the work admitted to the request's lane (its model and service
    tier) is done, beside the work of other lanes. Answers given before a model was decided have none of these headers.

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
            limited: RateLimitScope | None = scope.get("state", {}).get("rate_limit_scope")
            if message["type"] == "http.response.start" and limited is not None:
                wait_s = self._engine.wait_s(limited.model, flex=limited.flex)
                if wait_s is not None:
                    headers = MutableHeaders(scope=message)
                    headers["x-ratelimit-limit-seconds"] = f"{self._limit_s:g}"
                    headers["x-ratelimit-remaining-seconds"] = f"{max(0.0, self._limit_s - wait_s):.3f}"
                    headers["x-ratelimit-reset-seconds"] = f"{max(0.0, wait_s - self._limit_s):.3f}"
            await send(message)

        await self._app(scope, receive, send_with_limits)
