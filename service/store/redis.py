"""The store in Redis (6.2 or later, one primary): every replica sees the same jobs, answers and samples.

A method that must change several keys at once is a Lua script, which Redis runs without other commands in between. When
redis-py repeats a script after a lost connection, the second run finds the changes of the first. Keys start with `sfddm:`.

A full Redis (maxmemory, policy noeviction) refuses everything in a MULTI, even reads. It judges a script by its first write:

- A command that needs memory is refused, and the script ends.
- A command that frees memory (DEL, HDEL, ZREM, XACK and others) is accepted, and so are all later writes of the script.

So scripts that free memory, or write little that must not be lost, begin with such a command. Scripts that fill Redis do not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import cast

from service.store.base import BlobGroup
from service.store.redis_jobs import RedisJobs
from service.store.redis_link import RedisLink

_PREFIX = "sfddm:"


class RedisStore:
    """Jobs, blobs and samples in one Redis."""

    def __init__(
        self, url: str, *, max_jobs: int, job_ttl_s: float, lease_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """lease_s: seconds without a beat after which a worker counts as dead and its chunk is lent again.

        clock: in seconds; times the pause after a failure of Redis.
        """
        self._link = RedisLink(url, f"{_PREFIX}probe", clock)
        self.jobs = RedisJobs(self._link, _PREFIX, max_jobs=max_jobs, ttl_s=job_ttl_s, lease_s=lease_s)
        self.blobs = RedisBlobs(self._link)
        self.samples = RedisSamples(self._link)

    @property
    def up(self) -> bool:
        return self._link.up

    async def close(self) -> None:
        await self.jobs.leave()
        await self._link.client.aclose()


# KEYS blob, index (zset "<size>:<key>" by expiry), total. ARGV value, size, ttl ms, now ms, max bytes, key, only new
_PUT = """
local size, now, most, key = tonumber(ARGV[2]), tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
if ARGV[7] == '1' and redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local function remove(member)
  if redis.call('ZREM', KEYS[2], member) == 0 then return end
  local old, name = string.match(member, '^(%d+):(.*)$')
  redis.call('DEL', string.sub(KEYS[1], 1, -1 - string.len(key)) .. name)
  redis.call('DECRBY', KEYS[3], old)
end
if redis.call('EXISTS', KEYS[1]) == 1 then remove(redis.call('STRLEN', KEYS[1]) .. ':' .. key) end
if size > most then redis.call('DEL', KEYS[1]) return 1 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
redis.call('ZADD', KEYS[2], now + ARGV[3], size .. ':' .. key)
local total = redis.call('INCRBY', KEYS[3], size)
for _ = 1, 100 do
  local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
  if total <= most and tonumber(first[2]) > now then break end
  remove(first[1])
  total = tonumber(redis.call('GET', KEYS[3]))
end
return 1
"""


class RedisBlobs:
    """Blobs in Redis. A deleted blob counts towards its group's bytes until it would have expired."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._put = link.client.register_script(_PUT)

    async def get(self, group: BlobGroup, keys: Sequence[str]) -> list[bytes | None]:
        async with self._link.use() as redis:
            return cast(list[bytes | None], await redis.mget([_blob(group, key) for key in keys]))

    async def put(self, group: BlobGroup, key: str, value: bytes, ttl_s: float) -> None:
        await self._write(group, key, value, ttl_s, only_new=False)

    async def add(self, group: BlobGroup, key: str, value: bytes, ttl_s: float) -> bool:
        return await self._write(group, key, value, ttl_s, only_new=True)

    async def delete(self, group: BlobGroup, key: str) -> None:
        async with self._link.use() as redis:
            await redis.delete(_blob(group, key))

    async def _write(self, group: BlobGroup, key: str, value: bytes, ttl_s: float, *, only_new: bool) -> bool:
        keys = [_blob(group, key), f"{_PREFIX}{group.name}-index", f"{_PREFIX}{group.name}-total"]
        arguments: list[bytes | str | int] = [
            value,
            len(value),
            round(ttl_s * 1000),
            round(time.time() * 1000),
            group.max_bytes,
            key,
            int(only_new),
        ]
        async with self._link.use():
            return bool(await self._put(keys=keys, args=arguments))


def _blob(group: BlobGroup, key: str) -> str:
    return f"{_PREFIX}{group.name}:{key}"


class RedisSamples:
    """Samples in Redis: a capped list and a counter for each series."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    async def append(self, series: str, value: bytes, keep: int) -> None:
        async with self._link.use() as redis, redis.pipeline(transaction=True) as pipe:
            pipe.lpush(f"{_PREFIX}samples:{series}", value)
            pipe.ltrim(f"{_PREFIX}samples:{series}", 0, keep - 1)
            pipe.incr(f"{_PREFIX}samples-count:{series}")
            await pipe.execute()

    async def recent(self, series: str) -> tuple[int, list[bytes]]:
        async with self._link.use() as redis, redis.pipeline(transaction=False) as pipe:
            pipe.get(f"{_PREFIX}samples-count:{series}")
            pipe.lrange(f"{_PREFIX}samples:{series}", 0, -1)
            count, values = await pipe.execute()
        return int(count or 0), values
