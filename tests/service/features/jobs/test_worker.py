"""The worker of jobs: jobs that cannot be done, and chunks that are left when it stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from models.catalogue import Catalogue
from service.features.jobs.document import JobDocument
from service.features.jobs.worker import MAX_DELIVERIES, JobRunner
from service.observability.metrics import Metrics
from service.store.base import Job, Jobs
from service.store.memory import MemoryStore
from service.store.redis import RedisStore
from tests.redis_server import RedisServer
from tests.service.engine.support import Gate, Watched, running, value

pytestmark = pytest.mark.anyio


def document(catalogue: Catalogue, model: str = "tiny/student-004", **changes: Any) -> JobDocument:
    entry = catalogue.entries[model.partition("@")[0]]
    fields: dict[str, Any] = {
        "model": model,
        "model_sha256": entry.manifest.sha256,
        "provider": "CPUExecutionProvider",
        "precision": "float32",
        "steps": 4,
        "seed": 1,
        "first_index": 0,
        "labels": [0],
        "class_names": ["cat"],
        "size": "8x8",
        "scale": 1,
        "output_format": "png",
    }
    return JobDocument(**(fields | changes))


def job(content: JobDocument, total: int = 3) -> Job:
    return Job("a", content.model_dump_json(), total, 2, 1_900_000_000.0)


def store() -> Jobs:
    return MemoryStore(max_jobs=9, job_ttl_s=600, job_bytes=1 << 20).jobs


@asynccontextmanager
async def working(jobs: Jobs, catalogue: Catalogue, backend: Watched | None = None) -> AsyncIterator[Metrics]:
    metrics = Metrics()
    async with running(catalogue, backend) as engine:
        runner = JobRunner(jobs, catalogue, engine, metrics)
        runner.start()
        try:
            yield metrics
        finally:
            await runner.stop()


async def over(jobs: Jobs) -> Job:
    async with asyncio.timeout(60):
        while True:
            found = await jobs.get("a")
            assert found is not None
            if found.status not in ("queued", "running"):
                return found
            await asyncio.sleep(0.01)


async def test_images_of_jobs_are_counted(tiny_catalogue: Catalogue) -> None:
    jobs = store()
    async with working(jobs, tiny_catalogue) as metrics:
        await jobs.add(job(document(tiny_catalogue)))
        assert (await over(jobs)).status == "succeeded"
    assert value(metrics, "sfddm_job_images_total", model="tiny/student-004") == 3


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_sha256": "0" * 64}, "is not the one that the job began with"),
        ({"model": "tiny/gone"}, "does not exist"),
        ({"precision": "bfloat16"}, "began on CPUExecutionProvider in bfloat16, but tiny/student-004 runs on CPU"),
        ({"provider": "OpenVINO"}, "set SFDDM_PROVIDER on every replica"),
    ],
)
async def test_a_job_whose_bytes_can_no_longer_be_made_fails(
    tiny_catalogue: Catalogue, changes: dict[str, str], says: str
) -> None:
    jobs = store()
    async with working(jobs, tiny_catalogue):
        await jobs.add(job(document(tiny_catalogue).model_copy(update=changes)))
        failed = await over(jobs)
    assert failed.status == "failed"
    assert says in (failed.error or "")


async def test_a_job_fails_when_its_images_do_and_the_next_one_is_made(tiny_catalogue: Catalogue) -> None:
    backend = Watched()

    def spoil(x_next: np.ndarray, timestep: np.ndarray, class_label: np.ndarray | None) -> None:
        x_next[:] = np.nan

    backend.after, backend.armed = spoil, True
    jobs = store()
    async with working(jobs, tiny_catalogue, backend):
        await jobs.add(job(document(tiny_catalogue)))
        failed = await over(jobs)
        assert failed.status == "failed"
        assert "tiny/student-004" in (failed.error or "")
        backend.armed = False
        await jobs.forget("a")
        await jobs.add(job(document(tiny_catalogue)))
        assert (await over(jobs)).status == "succeeded"


async def test_a_document_that_cannot_be_read_fails_its_job(tiny_catalogue: Catalogue) -> None:
    jobs = store()
    async with working(jobs, tiny_catalogue):
        await jobs.add(Job("a", "{}", 1, 1, 1_900_000_000.0))
        assert "its log has the cause" in ((await over(jobs)).error or "")


async def test_a_worker_that_stops_gives_its_chunks_back(tiny_catalogue: Catalogue) -> None:
    jobs, backend, gate = store(), Watched(), Gate()
    backend.before = gate
    async with running(tiny_catalogue, backend) as engine:
        backend.armed = True
        runner = JobRunner(jobs, tiny_catalogue, engine, Metrics())
        runner.start()
        await jobs.add(job(document(tiny_catalogue)))
        async with asyncio.timeout(60):
            while not gate.waiting:
                await asyncio.sleep(0.01)
        await runner.stop()
        backend.armed = False
        gate.let(100)
        taken = [await jobs.take(1), await jobs.take(1)]
        assert sorted(chunk.start for chunk in taken if chunk is not None) == [0, 2]
        assert await jobs.take(0.05) is None


async def test_a_cancelled_job_leaves_the_engine(tiny_catalogue: Catalogue) -> None:
    jobs, backend, gate = store(), Watched(), Gate()
    backend.before = gate
    async with running(tiny_catalogue, backend, metrics=(metrics := Metrics())) as engine:
        backend.armed = True
        runner = JobRunner(jobs, tiny_catalogue, engine, metrics)
        runner.start()
        await jobs.add(job(document(tiny_catalogue), total=2))
        async with asyncio.timeout(60):
            while not gate.waiting:
                await asyncio.sleep(0.01)
            await jobs.finish("a", "cancelled")
            while value(metrics, "sfddm_waiting_requests") + value(metrics, "sfddm_running_rows"):
                await asyncio.sleep(0.01)
        backend.armed = False
        gate.let(100)
        await runner.stop()
    assert await jobs.images("a", 0, 2) == [None, None]


async def test_a_chunk_that_kills_its_workers_fails_the_job(redis_server: RedisServer, tiny_catalogue: Catalogue) -> None:
    def replica(lease_s: float) -> RedisStore:
        return RedisStore(redis_server.url, max_jobs=9, job_ttl_s=600, lease_s=lease_s)

    dying, alive = replica(0.05), replica(2)  # a short lease: its two tasks would take each other's chunks
    await dying.jobs.forget("a")
    try:
        await dying.jobs.take(0.05)
        await dying.jobs.add(job(document(tiny_catalogue), total=2))
        async with asyncio.timeout(60):
            deliveries = 0
            while deliveries < MAX_DELIVERIES:
                chunk = await dying.jobs.take(0.05)
                deliveries = chunk.deliveries if chunk is not None else deliveries
        async with working(alive.jobs, tiny_catalogue):
            failed = await over(alive.jobs)
        assert failed.status == "failed"
        assert failed.error == f"{MAX_DELIVERIES} workers died while they made images 0 to 1."
    finally:
        await dying.close()
        await alive.close()
