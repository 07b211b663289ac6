"""Answers with images from the result cache."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.service.api.conftest import serving, tiny_app

pytestmark = pytest.mark.anyio
URL = "/v1/images/generations"


async def test_an_answer_says_what_was_recalled(client: httpx.AsyncClient) -> None:
    body = {"seed": 987, "n": 2, "model": "tiny/student-004"}
    first = (await client.post(URL, json=body)).json()
    second = (await client.post(URL, json=body | {"n": 3})).json()
    assert [image["cached"] for image in first["data"]] == [False, False]
    assert [image["cached"] for image in second["data"]] == [True, True, False]
    assert [image["b64_json"] for image in second["data"][:2]] == [image["b64_json"] for image in first["data"]]
    assert second["data"][0]["timing"]["total_s"] == 0
    assert second["timing"] == second["data"][2]["timing"]  # the timing of the image that was computed
    file = await client.post(URL, json=body | {"n": 1}, headers={"accept": "image/webp"})
    assert file.headers["x-cache"] == "hit"
    assert 'sfddm_cache_images_total{outcome="hit"} 3.0' in (await client.get("/metrics")).text


async def test_who_measures_gets_nothing_recalled(client: httpx.AsyncClient) -> None:
    measuring = {"cache-control": "no-cache"}
    answers = [(await client.post(URL, json={"seed": 988}, headers=measuring)).json()["data"][0] for _ in range(2)]
    assert [image["cached"] for image in answers] == [False, False]
    assert answers[1]["timing"]["compute_s"] > 0


async def test_it_can_be_switched_off(tiny_zoo: Path) -> None:
    async with serving(tiny_app(tiny_zoo, cache_bytes=0)) as client:
        answers = [(await client.post(URL, json={"seed": 1})).json()["data"][0] for _ in range(2)]
    assert [image["cached"] for image in answers] == [False, False]
    assert answers[0]["b64_json"] == answers[1]["b64_json"]
