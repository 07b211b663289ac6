"""Redis stops and returns: the errors of the store in between, and that nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from service.store.base import BlobGroup, Job, StoreUnavailableError
from tests.redis_server import RedisServer
from tests.service.store.conftest import redis_store

pytestmark = pytest.mark.anyio


async def back(call: Callable[[], Awaitable[object]]) -> None:
    """Wait until the store answers again."""
    async with asyncio.timeout(30):
        while True:
            try:
                await call()
                return
            except StoreUnavailableError:
                await asyncio.sleep(0.05)


async def test_a_killed_redis_is_one_sentence_and_its_return_is_noticed(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()
    store = redis_store(server)
    try:
        await store.jobs.add(Job("a", "{}", 2, 2, 1000.0))
        assert store.up
        server.kill()
        for _ in range(2):
            with pytest.raises(StoreUnavailableError, match=r"^The store behind jobs \(Redis\) cannot be reached; .*\.$"):
                await store.jobs.get("a")
        assert not store.up
        for call in (
            store.jobs.all(),
            store.jobs.take(0.05),
            store.jobs.save("a", {0: b"x"}),
            store.blobs.get(BlobGroup("r", 1), ["k"]),
            store.blobs.add(BlobGroup("r", 1), "k", b"", 1),
            store.samples.append("s", b"", 1),
            store.samples.recent("s"),
        ):
            with pytest.raises(StoreUnavailableError):
                await call
        server.start()
        await back(lambda: store.jobs.get("a"))
        assert store.up
        chunk = await store.jobs.take(0.05) or await store.jobs.take(5)
        assert chunk is not None
        assert chunk.job.id == "a"
    finally:
        await store.close()
        server.stop()


async def test_a_redis_that_hangs_delays_one_call_only(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()
    store = redis_store(server)
    try:
        await store.samples.append("s", b"x", 1)
        server.freeze()
        with pytest.raises(StoreUnavailableError):
            await store.samples.recent("s")
        async with asyncio.timeout(0.5):  # much less than the wait of the first call
            with pytest.raises(StoreUnavailableError):
                await store.samples.recent("s")
        server.freeze(False)
        await back(lambda: store.samples.recent("s"))
        assert await store.samples.recent("s") == (1, [b"x"])
    finally:
        server.freeze(False)
        await store.close()
        server.stop()


async def test_a_redis_that_lost_everything_is_used_again(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()
    store = redis_store(server)
    try:
        await store.jobs.take(0.05)
        server.kill()
        for left in tmp_path.rglob("*.aof*"):
            left.unlink()
        server.start()
        await back(lambda: store.jobs.add(Job("b", "{}", 1, 1, 1000.0)))
        async with asyncio.timeout(30):
            while (chunk := await store.jobs.take(0.05)) is None:
                pass
        assert chunk.job.id == "b"
    finally:
        await store.close()
        server.stop()
