"""The services of docker-compose.yml work together: the server, a real Redis and a real Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.deploy.compose import Stack
from tests.e2e.conftest import PATIENCE_S

pytestmark = [pytest.mark.prometheus, pytest.mark.redis]


@pytest.fixture(scope="module")
def stack(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Start all services. The server comes first, as it must not wait for its Redis."""
    stack = Stack(tmp_path_factory.mktemp("compose"), tiny_zoo)
    try:
        for service in ("sfddm", "redis", "prometheus"):
            stack.start(service)
        yield stack
    finally:
        stack.stop_all()


def test_it_makes_an_image(stack: Stack) -> None:
    body = {"prompt": "cat", "seed": 1, "model": "tiny/student-004"}
    answer = httpx.post(f"{stack.url('sfddm')}/v1/images/generations", json=body, headers={"accept": "image/png"})
    assert answer.status_code == 200
    assert answer.content.startswith(b"\x89PNG")


def test_calibrations_are_kept_in_the_volume(stack: Stack) -> None:
    kept = stack.folder / "cache" / "calibration"

    def calibrations() -> list[Path]:
        """List them. The server keeps none that a busy machine disturbed, so where there is none it measures again."""
        if not (found := list(kept.glob("*.json"))):
            assert stack.stop("sfddm") == 0
            stack.start("sfddm")
        return found

    assert _until(calibrations)


def test_prometheus_scrapes_the_service_and_evaluates_its_rules(stack: Stack) -> None:
    # The server may have been restarted a moment ago. Then the latest scrape is one that failed.
    assert _until(lambda: _query(stack, 'up{job="sfddm"}') == [1.0])
    assert _until(lambda: _query(stack, "sfddm_store_up") == [1.0])
    rules = _until(lambda: _evaluated(stack))
    assert all(rule["health"] == "ok" for rule in rules), rules


def test_a_job_outlives_redis_and_the_service(stack: Stack) -> None:
    body = {"model": "tiny/student-008", "n": 3, "seed": 5}
    job = httpx.post(f"{stack.url('sfddm')}/v1/jobs", json=body).json()["id"]
    _until(lambda: _job(stack, job)["status"] == "succeeded")
    before = httpx.get(f"{stack.url('sfddm')}/v1/jobs/{job}/result").content
    assert stack.stop("sfddm") == 0
    assert stack.stop("redis") == 0
    stack.start("redis")
    stack.start("sfddm")
    assert httpx.get(f"{stack.url('sfddm')}/v1/jobs/{job}/result").content == before


def _job(stack: Stack, job: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{stack.url('sfddm')}/v1/jobs/{job}").json()
    return found


def _query(stack: Stack, expression: str) -> list[float]:
    answer = httpx.get(f"{stack.url('prometheus')}/api/v1/query", params={"query": expression}).json()
    return [float(series["value"][1]) for series in answer["data"]["result"]]


def _evaluated(stack: Stack) -> list[dict[str, Any]]:
    """Return every rule, or nothing while one is still to be evaluated."""
    groups = httpx.get(f"{stack.url('prometheus')}/api/v1/rules").json()["data"]["groups"]
    rules: list[dict[str, Any]] = [rule for group in groups for rule in group["rules"]]
    return rules if rules and all(rule["health"] != "unknown" for rule in rules) else []


def _until(found: Any) -> Any:
    """Call `found` until it returns something, and return that."""
    deadline = time.monotonic() + PATIENCE_S
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return value
