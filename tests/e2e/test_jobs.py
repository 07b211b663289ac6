"""A job in Redis survives the process that works on it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import PATIENCE_S, Server, serving
from tests.redis_server import RedisServer

pytestmark = pytest.mark.redis

IMAGES = 80
WITHIN_S = 300


def _watch(server: Server, job_id: str, until: str) -> dict[str, Any]:
    """Poll until the job has stored its first images (`begun`) or has ended (`over`), and return it."""
    deadline = time.monotonic() + WITHIN_S
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client:
        while True:
            job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").json()
            if job["done"] and (until == "begun" or job["status"] not in ("queued", "running")):
                return job
            assert time.monotonic() < deadline, f"{job}\n{server.log.read_text()}"
            time.sleep(0.005 if until == "begun" else 0.2)


def test_a_job_survives_the_kill_of_its_process_with_the_same_bytes(tiny_zoo: Path, tmp_path: Path) -> None:
    redis = RedisServer(tmp_path)
    redis.start()
    setting = {"SFDDM_REDIS_URL": redis.url, "SFDDM_JOB_CHUNK": "2", "SFDDM_JOB_LEASE_S": "3"}
    options = ("--zoo", str(tiny_zoo), "--threads", "1", "--max-batch", "1")
    request = {"model": "tiny/teacher", "n": IMAGES, "seed": 11, "prompt": "cat"}
    try:
        with serving(tmp_path / "first", *options, **setting) as first:
            job_id = httpx.post(f"{first.url}/v1/jobs", json=request).json()["id"]
            _watch(first, job_id, "begun")
            first.process.kill()
            first.process.wait(PATIENCE_S)
        with serving(tmp_path / "second", *options, **setting) as second:
            inherited = httpx.get(f"{second.url}/v1/jobs/{job_id}").json()
            assert inherited["status"] == "running", "it was over before the kill: make it longer"
            done = _watch(second, job_id, "over")
            assert (done["status"], done["done"]) == ("succeeded", IMAGES)
            undisturbed = httpx.post(f"{second.url}/v1/jobs", json=request).json()["id"]
            assert _watch(second, undisturbed, "over")["status"] == "succeeded"
            archives = [httpx.get(f"{second.url}/v1/jobs/{each}/result").content for each in (job_id, undisturbed)]
            assert archives[0] == archives[1]
    finally:
        redis.stop()
