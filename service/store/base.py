"""The interface of the store: three small parts, each with two implementations (memory.py, redis.py, redis_jobs.py).

    Jobs      large generations, cut into chunks that workers take in turns
    Blobs     bytes with an expiry, in rooms of bounded size: cached images, answers kept for an Idempotency-Key
    Samples   the most recent values of a series and how many there were: latencies of an experiment's arms

Every method of the Redis implementation raises StoreUnavailableError while Redis cannot be reached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
UNFINISHED: frozenset[Status] = frozenset({"queued", "running"})


class StoreUnavailableError(Exception):
    """The store cannot be reached; the message is one sentence for the client."""


class StoreFullError(Exception):
    """There is no room for another job; the message says what makes room."""

    def __init__(self, max_jobs: int) -> None:
        super().__init__(
            f"{max_jobs} jobs are stored, as many as allowed (SFDDM_MAX_JOBS); delete finished ones or wait until they expire."
        )


@dataclass(frozen=True)
class Job:
    """One job. Times are Unix seconds.

    request: what to generate, opaque to the store. chunk: images that a worker takes at once. done: images stored.
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
    """Images start ... stop - 1 of a job, lent to one worker until it completes, releases, or stops beating.

    deliveries: how often it was lent because a worker died with it, this time included. receipt: the store's own mark.
    """

    job: Job
    start: int
    stop: int
    deliveries: int
    receipt: str


class Jobs(Protocol):
    """Jobs and their images. Chunks are delivered at least once; storing an image twice keeps the first."""

    async def add(self, job: Job) -> None:
        """Queue a job. Raises StoreFullError."""

    async def get(self, job_id: str) -> Job | None:
        """One job as it is now; None when it does not exist, was forgotten, or has expired."""

    async def all(self) -> list[Job]:
        """Every job, the newest first."""

    async def take(self, wait_s: float) -> Chunk | None:
        """The next chunk, waiting up to wait_s for one. Jobs take turns, so a large one does not hold up a small one."""

    async def beat(self, chunk: Chunk) -> bool:
        """Keep the chunk; at least once in the store's lease. False when its job is no longer wanted."""

    async def save(self, job_id: str, images: Mapping[int, bytes]) -> None:
        """Store image files by position; without effect when the job is no longer wanted."""

    async def complete(self, chunk: Chunk) -> None:
        """The chunk needs no more work; the job has succeeded when all of its images are stored."""

    async def release(self, chunk: Chunk) -> None:
        """Give the chunk back unfinished, so that another worker takes it at once."""

    async def finish(self, job_id: str, status: Literal["failed", "cancelled"], error: str | None = None) -> None:
        """End an unfinished job early and drop its images; without effect on others."""

    async def forget(self, job_id: str) -> None:
        """Remove a job and its images."""

    async def images(self, job_id: str, start: int, stop: int) -> list[bytes | None]:
        """The files at positions start ... stop - 1; None where there is none."""


@dataclass(frozen=True)
class Room:
    """A name for blobs of one use, and what all of them together may take; those that expire first make way."""

    name: str
    max_bytes: int


class Blobs(Protocol):
    """Bytes by key, for a time. One that does not fit its room is not stored."""

    async def get(self, room: Room, keys: Sequence[str]) -> list[bytes | None]: ...

    async def put(self, room: Room, key: str, value: bytes, ttl_s: float) -> None: ...

    async def add(self, room: Room, key: str, value: bytes, ttl_s: float) -> bool:
        """Store unless the key is there; False when it is."""

    async def delete(self, room: Room, key: str) -> None: ...


class Samples(Protocol):
    """Recent values of named series."""

    async def append(self, series: str, value: bytes, keep: int) -> None:
        """Add a value; the series keeps its `keep` latest."""

    async def recent(self, series: str) -> tuple[int, list[bytes]]:
        """How many values there have been, and the ones kept, the latest first."""


class Store(Protocol):
    """The three parts together."""

    @property
    def jobs(self) -> Jobs: ...

    @property
    def blobs(self) -> Blobs: ...

    @property
    def samples(self) -> Samples: ...

    @property
    def up(self) -> bool:
        """Whether the last use of the store went well."""

    async def close(self) -> None:
        """Let go of connections."""
