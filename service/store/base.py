"""The interface of the store: three small parts, each with two implementations (memory.py, redis.py, redis_jobs.py).

    Jobs      large generations, cut into chunks that workers take in turns
    Blobs     bytes that expire, in groups of bounded size: cached images, answers kept for an Idempotency-Key
    Samples   the most recent values of a series and their count: latencies of an experiment's arms

Every method of the Redis implementation raises StoreUnavailableError while Redis cannot be reached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
UNFINISHED: frozenset[Status] = frozenset({"queued", "running"})


class StoreUnavailableError(Exception):
    """The store cannot be reached. The message is one sentence for the client."""


class StoreFullError(Exception):
    """There is no room for another job. The message says how to make room."""

    def __init__(self, max_jobs: int) -> None:
        super().__init__(
            f"{max_jobs} jobs are stored, as many as allowed (SFDDM_MAX_JOBS); delete finished ones or wait until they expire."
        )


@dataclass(frozen=True)
class Job:
    """One job. Times are Unix seconds.

    request: JSON of the images to make; the store does not read it. chunk: images per chunk. done: images stored.
    """

    id: str
    request: str
    total: int
    chunk: int
    created_at: float
    status: Status = "queued"
    done: int = 0
    started_at: float | None = None
    finished_at: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Chunk:
    """Images start ... stop - 1 of a job, lent to one worker until it completes or releases them, or stops calling `beat`.

    deliveries: number of times that the chunk was lent, this time included; more than 1 after a worker died with it.
    receipt: the store's identifier of this delivery.
    """

    job: Job
    start: int
    stop: int
    deliveries: int
    receipt: str


class Jobs(Protocol):
    """Jobs and their images. A chunk is delivered at least once. Storing an image twice keeps the first one."""

    async def add(self, job: Job) -> None:
        """Queue a job. Raises StoreFullError."""

    async def get(self, job_id: str) -> Job | None:
        """Return one job as it is now. None when it does not exist, was forgotten, or has expired."""

    async def all(self) -> list[Job]:
        """Return every job, the newest first."""

    async def take(self, wait_s: float) -> Chunk | None:
        """Return the next chunk, or None after wait_s seconds. Jobs take turns, so a large one does not delay a small one."""

    async def beat(self, chunk: Chunk) -> bool:
        """Renew the lease of a chunk. Call it at least once per lease. Returns False when the job is no longer wanted."""

    async def save(self, job_id: str, images: Mapping[int, bytes]) -> None:
        """Store image files by position. Does nothing when the job is no longer wanted."""

    async def complete(self, chunk: Chunk) -> None:
        """End a chunk that is done. Its job has succeeded when all of its images are stored."""

    async def release(self, chunk: Chunk) -> None:
        """Give the chunk back unfinished, so that another worker takes it at once."""

    async def finish(self, job_id: str, status: Literal["failed", "cancelled"], error: str | None = None) -> None:
        """End an unfinished job early and drop its images. Does nothing to other jobs."""

    async def forget(self, job_id: str) -> None:
        """Remove a job and its images."""

    async def images(self, job_id: str, start: int, stop: int) -> list[bytes | None]:
        """Return the files at positions start ... stop - 1, with None where there is none."""


@dataclass(frozen=True)
class BlobGroup:
    """A group of blobs with one use. max_bytes: limit of their total size; the blobs that expire first make room."""

    name: str
    max_bytes: int


class Blobs(Protocol):
    """Bytes by key, until they expire. A blob larger than its group may be is not stored."""

    async def get(self, group: BlobGroup, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values of the keys, with None where there is none."""

    async def put(self, group: BlobGroup, key: str, value: bytes, ttl_s: float) -> None:
        """Store a value for ttl_s seconds. Replaces the key's old value."""

    async def add(self, group: BlobGroup, key: str, value: bytes, ttl_s: float) -> bool:
        """Store a value unless the key exists. Returns False when it exists."""

    async def delete(self, group: BlobGroup, key: str) -> None:
        """Remove a key, if it exists."""


class Samples(Protocol):
    """Recent values of named series."""

    async def append(self, series: str, value: bytes, keep: int) -> None:
        """Add a value. The series keeps its `keep` latest values."""

    async def recent(self, series: str) -> tuple[int, list[bytes]]:
        """Return the number of values added in all, and the values that are kept, the latest first."""


class Store(Protocol):
    """Jobs, blobs and samples in one place."""

    @property
    def jobs(self) -> Jobs: ...

    @property
    def blobs(self) -> Blobs: ...

    @property
    def samples(self) -> Samples: ...

    @property
    def up(self) -> bool:
        """True when the last use of the store succeeded."""

    async def close(self) -> None:
        """Close the connections."""
