"""The connection to Redis, and what happens while there is none."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from service.store.base import StoreUnavailableError

TIMEOUT_S = 2.0  # a Redis that takes longer counts as gone: a generation that looks into the cache waits this long, once
PAUSE_S = 1.0  # after a failure nothing is tried for so long, so that a Redis that hangs does not slow every request

_GONE = "The store behind jobs (Redis) cannot be reached; try again in a moment. Generating images goes on without it."
_log = structlog.get_logger(__name__)


class Link:
    """The connection pool, and whether Redis answers."""

    def __init__(self, url: str) -> None:
        """url: redis:// or rediss://; nothing is connected yet."""
        self.client: Redis = Redis.from_url(
            url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 1),  # a pooled connection that Redis has closed meanwhile is replaced at once
            retry_on_error=[RedisConnectionError],
            client_name="sfddm",
        )
        self.up = True
        self._paused_until_s = 0.0

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Redis]:
        """The client; whatever goes wrong with Redis inside is a StoreUnavailableError."""
        if time.monotonic() < self._paused_until_s:
            raise StoreUnavailableError(_GONE)
        try:
            yield self.client
        except (RedisError, OSError) as error:
            self._paused_until_s = time.monotonic() + PAUSE_S
            if self.up:
                _log.warning("redis_unavailable", reason=str(error))
            self.up = False
            raise StoreUnavailableError(_GONE) from error
        if not self.up:
            _log.info("redis_is_back")
            self.up = True
