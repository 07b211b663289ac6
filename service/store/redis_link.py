"""The connection to Redis, and the errors while Redis is gone or refuses to write (its memory or its disk is full)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from service.store.base import StoreUnavailableError

TIMEOUT_S = 2.0  # a slower Redis counts as gone: a generation that looks into the cache waits this long, once
PAUSE_S = 1.0  # between a failure and the next try, so that a Redis that hangs does not delay every request
REFUSED_S = 10.0  # between a refusal and the next probe, which may succeed in a nearly full Redis while large writes fail

_GONE = "The store behind jobs (Redis) cannot be reached; try again in a moment. Generating images goes on without it."
_FULL = (
    "The store behind jobs (Redis) is full; delete finished jobs (DELETE /v1/jobs/{id}) or raise its maxmemory. "
    "Generating images goes on without it."
)
_REFUSED = (
    "The store behind jobs (Redis) answers, but refuses this; the server's log has its reason (redis_unavailable). "
    "Generating images goes on without it."
)
_OOM = "command not allowed when used memory > 'maxmemory'"  # in the error of a command, a transaction or a script
_log = structlog.get_logger(__name__)


class RedisLink:
    """The connection pool of Redis. `up` is False while Redis does not answer or refuses writes."""

    def __init__(self, url: str, probe: str, clock: Callable[[], float] = time.monotonic) -> None:
        """url: redis:// or rediss://, not connected to before the first use. probe: key to write when checking for room.

        clock: times PAUSE_S and REFUSED_S, in seconds.
        """
        self.client: Redis = Redis.from_url(
            url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 1),  # replaces at once a pooled connection that Redis has closed
            retry_on_error=[RedisConnectionError],
            client_name="sfddm",
        )
        self.up = True
        self._clock = clock
        self._probe = probe
        self._paused_until_s = 0.0
        self._refuses = False  # True from a refused write to an accepted one; a successful read does not end it
        self._probe_at_s = 0.0

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Redis]:
        """Yield the client. Turn every error of Redis inside the block into a StoreUnavailableError."""
        if self._clock() < self._paused_until_s:
            raise StoreUnavailableError(_GONE)
        try:
            yield self.client
            if self._refuses and self._clock() >= self._probe_at_s:
                await self._check_room()
        except ResponseError as error:
            self._refused()
            self._down(error)
            raise StoreUnavailableError(_FULL if _OOM in str(error) else _REFUSED) from error
        except (RedisError, OSError) as error:
            self._paused_until_s = self._clock() + PAUSE_S
            self._down(error)
            raise StoreUnavailableError(_GONE) from error
        if not self.up and not self._refuses:
            _log.info("redis_is_back")
            self.up = True

    async def _check_room(self) -> None:
        """Write the probe, which needs a little memory."""
        try:
            await self.client.set(self._probe, b"", px=1)
            self._refuses = False
        except ResponseError:
            self._refused()

    def _refused(self) -> None:
        self._refuses = True
        self._probe_at_s = self._clock() + REFUSED_S

    def _down(self, error: Exception) -> None:
        if self.up:
            _log.warning("redis_unavailable", reason=str(error))
        self.up = False
