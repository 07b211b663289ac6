"""Fixtures: each test of this room runs against the store in this process and against one in a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis import Redis

from service.store.base import Store
from service.store.memory import MemoryStore
from service.store.redis import RedisStore
from tests.redis_server import RedisServer

MAX_JOBS = 3


def redis_store(server: RedisServer, *, lease_s: float = 30.0, job_ttl_s: float = 60.0) -> RedisStore:
    return RedisStore(server.url, max_jobs=MAX_JOBS, job_ttl_s=job_ttl_s, lease_s=lease_s)


@pytest.fixture
def empty_redis(redis_server: RedisServer) -> RedisServer:
    """Return the server, emptied."""
    with Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryStore(max_jobs=MAX_JOBS, job_ttl_s=60, job_bytes=10_000)
        return
    store = redis_store(request.getfixturevalue("empty_redis"))
    yield store
    await store.close()
