"""Jobs of the store: chunks, turns, completion, ends. The rules are the same in this process and in Redis."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from service.store.base import Chunk, Job, Jobs, Store, StoreFullError
from service.store.memory import MemoryStore
from tests.redis_server import RedisServer
from tests.service.store.conftest import MAX_JOBS, redis_store

pytestmark = pytest.mark.anyio
A_MOMENT_S = 0.05


def job(job_id: str = "a", total: int = 5, chunk: int = 2, created_at: float = 1000.5) -> Job:
    return Job(job_id, '{"model": "m"}', total, chunk, created_at)


async def take(jobs: Jobs) -> Chunk:
    chunk = await jobs.take(A_MOMENT_S) or await jobs.take(5)  # the first call creates the group in Redis
    assert chunk is not None
    return chunk


def files(chunk: Chunk) -> dict[int, bytes]:
    return {position: f"image {position}".encode() for position in range(chunk.start, chunk.stop)}


async def work(jobs: Jobs) -> Chunk:
    chunk = await take(jobs)
    await jobs.save(chunk.job.id, files(chunk))
    await jobs.complete(chunk)
    return chunk


async def test_a_job_is_made_chunk_by_chunk(store: Store) -> None:
    jobs = store.jobs
    await jobs.add(job())
    assert await jobs.get("a") == job()
    ranges = []
    for done in (2, 4, 5):
        chunk = await work(jobs)
        ranges.append((chunk.start, chunk.stop))
        seen = await jobs.get("a")
        assert seen is not None
        assert (seen.done, seen.status) == (done, "succeeded" if done == 5 else "running")
        assert seen.started_at is not None
        assert (seen.finished_at is not None) == (done == 5)
    assert ranges == [(0, 2), (2, 4), (4, 5)]
    assert await jobs.images("a", 3, 6) == [b"image 3", b"image 4", None]
    assert await jobs.take(A_MOMENT_S) is None


async def test_workers_share_a_job_and_jobs_take_turns(store: Store) -> None:
    jobs = store.jobs
    await jobs.add(job("a", total=100))
    first, second = await take(jobs), await take(jobs)
    assert [(chunk.job.id, chunk.start) for chunk in (first, second)] == [("a", 0), ("a", 2)]
    await jobs.add(job("b", total=4))
    following = [await take(jobs) for _ in range(4)]
    assert sorted((chunk.job.id, chunk.start) for chunk in following) == [("a", 4), ("a", 6), ("b", 0), ("b", 2)]


async def test_a_chunk_given_back_is_taken_again_and_the_next_one_only_once(store: Store) -> None:
    jobs = store.jobs
    await jobs.add(job())
    chunk = await take(jobs)
    await jobs.release(chunk)
    assert sorted([(await work(jobs)).start for _ in range(3)]) == [0, 2, 4]
    assert await jobs.take(A_MOMENT_S) is None
    done = await jobs.get("a")
    assert done is not None
    assert done.status == "succeeded"


async def test_the_first_bytes_of_an_image_stay(store: Store) -> None:
    jobs = store.jobs
    await jobs.add(job())
    chunk = await take(jobs)
    await jobs.save("a", {0: b"first"})
    await jobs.save("a", {0: b"second", 1: b"other"})
    assert await jobs.images("a", 0, 2) == [b"first", b"other"]
    await jobs.complete(chunk)
    seen = await jobs.get("a")
    assert seen is not None
    assert (seen.status, seen.done) == ("running", 2)


async def test_a_cancelled_job_is_over(store: Store) -> None:
    jobs = store.jobs
    await jobs.add(job())
    chunk = await work(jobs)
    chunk = await take(jobs)
    assert await jobs.beat(chunk)
    await jobs.finish("a", "cancelled")
    assert not await jobs.beat(chunk)
    await jobs.save("a", files(chunk))
    await jobs.complete(chunk)
    seen = await jobs.get("a")
    assert seen is not None
    assert (seen.status, seen.done, seen.error) == ("cancelled", 2, None)
    assert await jobs.images("a", 0, 2) == [None, None]
    assert await jobs.take(A_MOMENT_S) is None  # its queued chunk is gone
    await jobs.finish("a", "failed", "too late")
    assert await jobs.get("a") == seen


async def test_a_failed_job_says_why(store: Store) -> None:
    await store.jobs.add(job())
    await store.jobs.finish("a", "failed", "The model is gone.")
    seen = await store.jobs.get("a")
    assert seen is not None
    assert (seen.status, seen.error) == ("failed", "The model is gone.")


async def test_a_forgotten_job_does_not_exist(store: Store) -> None:
    jobs = store.jobs
    await jobs.add(job())
    chunk = await take(jobs)
    await jobs.forget("a")
    assert await jobs.get("a") is None
    assert await jobs.all() == []
    assert not await jobs.beat(chunk)
    await jobs.save("a", files(chunk))
    await jobs.complete(chunk)
    assert await jobs.get("a") is None
    assert await jobs.images("a", 0, 1) == [None]
    assert await jobs.take(A_MOMENT_S) is None


async def test_jobs_are_bounded_and_listed_newest_first(store: Store) -> None:
    for number in range(MAX_JOBS):
        await store.jobs.add(job(str(number), created_at=1_900_000_000 + number))
    assert [listed.id for listed in await store.jobs.all()] == ["2", "1", "0"]
    with pytest.raises(StoreFullError, match=f"^{MAX_JOBS} jobs are stored"):
        await store.jobs.add(job("more", created_at=1_900_000_009))
    await store.jobs.forget("1")
    await store.jobs.add(job("more", created_at=1_900_000_009))
    assert [listed.id for listed in await store.jobs.all()] == ["more", "2", "0"]


async def test_a_waiting_worker_sees_a_job_that_is_added(store: Store) -> None:
    await store.jobs.take(A_MOMENT_S)
    waiting = asyncio.create_task(store.jobs.take(30))
    await asyncio.sleep(A_MOMENT_S)
    await store.jobs.add(job())
    chunk = await waiting
    assert chunk is not None
    assert chunk.start == 0


async def test_in_this_process_images_are_bounded() -> None:
    jobs = MemoryStore(max_jobs=2, job_ttl_s=60, job_bytes=30).jobs
    await jobs.add(job("a"))
    await jobs.add(job("b"))
    await jobs.take(1)
    await jobs.take(1)
    await jobs.save("a", {0: b"x" * 20})
    await jobs.save("a", {0: b"x" * 20})  # the same image again takes nothing
    await jobs.save("b", {0: b"x" * 11})
    seen = await jobs.get("b")
    assert seen is not None
    assert seen.status == "failed"
    assert "SFDDM_JOB_BYTES" in (seen.error or "")
    await jobs.forget("a")
    await jobs.add(job("c"))
    while (chunk := await jobs.take(A_MOMENT_S)) is not None and chunk.job.id != "c":
        pass
    await jobs.save("c", {0: b"x" * 30})
    assert await jobs.images("c", 0, 1) == [b"x" * 30]


async def test_in_this_process_jobs_expire() -> None:
    now_s = 0.0
    jobs = MemoryStore(max_jobs=2, job_ttl_s=60, job_bytes=30, clock=lambda: now_s).jobs
    await jobs.add(job())
    await jobs.take(1)
    now_s = 59
    await jobs.save("a", {0: b"x"})  # progress delays the expiry
    now_s = 118
    assert await jobs.get("a") is not None
    now_s = 120
    assert await jobs.get("a") is None


async def test_in_redis_jobs_expire(empty_redis: RedisServer) -> None:
    store = redis_store(empty_redis, job_ttl_s=1)
    try:
        await store.jobs.add(job(created_at=1_000.0))
        async with asyncio.timeout(30):
            while await store.jobs.get("a") is not None:
                await asyncio.sleep(A_MOMENT_S)
        assert await store.jobs.all() == []
    finally:
        await store.close()


async def test_in_redis_the_chunk_of_a_dead_worker_is_lent_again(empty_redis: RedisServer) -> None:
    dead, alive = redis_store(empty_redis, lease_s=0.3), redis_store(empty_redis, lease_s=0.3)
    try:
        await dead.jobs.add(job(total=2))
        lost = await take(dead.jobs)
        assert lost.deliveries == 1
        async with asyncio.timeout(30):
            while (found := await alive.jobs.take(A_MOMENT_S)) is None:
                pass
        assert replace(found, deliveries=1) == lost
        assert found.deliveries == 2
        await alive.jobs.save("a", files(found))
        await alive.jobs.complete(found)
        seen = await alive.jobs.get("a")
        assert seen is not None
        assert seen.status == "succeeded"
    finally:
        await dead.close()
        await alive.close()


async def test_in_redis_a_worker_that_beats_keeps_its_chunk(empty_redis: RedisServer) -> None:
    slow, other = redis_store(empty_redis, lease_s=0.5), redis_store(empty_redis, lease_s=0.5)
    try:
        await slow.jobs.add(job(total=2))
        chunk = await take(slow.jobs)
        for _ in range(15):  # three leases
            assert await slow.jobs.beat(chunk)
            assert await other.jobs.take(0.1) is None
    finally:
        await slow.close()
        await other.close()


async def test_in_redis_every_replica_sees_the_same_jobs(empty_redis: RedisServer) -> None:
    one, two = redis_store(empty_redis), redis_store(empty_redis)
    try:
        await one.jobs.add(job())
        assert await two.jobs.get("a") == job()
        assert (await work(two.jobs)).start == 0
        assert (await work(one.jobs)).start == 2
        assert await one.jobs.images("a", 0, 2) == [b"image 0", b"image 1"]
    finally:
        await one.close()
        await two.close()
