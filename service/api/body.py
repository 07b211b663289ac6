"""Middleware that reads the whole body of a request before its route runs.

The body is decompressed, and limited in size and time. Refusals:

413   the body is larger than `limit` bytes, by its Content-Length or as it is read or decompressed
415   the Content-Encoding is neither gzip nor deflate
400   the body is not what its Content-Encoding says
408   the body did not arrive in time; the connection is closed
503   the service began to drain before the body had arrived; the connection is closed, so that the process can end
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import Problem, problem_of
from service.engine.request import UnavailableError

_CLOSE = {"connection": "close"}
_WINDOW = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # zlib's wbits for each coding of RFC 9110, section 8.4.1


class Arriving:
    """The bodies that have not arrived yet. A drain stops the wait for them, so that slow clients do not delay it."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.ended = False
        self._timeouts: set[asyncio.Timeout] = set()

    def end(self) -> None:
        """Stop waiting for bodies, now and from now on. Call it in the event loop."""
        self.ended = True
        for timeout in self._timeouts:
            timeout.reschedule(0)

    @asynccontextmanager
    async def timeout(self) -> AsyncIterator[None]:
        """Raise TimeoutError inside the block when it takes longer than timeout_s, or once `end` has been called."""
        async with asyncio.timeout(0 if self.ended else self.timeout_s) as timeout:
            self._timeouts.add(timeout)
            try:
                yield
            finally:
                self._timeouts.discard(timeout)


class WholeBody:
    """Middleware that calls the application once the whole body has arrived, and gives it the body as one message."""

    def __init__(self, app: ASGIApp, *, limit: int, arriving: Arriving) -> None:
        self._app = app
        self._limit = limit
        self._arriving = arriving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        announced, coding = headers.get("content-length", ""), headers.get("content-encoding", "").strip().lower()
        if announced.isdecimal() and int(announced) > self._limit:
            body: bytes | Problem | None = self._too_large
        else:
            try:
                async with self._arriving.timeout():
                    body = await self._read(receive)
            except TimeoutError:
                body = self._late
        if isinstance(body, bytes) and body and coding not in ("", "identity"):
            body = self._decoded(body, coding)
            scope = _without_coding(scope)
        if isinstance(body, Problem):
            await body.response(scope["path"])(scope, receive, send)
        elif body is not None:
            await self._app(scope, unread(body, receive), send)

    async def _read(self, receive: Receive) -> bytes | Problem | None:
        """Return the body, a refusal, or None when the client has disconnected."""
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

    def _decoded(self, body: bytes, coding: str) -> bytes | Problem:
        """Return the decompressed body, or a refusal. No more than the limit is ever decompressed."""
        if coding not in _WINDOW:
            message = "Content-Encoding: send the body as it is, or compressed once, with gzip or deflate."
            return Problem(415, message, param="Content-Encoding", headers={"accept-encoding": "gzip, deflate"})
        decompressor = zlib.decompressobj(_WINDOW[coding])
        try:
            decoded = decompressor.decompress(body, self._limit + 1)
        except zlib.error:
            decoded = b""
        if len(decoded) > self._limit:
            return self._too_large
        if not decompressor.eof or decompressor.unused_data:
            return Problem(400, f"Content-Encoding: the body is not one whole {coding} stream.", param="Content-Encoding")
        return decoded

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


def _without_coding(scope: Scope) -> Scope:
    """Return the scope without the headers that describe the compressed body."""
    gone = (b"content-encoding", b"content-length")
    return {**scope, "headers": [(name, value) for name, value in scope["headers"] if name not in gone]}


def unread(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body again, for an application behind a middleware that has read it."""
    pending = True

    async def replayed() -> Message:
        nonlocal pending
        if pending:
            pending = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replayed
