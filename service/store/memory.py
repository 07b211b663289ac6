"""The store in this process, the default. Its contents end with the process, and no other replica sees them."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from service.store.base import UNFINISHED, BlobGroup, Chunk, Job, StoreFullError

Clock = Callable[[], float]


class MemoryStore:
    """Jobs, blobs and samples in bounded memory.

    max_jobs    most jobs kept at once
    job_ttl_s   seconds from a job's last progress to its expiry
    job_bytes   most bytes of the image files of all jobs together; a job that would exceed it fails
    """

    up = True

    def __init__(self, *, max_jobs: int, job_ttl_s: float, job_bytes: int, clock: Clock = time.time) -> None:
        self.jobs = MemoryJobs(max_jobs, job_ttl_s, job_bytes, clock)
        self.blobs = MemoryBlobs(clock)
        self.samples = MemorySamples()

    async def close(self) -> None:
        """Do nothing: there are no connections."""


@dataclass
class _Record:
    job: Job
    expires_s: float
    next: int = 0  # start of the last chunk that was queued; its first delivery queues the next one
    size: int = 0  # bytes of its images
    images: dict[int, bytes] = field(default_factory=dict)


class MemoryJobs:
    """Jobs in memory. A worker that dies takes this store with it, so no chunk is ever lent again."""

    def __init__(self, max_jobs: int, ttl_s: float, max_bytes: int, clock: Clock) -> None:
        self._max_jobs = max_jobs
        self._ttl_s = ttl_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._records: dict[str, _Record] = {}
        self._queue: deque[tuple[str, int]] = deque()
        self._queued = asyncio.Condition()

    async def add(self, job: Job) -> None:
        self._expire()
        if len(self._records) >= self._max_jobs:
            raise StoreFullError(self._max_jobs)
        self._records[job.id] = _Record(job, self._clock() + self._ttl_s)
        await self._enqueue(job.id, 0)

    async def get(self, job_id: str) -> Job | None:
        self._expire()
        record = self._records.get(job_id)
        return None if record is None else _seen(record)

    async def all(self) -> list[Job]:
        self._expire()
        return sorted(map(_seen, self._records.values()), key=lambda job: job.created_at, reverse=True)

    async def take(self, wait_s: float) -> Chunk | None:
        async with self._queued:
            try:
                async with asyncio.timeout(wait_s):
                    await self._queued.wait_for(lambda: self._queue)
            except TimeoutError:
                return None
            job_id, start = self._queue.popleft()
        record = self._unfinished(job_id)
        if record is None:
            return None
        if record.job.status == "queued":
            record.job = replace(record.job, status="running", started_at=self._clock())
        stop = min(start + record.job.chunk, record.job.total)
        if start == record.next and stop < record.job.total:
            record.next = stop
            await self._enqueue(job_id, stop)
        return Chunk(record.job, start, stop, deliveries=1, receipt="")

    async def beat(self, chunk: Chunk) -> bool:
        return self._unfinished(chunk.job.id) is not None

    async def save(self, job_id: str, images: Mapping[int, bytes]) -> None:
        record = self._unfinished(job_id)
        if record is None:
            return
        used = sum(other.size for other in self._records.values())
        new = {position: file for position, file in images.items() if position not in record.images}
        size = sum(map(len, new.values()))
        if used + size > self._max_bytes:
            message = f"The images of all jobs together exceed {self._max_bytes} bytes (SFDDM_JOB_BYTES); delete finished jobs."
            await self.finish(job_id, "failed", message)
            return
        record.images |= new
        record.size += size
        record.expires_s = self._clock() + self._ttl_s

    async def complete(self, chunk: Chunk) -> None:
        record = self._unfinished(chunk.job.id)
        if record is not None and len(record.images) == record.job.total:
            record.job = replace(record.job, status="succeeded", done=record.job.total, finished_at=self._clock())

    async def release(self, chunk: Chunk) -> None:
        await self._enqueue(chunk.job.id, chunk.start)

    async def finish(self, job_id: str, status: Literal["failed", "cancelled"], error: str | None = None) -> None:
        record = self._unfinished(job_id)
        if record is not None:
            done = len(record.images)
            record.job = replace(record.job, status=status, error=error, done=done, finished_at=self._clock())
            record.images, record.size = {}, 0

    async def forget(self, job_id: str) -> None:
        self._records.pop(job_id, None)

    async def images(self, job_id: str, start: int, stop: int) -> list[bytes | None]:
        record = self._records.get(job_id)
        return [None if record is None else record.images.get(position) for position in range(start, stop)]

    def _unfinished(self, job_id: str) -> _Record | None:
        record = self._records.get(job_id)
        return record if record is not None and record.job.status in UNFINISHED else None

    async def _enqueue(self, job_id: str, start: int) -> None:
        async with self._queued:
            self._queue.append((job_id, start))
            self._queued.notify()

    def _expire(self) -> None:
        now_s = self._clock()
        for job_id in [job_id for job_id, record in self._records.items() if record.expires_s <= now_s]:
            del self._records[job_id]


def _seen(record: _Record) -> Job:
    return replace(record.job, done=len(record.images)) if record.job.status in UNFINISHED else record.job


class MemoryBlobs:
    """Blobs in memory: one ordered dictionary for each group, the least recently written blob first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._groups: defaultdict[str, OrderedDict[str, tuple[bytes, float]]] = defaultdict(OrderedDict)
        self._sizes: defaultdict[str, int] = defaultdict(int)

    async def get(self, group: BlobGroup, keys: Sequence[str]) -> list[bytes | None]:
        found = [self._groups[group.name].get(key, (None, 0.0)) for key in keys]
        return [value if expires_s > self._clock() else None for value, expires_s in found]

    async def put(self, group: BlobGroup, key: str, value: bytes, ttl_s: float) -> None:
        blobs = self._groups[group.name]
        await self.delete(group, key)
        if len(value) > group.max_bytes:
            return
        while self._sizes[group.name] + len(value) > group.max_bytes:
            await self.delete(group, next(iter(blobs)))
        blobs[key] = value, self._clock() + ttl_s
        self._sizes[group.name] += len(value)

    async def add(self, group: BlobGroup, key: str, value: bytes, ttl_s: float) -> bool:
        if await self.get(group, [key]) != [None]:
            return False
        await self.put(group, key, value, ttl_s)
        return True

    async def delete(self, group: BlobGroup, key: str) -> None:
        value, _ = self._groups[group.name].pop(key, (b"", 0.0))
        self._sizes[group.name] -= len(value)


class MemorySamples:
    """Samples in memory. There are as many series as configured arms, so their number needs no limit."""

    def __init__(self) -> None:
        self._counts: defaultdict[str, int] = defaultdict(int)
        self._values: defaultdict[str, deque[bytes]] = defaultdict(deque)

    async def append(self, series: str, value: bytes, keep: int) -> None:
        values = self._values[series]
        values.appendleft(value)
        while len(values) > keep:
            values.pop()
        self._counts[series] += 1

    async def recent(self, series: str) -> tuple[int, list[bytes]]:
        return self._counts[series], list(self._values[series])
