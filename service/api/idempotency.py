"""Idempotency-Key (draft-ietf-httpapi-idempotency-key-header): a POST that is sent again gets the first answer.

    the same key and request, answered before     the kept answer, with `idempotency-replayed: true`
    the same key and request, still being made    409 with Retry-After; the official client waits and tries again
    the same key with another request             422

- Answers other than 2xx are not kept, so a request that failed may be tried again with its key.
- While the store is away requests run without this protection: a generation can be repeated without harm, and the store itself
  refuses jobs.
- Streams take no key: events that were sent at their own times cannot be repeated as they were.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from contextlib import suppress
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.body import unread
from service.api.errors import Problem, retry_after_header
from service.engine.tasks import end
from service.store.base import BlobGroup, Blobs, StoreUnavailableError

HEADER: Final = "idempotency-key"
REPLAYED: Final = "idempotency-replayed"
PATHS: Final = frozenset({"/v1/images/generations", "/v1/jobs"})
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_DECIDING = ("accept", "content-type")  # headers that change an answer; so do path, query and body
_LEASE_S = 15.0  # a key whose process died is free again after this


class Idempotency:
    """Middleware for the routes in PATHS."""

    def __init__(self, app: ASGIApp, blobs: Blobs, *, max_bytes: int, ttl_s: float) -> None:
        """Wrap an application. max_bytes: limit of all kept answers together; an answer above a quarter of it is not kept."""
        self._app = app
        self._blobs = blobs
        self._group = BlobGroup("answers", max_bytes)
        self._ttl_s = ttl_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = Headers(scope=scope).get(HEADER) if scope["type"] == "http" else None
        if key is None or scope["method"] != "POST" or scope["path"] not in PATHS:
            await self._app(scope, receive, send)
            return
        if not _KEY.fullmatch(key):
            message = "Idempotency-Key: send 1 to 255 printable ASCII characters without spaces."
            await Problem(400, message, param="Idempotency-Key").response()(scope, receive, send)
            return
        body = await Request(scope, receive).body()
        name = hashlib.sha256(f"{scope['path']}\0{key}".encode()).hexdigest()
        fingerprint = _fingerprint(scope, body)
        try:
            kept = await self._begin(name, fingerprint)
        except StoreUnavailableError:
            await self._app(scope, unread(body, receive), send)
            return
        if kept is None:
            await self._answer(name, fingerprint, scope, unread(body, receive), send)
        else:
            await _response_of(kept, fingerprint)(scope, receive, send)

    async def _begin(self, name: str, fingerprint: str) -> bytes | None:
        """Take the key. Return None if this request now holds it, else the blob kept for an earlier request."""
        started = _head(fingerprint)
        while not await self._blobs.add(self._group, name, started, _LEASE_S):
            kept = (await self._blobs.get(self._group, [name]))[0]
            if kept is not None:
                return kept
        return None

    async def _answer(self, name: str, fingerprint: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and keep the answer if it is a complete 2xx and not too large."""
        recorded = _Recorder(send, self._group.max_bytes // 4)
        holding = asyncio.create_task(self._hold(name, fingerprint))
        try:
            await self._app(scope, receive, recorded)
        finally:
            await end(holding)
            with suppress(StoreUnavailableError):
                if recorded.keepable:
                    head = _head(fingerprint, recorded.status, recorded.headers)
                    await self._blobs.put(self._group, name, head + bytes(recorded.body), self._ttl_s)
                else:
                    await self._blobs.delete(self._group, name)

    async def _hold(self, name: str, fingerprint: str) -> None:
        """Keep the key taken while its answer is being made."""
        while True:
            await asyncio.sleep(_LEASE_S / 3)
            with suppress(StoreUnavailableError):
                await self._blobs.put(self._group, name, _head(fingerprint), _LEASE_S)


class _Recorder:
    """Passes the messages of an answer on, and keeps a copy of them."""

    def __init__(self, send: Send, limit: int) -> None:
        self._send = send
        self._limit = limit
        self._complete = False
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message["headers"]]
        elif message["type"] == "http.response.body":
            if len(self.body) <= self._limit:
                self.body += message.get("body", b"")
            self._complete = not message.get("more_body", False)
        await self._send(message)

    @property
    def keepable(self) -> bool:
        """True when the answer is a complete 2xx and not too large."""
        return self._complete and 200 <= self.status < 300 and len(self.body) <= self._limit


def _fingerprint(scope: Scope, body: bytes) -> str:
    """Return a hash of everything in the request that changes its answer."""
    headers = Headers(scope=scope)
    parts = [scope["query_string"], *(headers.get(name, "").encode() for name in _DECIDING), body]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _head(fingerprint: str, status: int | None = None, headers: list[tuple[str, str]] | None = None) -> bytes:
    """Return the first line of a kept answer; the body follows it. status None: the answer is still being made."""
    return json.dumps({"fingerprint": fingerprint, "status": status, "headers": headers or []}).encode() + b"\n"


def _response_of(kept: bytes, fingerprint: str) -> Response:
    """Return the answer to a request whose key was used before."""
    line, _, body = kept.partition(b"\n")
    head = json.loads(line)
    if head["fingerprint"] != fingerprint:
        message = "Idempotency-Key: this key came with another request before; send a new key with a new request."
        return Problem(422, message, param="Idempotency-Key", code="idempotency_key_reused").response()
    if head["status"] is None:
        message = "Idempotency-Key: the request that first came with this key is still being answered; try again in a moment."
        headers = retry_after_header(1)
        return Problem(409, message, param="Idempotency-Key", code="idempotency_key_in_use", headers=headers).response()
    response = Response(body, head["status"])
    response.raw_headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in head["headers"]]
    response.headers[REPLAYED] = "true"
    return response
