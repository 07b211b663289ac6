"""Jobs in Redis. Chunks go through a stream with a consumer group, so each is delivered at least once.

    sfddm:jobs                stream of {job, start}: chunks to take, read by the group `workers` with a consumer per process
    sfddm:jobs-index          zset of job ids by expiry
    sfddm:job:<id>            hash: the job, and `next`: the start of the last chunk that was queued; its first delivery queues
                              the next one
    sfddm:job:<id>:images     hash: position -> image file, each written once

Taking a chunk queues the job's next one behind the chunks of other jobs. So jobs take turns, and the stream holds one entry
for each unfinished job. A worker beats by claiming its own entry. When it dies, its entry is idle for longer than the lease,
and another worker claims it (XAUTOCLAIM).

This file uses plain stream commands, because no maintained task library fits:

- taskiq-redis 1.2 looks for dead workers' entries only after a new one arrives, and has no beat.
- streaq 7 needs a second Redis client (coredis) and a worker process of its own.
- arq and saq use lists.

With each of them, chunks, turns and results would still be written here.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from typing import Any, Final, Literal, cast

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from service.store.base import UNFINISHED, Chunk, Job, Status, StoreFullError, StoreUnavailableError
from service.store.redis_link import RedisLink

GROUP: Final = "workers"

# KEYS job, index, stream. ARGV id, now, ttl, max jobs, request, total, chunk
_ADD = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 1 end
if redis.call('ZCOUNT', KEYS[2], '(' .. ARGV[2], '+inf') >= tonumber(ARGV[4]) then return 0 end
redis.call('HSET', KEYS[1], 'created_at', ARGV[2], 'request', ARGV[5], 'total', ARGV[6], 'chunk', ARGV[7],
  'status', 'queued', 'next', 0)
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[2] + ARGV[3], ARGV[1])
redis.call('XADD', KEYS[3], '*', 'job', ARGV[1], 'start', 0)
return 1
"""

# KEYS job, stream. ARGV id, start, now. Returns 1 if the job still wants the chunk, else 0. The HDEL removes nothing. It makes
# a full Redis accept the writes after it. Otherwise a chunk could not begin and would be delivered until its job fails.
_BEGIN = """
local status = redis.call('HGET', KEYS[1], 'status')
if status ~= 'queued' and status ~= 'running' then return 0 end
redis.call('HDEL', KEYS[1], '-')
if status == 'queued' then redis.call('HSET', KEYS[1], 'status', 'running', 'started_at', ARGV[3]) end
local stop = ARGV[2] + redis.call('HGET', KEYS[1], 'chunk')
if redis.call('HGET', KEYS[1], 'next') == ARGV[2] and stop < tonumber(redis.call('HGET', KEYS[1], 'total')) then
  redis.call('HSET', KEYS[1], 'next', stop)
  redis.call('XADD', KEYS[2], '*', 'job', ARGV[1], 'start', stop)
end
return 1
"""

# KEYS job, images, index. ARGV id, now, ttl, position, file, position, file, ...
_SAVE = """
if redis.call('HGET', KEYS[1], 'status') ~= 'running' then return 0 end
for i = 4, #ARGV, 2 do redis.call('HSETNX', KEYS[2], ARGV[i], ARGV[i + 1]) end
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('EXPIRE', KEYS[2], ARGV[3])
redis.call('ZADD', KEYS[3], ARGV[2] + ARGV[3], ARGV[1])
return 1
"""

# KEYS job, images, stream. ARGV group, entry, now
_COMPLETE = """
redis.call('XACK', KEYS[3], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[3], ARGV[2])
if redis.call('HGET', KEYS[1], 'status') == 'running'
  and redis.call('HLEN', KEYS[2]) == tonumber(redis.call('HGET', KEYS[1], 'total')) then
  redis.call('HSET', KEYS[1], 'status', 'succeeded', 'done', redis.call('HLEN', KEYS[2]), 'finished_at', ARGV[3])
end
"""

