"""POST /v1/images/interpolations."""

from __future__ import annotations

import base64
import io
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.anyio
URL = "/v1/images/interpolations"


async def walk(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await client.post(URL, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@pytest.mark.parametrize("model", ["tiny/student-008", "tiny/teacher@dpmpp-006", "tiny/teacher@ddpm-006", "plain/teacher"])
async def test_the_ends_are_the_images_of_the_seeds(client: httpx.AsyncClient, model: str) -> None:
    label = {} if model == "plain/teacher" else {"class_label": 1}
    answer = await walk(client, model=model, seeds=[3, 9], frames=5, **label)
    ends = []
    for seed in (3, 9):
        body = {"model": model, "seed": seed, **label}
        ends.append((await client.post("/v1/images/generations", json=body)).json()["data"][0]["b64_json"])
    files = [frame["b64_json"] for frame in answer["data"]]
    assert [files[0], files[-1]] == ends
    assert len(set(files)) == 5
    assert [frame["fraction"] for frame in answer["data"]] == [0, 0.25, 0.5, 0.75, 1]
    assert {(frame["seed"], frame["other_seed"]) for frame in answer["data"]} == {(3, 9)}


async def test_every_frame_has_one_class(client: httpx.AsyncClient) -> None:
    answer = await walk(client, seeds=[2, 7], frames=3)
    assert {frame["class_name"] for frame in answer["data"]} == {"bird"}
    answer = await walk(client, seeds=[2, 7], frames=3, prompt="a dog")
    assert {frame["class_name"] for frame in answer["data"]} == {"dog"}


async def test_a_strip_is_the_frames_side_by_side(client: httpx.AsyncClient) -> None:
    body = {"seeds": [3, 9], "frames": 4, "size": "16x16"}
    response = await client.post(URL, json=body, headers={"accept": "image/png"})
    assert response.headers["content-type"] == "image/png"
    strip = np.asarray(Image.open(io.BytesIO(response.content)))
    frames = [base64.b64decode(frame["b64_json"]) for frame in (await walk(client, **body))["data"]]
    assert np.array_equal(strip, np.concatenate([np.asarray(Image.open(io.BytesIO(file))) for file in frames], axis=1))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "seeds"),
        ({"seeds": [1]}, "seeds"),
        ({"seeds": [1, 2, 3]}, "seeds"),
        ({"seeds": [1, -1]}, "seeds.1"),
        ({"seeds": [1, 2], "frames": 1}, "frames"),
        ({"seeds": [1, 2], "frames": 17}, "frames"),
        ({"seeds": [1, 2], "n": 2}, "n"),
        ({"seeds": [1, 2], "prompt": "a house"}, "prompt"),
    ],
)
async def test_a_refusal_names_the_field(client: httpx.AsyncClient, body: dict[str, Any], param: str) -> None:
    response = await client.post(URL, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_a_strip_wider_than_its_format_is_refused_before_any_work(client: httpx.AsyncClient) -> None:
    body = {"class_label": 1, "seeds": [3, 9], "frames": 16, "size": "1024x1024"}
    response = await client.post(URL, json=body, headers={"accept": "image/webp"})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "frames"
    assert "16384 pixels" in error["message"]
