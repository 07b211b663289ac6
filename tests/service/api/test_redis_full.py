"""A service whose Redis is full: jobs are listed, cancelled and deleted; requests that need room say why they fail."""

from __future__ import annotations

import time
from pathlib import Path

import anyio
import pytest
from redis import Redis

from service.store.redis import RedisStore
from tests.redis_server import RedisServer
from tests.service.api.conftest import serving, tiny_app

pytestmark = pytest.mark.anyio


def set_room(server: RedisServer, maxmemory: int) -> None:
    """Limit the memory of Redis to maxmemory bytes; 0: no limit. Stored data stays, so at 1 byte Redis is always full."""
    with Redis.from_url(server.url) as client:
        client.config_set("maxmemory", maxmemory)


async def test_jobs_are_let_go_while_redis_is_full(tiny_zoo: Path, tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()
    try:
        # With this clock the store asks again 0.2 s after a refusal, not 10 s.
        store = RedisStore(server.url, max_jobs=1000, job_ttl_s=3600.0, lease_s=30.0, clock=lambda: 50 * time.monotonic())
        async with serving(tiny_app(tiny_zoo, store)) as client:
            body = {"model": "tiny/teacher", "n": 100_000, "seed": 1}
            urls = [f"/v1/jobs/{(await client.post('/v1/jobs', json=body)).json()['id']}" for _ in range(3)]
            set_room(server, 1)
            refused = await client.post("/v1/jobs", json=body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")
            assert "is full; delete finished jobs" in refused.json()["error"]["message"]
            for _ in range(8):
                assert len((await client.get("/v1/jobs")).json()["data"]) == 3
                assert (await client.get(urls[0])).status_code == 200
                assert "sfddm_store_up 0.0" in (await client.get("/metrics")).text
            for url in urls:
                assert (await client.delete(url)).json()["status"] == "cancelled"
                assert (await client.delete(url)).status_code == 200
            assert (await client.get("/v1/jobs")).json()["data"] == []
            set_room(server, 0)
            with anyio.fail_after(60):
                while "sfddm_store_up 1.0" not in (await client.get("/metrics")).text:
                    await anyio.sleep(0.05)
            assert (await client.post("/v1/jobs", json=body)).status_code == 202
    finally:
        server.stop()