# KEYS stream. ARGV group, entry, id, start
_RELEASE = """
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then return end
redis.call('XDEL', KEYS[1], ARGV[2])
redis.call('XADD', KEYS[1], '*', 'job', ARGV[3], 'start', ARGV[4])
"""

# KEYS job, images. ARGV status, error, now
_FINISH = """
local status = redis.call('HGET', KEYS[1], 'status')
if status ~= 'queued' and status ~= 'running' then return end
local done = redis.call('HLEN', KEYS[2])
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[1], 'status', ARGV[1], 'error', ARGV[2], 'done', done, 'finished_at', ARGV[3])
"""

# KEYS job, images, index. ARGV id
_FORGET = """
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('ZREM', KEYS[3], ARGV[1])
"""

# KEYS job, images, job, images, ... Returns the fields of each job (name, value, name, ...) and its number of images.
_READ = """
local found = {}
for i = 1, #KEYS, 2 do
  found[i], found[i + 1] = redis.call('HGETALL', KEYS[i]), redis.call('HLEN', KEYS[i + 1])
end
return found
"""


class RedisJobs:
    """Jobs in Redis, for all replicas."""

    def __init__(self, link: RedisLink, prefix: str, *, max_jobs: int, ttl_s: float, lease_s: float) -> None:
        self._link = link
        self._prefix = prefix
        self._stream = f"{prefix}jobs"
        self._index = f"{prefix}jobs-index"
        self._max_jobs = max_jobs
        self._ttl_s = round(ttl_s)
        self._lease_ms = round(lease_s * 1000)
        self._consumer = uuid.uuid4().hex
        script = link.client.register_script
        self._add, self._begin, self._save = script(_ADD), script(_BEGIN), script(_SAVE)
        self._complete, self._release, self._finish = script(_COMPLETE), script(_RELEASE), script(_FINISH)
        self._forget, self._find = script(_FORGET), script(_READ)

    async def add(self, job: Job) -> None:
        arguments = [job.id, job.created_at, self._ttl_s, self._max_jobs, job.request, job.total, job.chunk]
        if not await self._run(self._add, [self._job(job.id), self._index, self._stream], arguments):
            raise StoreFullError(self._max_jobs)

    async def get(self, job_id: str) -> Job | None:
        return (await self._read([job_id]))[0]

    async def all(self) -> list[Job]:
        async with self._link.use() as redis:
            ids = cast(list[bytes], await redis.zrange(self._index, 0, -1))
        jobs = [job for job in await self._read([job_id.decode() for job_id in ids]) if job is not None]
        return sorted(jobs, key=lambda job: job.created_at, reverse=True)

    async def take(self, wait_s: float) -> Chunk | None:
        async with self._link.use() as redis:
            entry = await self._next_entry(redis, wait_s)
        if entry is None:
            return None
        receipt, job_id, start, deliveries = entry
        wanted = await self._run(self._begin, [self._job(job_id), self._stream], [job_id, start, time.time()])
        job = await self.get(job_id) if wanted else None
        if job is None:
            await self._run(self._complete, self._keys(job_id), [GROUP, receipt, time.time()])
            return None
        return Chunk(job, start, min(start + job.chunk, job.total), deliveries, receipt)

    async def beat(self, chunk: Chunk) -> bool:
        async with self._link.use() as redis:
            await redis.xclaim(self._stream, GROUP, self._consumer, 0, [chunk.receipt], justid=True)
            status = await cast(Awaitable[bytes | None], redis.hget(self._job(chunk.job.id), "status"))
        return status is not None and status.decode() in UNFINISHED

    async def save(self, job_id: str, images: Mapping[int, bytes]) -> None:
        files = [part for image in images.items() for part in image]
        keys = [self._job(job_id), self._images(job_id), self._index]
        await self._run(self._save, keys, [job_id, time.time(), self._ttl_s, *files])

    async def complete(self, chunk: Chunk) -> None:
        await self._run(self._complete, self._keys(chunk.job.id), [GROUP, chunk.receipt, time.time()])

    async def release(self, chunk: Chunk) -> None:
        await self._run(self._release, [self._stream], [GROUP, chunk.receipt, chunk.job.id, chunk.start])

    async def finish(self, job_id: str, status: Literal["failed", "cancelled"], error: str | None = None) -> None:
        await self._run(self._finish, [self._job(job_id), self._images(job_id)], [status, error or "", time.time()])

    async def forget(self, job_id: str) -> None:
        await self._run(self._forget, [self._job(job_id), self._images(job_id), self._index], [job_id])

    async def images(self, job_id: str, start: int, stop: int) -> list[bytes | None]:
        async with self._link.use() as redis:
            positions = [str(position) for position in range(start, stop)]
            return await cast(Awaitable[list[bytes | None]], redis.hmget(self._images(job_id), positions))

    async def leave(self) -> None:
        """Remove this process' consumer, unless chunks are still lent to it. Call it when the process ends."""
        with suppress(StoreUnavailableError):
            async with self._link.use() as redis:
                if not await redis.xpending_range(self._stream, GROUP, "-", "+", 1, consumername=self._consumer):
                    await redis.xgroup_delconsumer(self._stream, GROUP, self._consumer)

    async def _next_entry(self, redis: Redis, wait_s: float) -> tuple[str, str, int, int] | None:
        """Return (entry, job, start, deliveries) of an entry that a dead worker held, else of a new entry, else None."""
        try:
            reply: Any = await redis.xautoclaim(self._stream, GROUP, self._consumer, self._lease_ms, count=1)
            entries = reply[1]
            claimed = bool(entries)
            if not claimed:
                block = max(1, round(wait_s * 1000))
                read: Any = await redis.xreadgroup(GROUP, self._consumer, {self._stream: ">"}, count=1, block=block)
                entries = read[0][1] if read else []
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            await self._create_group(redis)
            return None
        if not entries:
            return None
        entry, fields = entries[0]
        deliveries = 1
        if claimed:
            pending: Any = await redis.xpending_range(self._stream, GROUP, entry, entry, 1)
            deliveries = pending[0]["times_delivered"] if pending else 1
        return entry.decode(), fields[b"job"].decode(), int(fields[b"start"]), deliveries

    async def _create_group(self, redis: Redis) -> None:
        with suppress(ResponseError):  # another replica was faster
            await redis.xgroup_create(self._stream, GROUP, id="0", mkstream=True)

    async def _read(self, job_ids: list[str]) -> list[Job | None]:
        keys = [key for job_id in job_ids for key in (self._job(job_id), self._images(job_id))]
        answers = await self._run(self._find, keys, [])
        return [_job(*of_one) for of_one in zip(job_ids, answers[::2], answers[1::2], strict=True)]

    async def _run(self, script: Any, keys: list[str], arguments: list[Any]) -> Any:
        async with self._link.use():
            return await script(keys=keys, args=arguments)

    def _keys(self, job_id: str) -> list[str]:
        return [self._job(job_id), self._images(job_id), self._stream]

    def _job(self, job_id: str) -> str:
        return f"{self._prefix}job:{job_id}"

    def _images(self, job_id: str) -> str:
        return f"{self._prefix}job:{job_id}:images"


def _job(job_id: str, raw: list[bytes], stored: int) -> Job | None:
    """Read a job from the names and values of its hash, in turns. stored: number of its images in the store."""
    if not raw:
        return None
    fields = {name.decode(): value.decode() for name, value in zip(raw[::2], raw[1::2], strict=True)}
    return Job(
        id=job_id,
        request=fields["request"],
        total=int(fields["total"]),
        chunk=int(fields["chunk"]),
        created_at=float(fields["created_at"]),
        status=cast(Status, fields["status"]),
        done=int(fields.get("done", stored)),
        started_at=float(fields["started_at"]) if "started_at" in fields else None,
        finished_at=float(fields["finished_at"]) if "finished_at" in fields else None,
        error=fields.get("error") or None,
    )
