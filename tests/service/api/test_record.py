"""The log line of a request: its model, its outcome in the words of the metrics, and the times of its phases."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from service.api.record import outcome_of_status
from service.features.service import Service
from service.settings.experiments import Experiment
from tests.service.api.conftest import READY_WITHIN_S, json_post, serving, tiny_app

pytestmark = pytest.mark.anyio
URL = "/v1/images/generations"
TIMES = {"queue_s", "denoise_s", "compute_s", "encode_s"}


@pytest.fixture(scope="module")
def app(tiny_zoo: Path) -> FastAPI:
    experiment = Experiment(arms={"tiny/student-004": 1, "tiny/student-008": 1})
    return tiny_app(tiny_zoo, experiments={"tiny/steps": experiment}, max_n=1024, max_backlog_s=0.05, max_batch=2)


@pytest.fixture(scope="module")
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(app) as ready:
        yield ready


async def line(client: httpx.AsyncClient, method: str, path: str, **arguments: Any) -> tuple[httpx.Response, dict[str, Any]]:
    """Send a request. Return the answer and the one log line of the request."""
    with capture_logs(processors=[merge_contextvars]) as captured:
        answer = await client.request(method, path, **arguments)
    (said,) = [event for event in captured if event["event"] == "request"]
    assert said["request_id"] == answer.headers["x-request-id"]
    assert said["status"] == answer.status_code
    assert said["seconds"] >= 0
    return answer, said


def counted(app: FastAPI, said: dict[str, Any]) -> float:
    """Return how many requests the metrics count for the model and outcome of a log line."""
    metrics = app.state.service.metrics
    model = metrics.model_label(said["model"]) if "model" in said else "none"
    return metrics.registry.get_sample_value("sfddm_requests_total", {"model": model, "outcome": said["outcome"]}) or 0.0


async def test_an_answer(client: httpx.AsyncClient, app: FastAPI) -> None:
    answer, said = await line(client, "POST", URL, json={"model": "tiny/teacher", "n": 2, "seed": 1})
    assert (said["model"], said["outcome"], said["images"]) == ("tiny/teacher", "ok", 2)
    assert said.keys() >= TIMES
    assert said["compute_s"] == pytest.approx(answer.json()["timing"]["compute_s"], abs=1e-3)
    assert said["queue_s"] + said["denoise_s"] + said["encode_s"] <= said["seconds"] + 1e-3
    assert (said["log_level"], counted(app, said)) == ("info", 1)
    assert "code" not in said


async def test_auto_is_the_model_that_it_chose(client: httpx.AsyncClient) -> None:
    answer, said = await line(client, "POST", URL, json={"model": "auto", "max_latency_ms": 60_000})
    assert said["model"] == answer.json()["model"] != "auto"


async def test_an_experiment_is_its_arm(client: httpx.AsyncClient) -> None:
    answer, said = await line(client, "POST", URL, json={"model": "tiny/steps", "user": "a"})
    assert (said["experiment"], said["model"]) == ("tiny/steps", answer.json()["experiment"]["arm"])


async def test_an_experiment_is_named_when_planning_fails(client: httpx.AsyncClient) -> None:
    _, said = await line(client, "POST", URL, json={"model": "tiny/steps", "prompt": "a house"})
    assert (said["experiment"], said["code"]) == ("tiny/steps", "unknown_class")


async def test_images_from_the_cache_have_no_engine_time(client: httpx.AsyncClient) -> None:
    body = {"json": {"model": "tiny/student-004", "seed": 77, "n": 3}}
    await client.post(URL, **body)
    _, said = await line(client, "POST", URL, **body)
    assert said["images"] == 3
    assert said.keys() & TIMES == {"encode_s"}


async def test_a_stream_is_logged_when_it_ends(client: httpx.AsyncClient) -> None:
    body = {"model": "tiny/teacher", "n": 2, "stream": True, "partial_images": 2}
    _, said = await line(client, "POST", URL, json=body)
    assert (said["model"], said["outcome"], said["images"]) == ("tiny/teacher", "ok", 2)
    assert said.keys() >= TIMES


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"prompt": "a house"}, "unknown_class"),
        ({"n": -1}, "invalid_request_error"),
        ({"model": "tiny/none"}, "model_not_found"),
    ],
)
async def test_what_is_wrong_with_a_request(client: httpx.AsyncClient, app: FastAPI, body: dict[str, Any], code: str) -> None:
    before = counted(app, {"outcome": "invalid"})
    _, said = await line(client, "POST", URL, json=body)
    assert (said["outcome"], said["code"]) == ("invalid", code)
    assert "model" not in said
    assert counted(app, said) == before + 1


@pytest.mark.parametrize("streaming", [False, True])
async def test_overload_and_a_client_that_leaves(client: httpx.AsyncClient, app: FastAPI, streaming: bool) -> None:
    """One request is more work than may wait, so the next is refused. Then the first one's client leaves."""
    gone = anyio.Event()
    body = json.dumps({"model": "plain/teacher", "n": 1024, "stream": streaming}).encode()
    incoming = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if incoming:
            return incoming.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        pass

    def steps() -> float:
        return service.metrics.registry.get_sample_value("sfddm_steps_total", {"model": "plain/teacher"}) or 0.0

    service: Service = app.state.service
    before = steps()
    model = service.catalogue.resolve("plain/teacher")
    with capture_logs() as captured:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(app, json_post(URL), receive, send)
            with anyio.fail_after(READY_WITHIN_S):
                while (service.engine.wait_s(model) or 0.0) <= 0.05 or steps() == before:
                    await anyio.sleep(0.001)
            refused, said = await line(client, "POST", URL, json={"model": "plain/teacher"})
            gone.set()
    assert refused.status_code == 429
    assert (said["model"], said["outcome"], said["code"]) == ("plain/teacher", "overloaded", "overloaded")
    (left,) = [event for event in captured if event["event"] == "request"]
    assert (left["model"], left["outcome"], left["images"]) == ("plain/teacher", "cancelled", 1024)
    assert "queue_s" in left
    assert left["compute_s"] > 0, "what was given up has had its time on the device"
    assert counted(app, left) >= 1


async def test_a_model_that_is_not_there_for_a_stream_or_for_triton(client: httpx.AsyncClient) -> None:
    for path, body in ((URL, {"model": "tiny/none", "stream": True}), ("/v2/models/tiny/none/infer", {"inputs": []})):
        _, said = await line(client, "POST", path, json=body)
        assert said["code"] == "model_not_found"


async def test_a_job_tells_its_model(client: httpx.AsyncClient) -> None:
    _, said = await line(client, "POST", "/v1/jobs", json={"model": "tiny/student-004", "n": 2})
    assert (said["model"], said["images"], said["outcome"]) == ("tiny/student-004", 2, "ok")


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/v2/health/ready"])
async def test_who_polls_is_not_logged_at_info(client: httpx.AsyncClient, path: str) -> None:
    _, said = await line(client, "GET", path)
    assert said["log_level"] == "debug"


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(200, "ok"), (304, "ok"), (404, "invalid"), (429, "overloaded"), (499, "cancelled"), (500, "error"), (503, "unavailable")],
)
def test_a_request_that_asked_no_model_has_the_outcome_of_its_status(status: int, outcome: str) -> None:
    assert outcome_of_status(status) == outcome
    assert outcome_of_status(None) == "cancelled"
