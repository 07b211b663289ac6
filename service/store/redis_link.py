"""The connection to Redis, and what happens while there is none, or while it refuses to write: full, or its disk is."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from service.store.base import StoreUnavailableError

TIMEOUT_S = 2.0  # a Redis that takes longer counts as gone: a generation that looks into the cache waits this long, once
PAUSE_S = 1.0  # after a failure nothing is tried for so long, so that a Redis that hangs does not slow every request
REFUSED_S = 10.0  # after a refusal nobody asks for so long whether Redis writes again: small writes pass where large do not

_GONE = "The store behind jobs (Redis) cannot be reached; try again in a moment. Generating images goes on without it."
_FULL = (
    "The store behind jobs (Redis) is full; delete finished jobs (DELETE /v1/jobs/{id}) or raise its maxmemory. "
    "Generating images goes on without it."
)
_REFUSED = (
    "The store behind jobs (Redis) answers, but refuses this; the server's log has its reason (redis_unavailable). "
    "Generating images goes on without it."
)
_OOM = "command not allowed when used memory > 'maxmemory'"  # of a command, of a transaction, and within a script's error
_log = structlog.get_logger(__name__)


class Link:
    """The connection pool, and whether Redis answers and writes."""

    def __init__(self, url: str, probe: str) -> None:
        """url: redis:// or rediss://; nothing is connected yet. probe: a key to write, to see whether that works again."""
        self.client: Redis = Redis.from_url(
            url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 1),  # a pooled connection that Redis has closed meanwhile is replaced at once
            retry_on_error=[RedisConnectionError],
            client_name="sfddm",
        )
        self.up = True
        self._probe = probe
        self._paused_until_s = 0.0
        self._refuses = False  # since a write was refused, until one is taken: that reads go well says nothing about it
        self._ask_at_s = 0.0

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Redis]:
        """The client; whatever goes wrong with Redis inside is a StoreUnavailableError."""
        if time.monotonic() < self._paused_until_s:
            raise StoreUnavailableError(_GONE)
        try:
            yield self.client
            if self._refuses and time.monotonic() >= self._ask_at_s:
                await self._ask()
        except ResponseError as error:
            self._refused()
            self._down(error)
            raise StoreUnavailableError(_FULL if _OOM in str(error) else _REFUSED) from error
        except (RedisError, OSError) as error:
            self._paused_until_s = time.monotonic() + PAUSE_S
            self._down(error)
            raise StoreUnavailableError(_GONE) from error
        if not self.up and not self._refuses:
            _log.info("redis_is_back")
            self.up = True

    async def _ask(self) -> None:
        """Write something that needs room."""
        try:
            await self.client.set(self._probe, b"", px=1)
            self._refuses = False
        except ResponseError:
            self._refused()

    def _refused(self) -> None:
        self._refuses = True
        self._ask_at_s = time.monotonic() + REFUSED_S

    def _down(self, error: Exception) -> None:
        if self.up:
            _log.warning("redis_unavailable", reason=str(error))
        self.up = False
