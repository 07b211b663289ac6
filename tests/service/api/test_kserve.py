"""The Open Inference Protocol: malformed requests, which Triton's client cannot send (see tests/e2e/test_triton_client.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.api.conftest import serving, tiny_app

pytestmark = pytest.mark.anyio
URL = "/v2/models/tiny/student-008/infer"


def seed(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "seed", "shape": [1], "datatype": "INT64", "data": [1]} | changes]}


async def test_a_slash_may_be_escaped(client: httpx.AsyncClient) -> None:
    for path in ("tiny/student-008", "tiny%2Fstudent-008"):
        assert (await client.get(f"/v2/models/{path}")).json()["name"] == "tiny/student-008"
        assert (await client.get(f"/v2/models/{path}/versions/1/ready")).status_code == 200
        response = await client.post(f"/v2/models/{path}/infer", json=seed())
        assert response.json()["outputs"][0]["shape"] == [1, 1, 8, 8]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (seed(data=[1, 2]), "1 integers"),
        (seed(data=[1.5]), "integers"),
        (seed(data=[2**63]), "64 bits"),
        (seed(data=[True]), "integers"),
        (seed(data=None), "data"),
        (seed(shape=[0], data=[]), "shape"),
        (seed(shape=[1, 2]), "shape"),
        (seed(datatype="FP32"), "datatype"),
        (seed(parameters={"binary_data_size": 8}), "either"),
        (seed(data=None, parameters={"binary_data_size": 8}), "8 bytes"),
        ({"inputs": seed()["inputs"] * 2}, "twice"),
        ({"inputs": []}, "inputs"),
        ({}, "inputs"),
        ([], "object"),
    ],
)
async def test_a_malformed_request_is_one_sentence(client: httpx.AsyncClient, body: Any, says: str) -> None:
    response = await client.post(URL, json=body)
    assert response.status_code == 400
    assert says in response.json()["error"]


@pytest.mark.parametrize("length", ["-1", "x", "9999"])
async def test_a_wrong_header_length(client: httpx.AsyncClient, length: str) -> None:
    response = await client.post(URL, json=seed(), headers={"inference-header-content-length": length})
    assert response.status_code == 400
    assert "length" in response.json()["error"]


async def test_bytes_that_belong_to_nothing(client: httpx.AsyncClient) -> None:
    head = json.dumps(seed()).encode()
    headers = {"inference-header-content-length": str(len(head))}
    response = await client.post(URL, content=head + b"x", headers=headers)
    assert "1 bytes" in response.json()["error"]
    assert "JSON" in (await client.post(URL, content=b"{")).json()["error"]


async def test_not_ready_is_a_503(tiny_zoo: Path) -> None:
    app = tiny_app(tiny_zoo)
    async with serving(app) as client:
        await app.state.service.engine.drain(0)
        for path in ("/v2/health/ready", "/v2/models/tiny/teacher/ready"):
            response = await client.get(path)
            assert response.status_code == 503
            assert isinstance(response.json()["error"], str)
        assert (await client.get("/v2/health/live")).status_code == 200
