"""The version has one source: the metadata of the installed package, which come from pyproject.toml."""

from __future__ import annotations

from importlib.metadata import version

import httpx
import pytest

import service

pytestmark = pytest.mark.anyio


async def test_what_shows_a_version_shows_the_same(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    example = document["paths"]["/v2"]["get"]["responses"]["200"]["content"]["application/json"]["example"]
    shown = (await client.get("/v2")).json()["version"], document["info"]["version"], example["version"], service.__version__
    assert set(shown) == {version("sfddm-serve")}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models", 200),
        ("HEAD", "/v1/models", 200),
        ("GET", "/v1/models/tiny/none", 404),
        ("GET", "/v1/none", 404),
        ("POST", "/v1/images/generations", 400),
        ("DELETE", "/v1/models", 405),
    ],
)
async def test_every_answer_of_v1_names_the_version(client: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    response = await client.request(method, path)
    assert (response.status_code, response.headers["x-sfddm-version"]) == (status, service.__version__)


async def test_a_stream_and_a_file_name_the_version(client: httpx.AsyncClient) -> None:
    for body, accept in (({"stream": True}, "text/event-stream"), ({}, "image/png")):
        response = await client.post("/v1/images/generations", json=body, headers={"accept": accept})
        assert (response.status_code, response.headers["x-sfddm-version"]) == (200, service.__version__)


async def test_other_protocols_do_not_have_the_header(client: httpx.AsyncClient) -> None:
    for path in ("/v2", "/livez", "/openapi.json"):
        assert "x-sfddm-version" not in (await client.get(path)).headers
