"""The body of a request, read before anything else is done with it: whole, within a size, and within a time.

413   it is larger than `limit` bytes, announced or only found while reading
408   it has not come in time; the connection is closed
503   the service began to drain while it was still coming; the connection is closed, so that it does not keep the process
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import Problem, problem_of
from service.engine.request import UnavailableError

_CLOSE = {"connection": "close"}


class Arriving:
    """The bodies that are still coming, so that a drain need not wait for them."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.ended = False
        self._timeouts: set[asyncio.Timeout] = set()

    def end(self) -> None:
        """Wait for no body any more; in the event loop."""
        self.ended = True
        for timeout in self._timeouts:
            timeout.reschedule(0)

    @asynccontextmanager
    async def timeout(self) -> AsyncIterator[None]:
        """Raises TimeoutError inside the block when a body has taken too long, or when `end` has been called."""
        async with asyncio.timeout(0 if self.ended else self.timeout_s) as timeout:
            self._timeouts.add(timeout)
            try:
                yield
            finally:
                self._timeouts.discard(timeout)


class WholeBody:
    """Calls the application once the body is here; it receives it as one message."""

    def __init__(self, app: ASGIApp, *, limit: int, arriving: Arriving) -> None:
        self._app = app
        self._limit = limit
        self._arriving = arriving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > self._limit:
            body: bytes | Problem | None = self._too_large
        else:
            try:
                async with self._arriving.timeout():
                    body = await self._read(receive)
            except TimeoutError:
                body = self._late
        if isinstance(body, Problem):
            await body.response(scope["path"])(scope, receive, send)
        elif body is not None:
            await self._app(scope, _replayed(body, receive), send)

    async def _read(self, receive: Receive) -> bytes | Problem | None:
        """The body; None when the client has left."""
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return None
            body += message.get("body", b"")
            if len(body) > self._limit:
                return self._too_large
            if not message.get("more_body", False):
                return bytes(body)

    @property
    def _late(self) -> Problem:
        if self._arriving.ended:
            draining = problem_of(UnavailableError("The service is shutting down and the body has not come; try elsewhere."))
            return replace(draining, headers={**draining.headers, **_CLOSE})
        message = f"The body did not come within {self._arriving.timeout_s:g} s; send the request again."
        return Problem(408, message, code="body_timeout", headers=_CLOSE)

    @property
    def _too_large(self) -> Problem:
        return Problem(413, f"The body is larger than {self._limit} bytes; send a smaller one.", code="body_too_large")


def _replayed(body: bytes, receive: Receive) -> Receive:
    """`receive` as if the body had not been read."""
    unread = True

    async def replayed() -> Message:
        nonlocal unread
        if unread:
            unread = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replayed
