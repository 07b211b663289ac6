"""max_latency_ms, auto and service_tier over HTTP; the device of an image; /livez after a crash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from service.api.errors import retry_after_header
from service.features.service import StartupError
from tests.redis_server import RedisServer
from tests.service.api.conftest import serving, tiny_app
from tests.service.api.test_stream import events_of

pytestmark = pytest.mark.anyio
URL = "/v1/images/generations"
HOUR_MS = 3_600_000


async def post(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await client.post(URL, json=body)


async def test_auto_takes_the_best_model_that_fits_and_says_which(client: httpx.AsyncClient) -> None:
    answer = (await post(client, model="auto", max_latency_ms=HOUR_MS, seed=1)).json()
    assert (answer["model"], answer["steps"]) == ("tiny/teacher", 32)
    assert answer["timing"]["estimated_s"] > 0
    named = (await post(client, model="tiny/teacher", seed=1)).json()
    assert named["data"][0]["b64_json"] == answer["data"][0]["b64_json"]


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"model": "auto"}, "max_latency_ms", None),
        ({"model": "auto", "max_latency_ms": 1e-6}, "max_latency_ms", "latency_unattainable"),
        ({"model": "tiny/teacher", "max_latency_ms": 1e-6}, "max_latency_ms", "latency_unattainable"),
        ({"max_latency_ms": 0}, "max_latency_ms", None),
        ({"max_latency_ms": HOUR_MS + 1}, "max_latency_ms", None),
        ({"service_tier": "priority"}, "service_tier", None),
    ],
)
async def test_a_latency_that_cannot_be(client: httpx.AsyncClient, body: dict[str, Any], param: str, code: str | None) -> None:
    response = await post(client, **body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert param in error["message"]


async def test_auto_without_measured_models(tiny_zoo: Path) -> None:
    async with serving(tiny_app(tiny_zoo, default_model="plain/teacher")) as client:
        response = await post(client, model="auto", max_latency_ms=1000)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "model"


async def test_the_answer_says_what_made_each_image(client: httpx.AsyncClient) -> None:
    answer = (await post(client, n=2, service_tier="flex", max_latency_ms=HOUR_MS)).json()
    assert answer["service_tier"] == "flex"
    for image in answer["data"]:
        device = image["device"]
        assert (device["provider"], device["precision"]) == ("CPUExecutionProvider", "float32")
        assert 1 <= device["smallest_batch"] <= device["largest_batch"]
    direct = await client.post(URL, json={}, headers={"accept": "image/png"})
    assert direct.headers["x-device"].startswith("CPUExecutionProvider; precision=float32; batch=")
    model = (await client.get("/v1/models/tiny/teacher")).json()
    assert (model["provider"], model["precision"]) == ("CPUExecutionProvider", "float32")


async def test_a_stream_takes_a_latency_and_a_tier(client: httpx.AsyncClient) -> None:
    body = {"model": "auto", "max_latency_ms": HOUR_MS, "service_tier": "flex", "seed": 1, "stream": True}
    ((_, event),) = events_of((await post(client, **body)).text)
    assert (event["model"], event["service_tier"]) == ("tiny/teacher", "flex")
    assert event["timing"]["estimated_s"] > 0
    assert event["device"]["precision"] == "float32"
    refused = await post(client, max_latency_ms=1e-6, stream=True)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "latency_unattainable")


async def test_urls_take_a_latency_and_a_tier(client: httpx.AsyncClient) -> None:
    answer = (await post(client, max_latency_ms=HOUR_MS, service_tier="flex", response_format="url", seed=1)).json()
    assert answer["service_tier"] == "flex"
    assert (await client.get(answer["data"][0]["url"])).status_code == 200


async def test_a_dead_engine_is_not_alive(tiny_zoo: Path) -> None:
    app = tiny_app(tiny_zoo)
    async with serving(app) as client:
        assert (await client.get("/livez")).status_code == 200
        app.state.service.metrics.observe_step = None  # a bug: the engine's thread raises at its next batch
        answer = await post(client)
        assert answer.status_code == 503
        with anyio.fail_after(30):
            while (await client.get("/livez")).status_code != 503:
                await anyio.sleep(0.01)
        assert "needs a restart: TypeError" in (await client.get("/livez")).json()["error"]["message"]
        assert (await client.get("/readyz")).status_code == 503
        assert (await post(client)).status_code == 503


async def test_weights_name_served_models(tiny_zoo: Path) -> None:
    with pytest.raises(StartupError, match="model_weights names tiny/none"):
        tiny_app(tiny_zoo, model_weights={"tiny/none": 1.0})


@pytest.mark.parametrize(("seconds", "header"), [(0.001, "1"), (1.2, "2"), (59, "59"), (119.5, "120"), (1e6, "120")])
async def test_retry_after_is_whole_seconds_within_what_clients_wait_for(seconds: float, header: str) -> None:
    assert retry_after_header(seconds) == {"retry-after": header}


@pytest.mark.parametrize("model", ["tiny/teacher", "auto"])
async def test_who_comes_together_is_not_promised_the_same_device(
    tiny_zoo: Path, redis_server: RedisServer, model: str
) -> None:
    """A slow Redis answers between planning and admission: the promise is made when the rows are admitted."""
    app = tiny_app(tiny_zoo, redis_url=redis_server.url, cache_bytes=10**6)
    async with serving(app) as client:
        alone = (await post(client, model="tiny/teacher", n=16)).json()["timing"]
        limit_ms = 2500 * alone["total_s"]
        answers: list[httpx.Response] = []

        async def ask(seed: int) -> None:
            answers.append(await post(client, model=model, n=16, seed=seed, max_latency_ms=limit_ms))

        async with anyio.create_task_group() as group:
            for seed in range(100, 124):
                group.start_soon(ask, seed)
    assert 200 in {answer.status_code for answer in answers} <= {200, 429}
    estimates = [answer.json()["timing"]["estimated_s"] for answer in answers if answer.status_code == 200]
    assert max(estimates) <= limit_ms / 1000
