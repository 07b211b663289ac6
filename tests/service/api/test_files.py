"""Urls of images: they are absolute, give the same bytes on every replica, and expire."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from service.engine.request import Generation, ImageSpec
from service.features.encode import FileStyle
from service.features.links import ImageLinks
from service.settings.model import Settings
from tests.service.api.conftest import serving, tiny_app

pytestmark = pytest.mark.anyio
AWAY = "redis://127.0.0.1:1/0"  # nobody listens there
BODY: dict[str, Any] = {"prompt": "dog", "seed": 5, "n": 2, "output_format": "webp", "output_compression": 40, "size": "16x16"}


async def urls(client: httpx.AsyncClient, path: str = "generations", body: dict[str, Any] | None = None) -> list[str]:
    response = await client.post(f"/v1/images/{path}", json={**(body or BODY), "response_format": "url"})
    assert response.status_code == 200, response.text
    assert all(image["b64_json"] is None for image in response.json()["data"])
    return [image["url"] for image in response.json()["data"]]


async def test_a_url_is_absolute_and_gives_the_file(client: httpx.AsyncClient) -> None:
    found = await urls(client)
    inline = (await client.post("/v1/images/generations", json=BODY)).json()["data"]
    for url, image in zip(found, inline, strict=True):
        assert url.startswith("http://test/v1/images/files/")
        response = await client.get(url)
        assert response.headers["content-type"] == "image/webp"
        assert "max-age=" in response.headers["cache-control"]
        assert response.content == base64.b64decode(image["b64_json"])
        assert (await client.head(url)).status_code == 200


async def test_another_replica_with_the_secret_makes_the_same_bytes(tiny_zoo: Path) -> None:
    shared = {"url_secret": "s3cret", "public_url": "https://images.example/"}
    async with serving(tiny_app(tiny_zoo, **shared)) as one, serving(tiny_app(tiny_zoo, **shared)) as other:
        for path, body in (("generations", BODY), ("interpolations", {"seeds": [1, 2], "frames": 3})):
            for url in await urls(one, path, body):
                assert url.startswith("https://images.example/v1/images/files/")
                local = url.removeprefix("https://images.example")
                assert (await other.get(local)).content == (await one.get(local)).content
    async with serving(tiny_app(tiny_zoo)) as stranger:
        refused = await stranger.get(local)
        assert refused.status_code == 403
        assert refused.json()["error"]["code"] == "url_invalid"


@pytest.mark.parametrize("device", [{"provider": "OpenVINO"}, {"precision": "bfloat16"}])
async def test_a_url_of_an_image_that_another_runtime_made_is_gone(tiny_zoo: Path, device: dict[str, str]) -> None:
    app, elsewhere = tiny_app(tiny_zoo, url_secret="s3cret"), ImageLinks("s3cret", 60)
    async with serving(app) as client:
        service = app.state.service
        model = service.resolve("tiny/student-004")
        (image,) = await service.engine.submit(Generation(model, [ImageSpec(5, 0, 1)])).images()
        other = replace(image, device=replace(image.device, **device))
        same, gone = [await client.get(elsewhere.link("", model, one, FileStyle(), b"")) for one in (image, other)]
    assert same.content == FileStyle().encode(image.pixels)
    assert gone.status_code == 410
    assert gone.json()["error"]["code"] == "url_expired"


async def test_an_altered_url_is_refused(client: httpx.AsyncClient) -> None:
    url, _ = await urls(client)
    for altered in (url + "x", url[:-1], url.replace("files/", "files/x"), "/v1/images/files/%ff", "/v1/images/files/a.b"):
        assert (await client.get(altered)).status_code == 403


async def test_urls_expire(tiny_zoo: Path) -> None:
    async with serving(tiny_app(tiny_zoo, url_expire_s=1e-9)) as client:
        url, _ = await urls(client)
        gone = await client.get(url)
    assert gone.status_code == 410
    assert gone.json()["error"]["code"] == "url_expired"


def test_an_hour_is_the_default() -> None:
    assert Settings().url_expire_s == 3600


@pytest.mark.parametrize(("redis_url", "secret", "warned"), [(AWAY, None, True), (AWAY, "s", False), (None, None, False)])
async def test_replicas_that_would_not_read_each_others_urls_are_warned_of(
    tiny_zoo: Path, redis_url: str | None, secret: str | None, warned: bool
) -> None:
    app = tiny_app(tiny_zoo, redis_url=redis_url, url_secret=secret)
    with structlog.testing.capture_logs() as lines:
        async with app.router.lifespan_context(app):
            pass
    assert ("url_secret_random" in [line["event"] for line in lines]) == warned
