"""A model that verifies and does not load: the others are served, and clients learn nothing of this machine's folders."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.api.conftest import serving, tiny_app
from tests.tiny import break_graph

pytestmark = pytest.mark.anyio
FAILED = "tiny/student-004"


@pytest.fixture(scope="module")
async def client(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    zoo = tmp_path_factory.mktemp("broken") / "zoo"
    shutil.copytree(tiny_zoo, zoo)
    break_graph(zoo / FAILED)
    async with serving(tiny_app(zoo)) as ready:
        yield ready


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/images/generations", {"model": FAILED}),
        ("/v1/images/generations", {"model": FAILED, "stream": True}),
        ("/v1/images/generations", {"model": FAILED, "max_latency_ms": 60_000}),
        ("/v1/images/interpolations", {"model": FAILED, "seeds": [1, 2]}),
        ("/v1/comparisons", {"models": ["tiny/teacher", FAILED]}),
        ("/v1/comparisons", {"models": ["tiny/teacher", FAILED], "stream": True}),
        ("/v1/jobs", {"model": FAILED}),
    ],
)
async def test_it_says_so_and_is_not_worth_a_retry(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
    response = await client.post(path, json=body)
    assert response.status_code == 503
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("unavailable_error", "model_failed")
    assert error["message"].startswith(
        f"The model {FAILED} could not be loaded: ONNX Runtime cannot load {FAILED}/model.onnx: "
    )
    assert error["message"].endswith("; name another model.")
    assert (response.headers["retry-after"], response.headers["x-should-retry"]) == ("120", "false")


async def test_nobody_learns_a_folder_of_the_server(
    client: httpx.AsyncClient, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = str(tmp_path_factory.getbasetemp())
    for path in (f"/v1/models/{FAILED}", "/v1/models", f"/v2/models/{FAILED}/ready"):
        text = (await client.get(path)).text
        assert "could not be loaded" in text or '"failed"' in text
        assert root not in text
    assert root not in (await client.post("/v1/images/generations", json={"model": FAILED})).text


async def test_the_inference_protocol_says_it_in_its_shape(client: httpx.AsyncClient) -> None:
    response = await client.get(f"/v2/models/{FAILED}/ready")
    assert response.status_code == 503
    message = response.json()["error"]
    assert message.endswith("; name another model.")
    assert ".." not in message
    assert (await client.get("/v2/health/ready")).status_code == 200
    assert (await client.get("/v2/models/tiny/teacher/ready")).status_code == 200
