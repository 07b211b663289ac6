"""A service whose Redis is killed and returns: generation goes on, jobs report the failure, and then continue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from tests.redis_server import RedisServer
from tests.service.api.conftest import serving, tiny_app

pytestmark = pytest.mark.anyio


async def until(client: httpx.AsyncClient, url: str, **expected: Any) -> dict[str, Any]:
    with anyio.fail_after(120):
        while True:
            response = await client.get(url)
            if response.status_code == 200 and expected.items() <= response.json().items():
                body: dict[str, Any] = response.json()
                return body
            await anyio.sleep(0.05)


async def test_redis_goes_away_in_the_middle_of_a_job_and_returns(tiny_zoo: Path, tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()
    app = tiny_app(tiny_zoo, redis_url=server.url, job_lease_s=3, job_chunk=2)
    try:
        async with serving(app) as client:
            job = (await client.post("/v1/jobs", json={"model": "tiny/teacher", "n": 200, "seed": 1})).json()
            url = f"/v1/jobs/{job['id']}"
            with anyio.fail_after(60):
                while not (await client.get(url)).json()["done"]:
                    await anyio.sleep(0.01)
            server.kill()

            for attempt in (
                client.get(url),
                client.get("/v1/jobs"),
                client.delete(url),
                client.get(f"{url}/result"),
                client.post("/v1/jobs", json={"n": 1}, headers={"idempotency-key": "k"}),
            ):
                response = await attempt
                assert response.status_code == 503, response.text
                error = response.json()["error"]
                assert (error["type"], error["code"]) == ("unavailable_error", "store_unavailable")
                assert "Redis" in error["message"]
                assert 1 <= int(response.headers["retry-after"]) <= 120
            for body in ({"seed": 1}, {}):
                answer = await client.post("/v1/images/generations", json=body, headers={"idempotency-key": "k2"})
                assert answer.status_code == 200
            assert "sfddm_store_up 0.0" in (await client.get("/metrics")).text
            assert (await client.get("/readyz")).status_code == 200

            server.start()
            done = await until(client, url, status="succeeded")
            assert done["done"] == 200
            assert "sfddm_store_up 1.0" in (await client.get("/metrics")).text
            answers = [(await client.post("/v1/images/generations", json={"seed": 5})).json() for _ in range(2)]
            assert answers[1]["data"][0]["cached"]
    finally:
        server.stop()
