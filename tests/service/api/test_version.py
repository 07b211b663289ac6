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
