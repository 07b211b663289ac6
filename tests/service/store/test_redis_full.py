"""A full Redis: reads and calls that free memory work, and calls that need memory are refused with the reason."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.store.base import BlobGroup, Job, StoreUnavailableError
from service.store.redis import RedisStore
from service.store.redis_link import REFUSED_S
from tests.redis_server import RedisServer

pytestmark = pytest.mark.anyio

FULL = r"^The store behind jobs \(Redis\) is full; delete finished jobs .* or raise its maxmemory\. "
GROUP = BlobGroup("room", 1 << 30)
PART = bytes(100_000)


class Clock:
    """A clock that moves on by step_s at each reading. By default the store may check for room at every use."""

    def __init__(self) -> None:
        self.step_s = REFUSED_S
        self._now_s = 0.0

    def __call__(self) -> float:
        self._now_s += self.step_s
        return self._now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[RedisStore]:
    server = RedisServer(tmp_path, "--maxmemory", "2mb", "--maxmemory-policy", "noeviction")
    server.start()
    store = RedisStore(server.url, max_jobs=5, job_ttl_s=60.0, lease_s=30.0, clock=clock)
    try:
        await store.jobs.take(0.01)  # creates the group
        yield store
    finally:
        await store.close()
        server.stop()


async def fill(store: RedisStore, job_id: str) -> None:
    """Store images of the job, smaller and smaller ones, until not even one byte has room."""
    position = 0
    for size in (100_000, 10_000, 1_000, 100, 1):
        refusals = 0
        while refusals < 3:
            position += 1
            try:
                await store.jobs.save(job_id, {position: bytes(size)})
            except StoreUnavailableError:
                refusals += 1


async def test_a_full_redis_frees_jobs_and_lists_them(store: RedisStore) -> None:
    for job_id in ("made", "begun", "waits"):
        await store.jobs.add(Job(job_id, "{}", 100, 50, 1000.0))
    chunks = [await store.jobs.take(1) for _ in range(2)]
    assert [chunk and chunk.job.id for chunk in chunks] == ["made", "begun"]
    made, begun = chunks
    assert made is not None
    assert begun is not None
    await fill(store, "made")

    for _ in range(5):
        for refused in (
            store.jobs.save("begun", {0: PART}),
            store.jobs.add(Job("more", "{}", 1, 1, 1000.0)),
            store.blobs.put(GROUP, "key", PART, 60),
            store.samples.append("series", b"x", 5),
        ):
            with pytest.raises(StoreUnavailableError, match=FULL):
                await refused
        assert {job.id for job in await store.jobs.all()} == {"made", "begun", "waits"}
        assert await store.samples.recent("series") == (0, [])
        assert await store.jobs.beat(begun)

    waits = await store.jobs.take(1)
    assert waits is not None, "a chunk that is delivered can begin"
    assert waits.job.id == "waits"
    await store.jobs.finish("begun", "cancelled")
    cancelled = await store.jobs.get("begun")
    assert cancelled is not None
    assert cancelled.status == "cancelled"
    await store.jobs.complete(begun)
    await store.jobs.release(waits)
    await store.jobs.forget("begun")
    await store.jobs.finish("made", "cancelled")  # its images are what fills Redis
    await store.jobs.add(Job("more", "{}", 1, 1, 1000.0))
    await store.jobs.forget("made")
    assert {job.id for job in await store.jobs.all()} == {"waits", "more"}


async def test_a_full_redis_is_down_until_it_writes_again(store: RedisStore, clock: Clock) -> None:
    await store.jobs.add(Job("made", "{}", 100, 50, 1000.0))
    await store.jobs.take(1)
    with capture_logs() as captured:
        clock.step_s = 0.0  # while it fills up, Redis would take the small probe and refuse the next image again
        await fill(store, "made")
        clock.step_s = REFUSED_S
        for _ in range(5):
            with pytest.raises(StoreUnavailableError, match=FULL):
                await store.blobs.put(GROUP, "key", PART, 60)
            assert len(await store.jobs.all()) == 1
            assert not store.up
        await store.jobs.forget("made")
        assert await store.jobs.all() == []
    assert store.up
    assert [event["event"] for event in captured] == ["redis_unavailable", "redis_is_back"]
    assert "maxmemory" in captured[0]["reason"]


async def test_room_is_not_checked_right_after_a_refusal(store: RedisStore, clock: Clock) -> None:
    clock.step_s = 0.0
    await store.jobs.add(Job("made", "{}", 100, 50, 1000.0))
    await store.jobs.take(1)
    await fill(store, "made")
    await store.jobs.forget("made")
    await store.blobs.put(GROUP, "key", b"small", 60)
    assert not store.up
