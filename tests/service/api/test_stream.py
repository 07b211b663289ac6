"""Server-sent events of POST /v1/images/generations, checked with OpenAI's own types."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import pytest
from openai.types import ImageGenCompletedEvent, ImageGenPartialImageEvent
from PIL import Image

from models.runtime.base import Network
from service.engine.execute import Evaluation, evaluate
from service.engine.request import RowFailedError
from service.engine.row import Row
from tests.service.api.conftest import json_post, serving, tiny_app

pytestmark = pytest.mark.anyio
URL = "/v1/images/generations"


def events_of(text: str) -> list[tuple[str | None, dict[str, Any]]]:
    """Return (event, data) of each block of a stream, without comments."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in fields:
            found.append((fields.get("event"), json.loads(fields["data"])))
    return found


async def stream(client: httpx.AsyncClient, **body: Any) -> list[tuple[str | None, dict[str, Any]]]:
    response = await client.post(URL, json={"stream": True, **body})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return events_of(response.text)


async def test_events_have_openais_shapes_and_come_in_order(client: httpx.AsyncClient) -> None:
    found = await stream(client, prompt="dog", seed=5, n=2, partial_images=3, model="tiny/teacher")
    assert len(found) == 8
    for name, data in found:
        assert name == data["type"]
        kind = ImageGenCompletedEvent if name == "image_generation.completed" else ImageGenPartialImageEvent
        kind.model_validate(data, strict=True)
        assert (data["seed"], data["class_name"], data["model"], data["steps"]) == (5, "dog", "tiny/teacher", 32)
    for position in range(2):
        mine = [data for _, data in found if data["image_index"] == position]
        assert [data.get("partial_image_index") for data in mine] == [0, 1, 2, None]
        assert [data.get("step") for data in mine] == [8, 16, 24, None]
        assert mine[-1]["type"] == "image_generation.completed"
        assert mine[-1]["timing"]["total_s"] > 0
        assert mine[-1]["index"] == position


async def test_the_last_event_is_the_image_that_plain_json_gives(client: httpx.AsyncClient) -> None:
    body = {"prompt": "cat", "seed": 9, "output_format": "webp", "size": "16x16"}
    ((_, streamed),) = await stream(client, **body)
    plain = (await client.post(URL, json=body)).json()
    assert streamed["b64_json"] == plain["data"][0]["b64_json"]
    assert (streamed["output_format"], streamed["size"]) == ("webp", "16x16")


async def test_previews_are_predictions_that_near_the_image(client: httpx.AsyncClient) -> None:
    """Over many seeds each prediction is closer to the final image than the one before."""
    found = await stream(client, n=16, partial_images=3, seed=1, model="tiny/teacher")
    pixels: dict[tuple[int, int], np.ndarray] = {}
    for _, data in found:
        file = io.BytesIO(base64.b64decode(data["b64_json"]))
        pixels[data["image_index"], data.get("partial_image_index", 3)] = np.asarray(Image.open(file), dtype=float)
    errors = [np.mean([(pixels[i, k] - pixels[i, 3]) ** 2 for i in range(16)]) for k in range(3)]
    assert errors[0] > errors[1] > errors[2] > 0


async def test_a_short_plan_has_fewer_previews(client: httpx.AsyncClient) -> None:
    found = await stream(client, model="tiny/teacher@ddim-002", partial_images=3, seed=1)
    assert [name for name, _ in found] == ["image_generation.partial_image", "image_generation.completed"]


async def test_what_is_refused_is_an_ordinary_error(client: httpx.AsyncClient) -> None:
    response = await client.post(URL, json={"stream": True, "prompt": "a house"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "prompt"


async def test_the_first_image_that_fails_is_the_last_event(tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def second_fails(network: Network, rows: Sequence[Row], now_s: float, *, abreast: bool) -> Evaluation:
        done = evaluate(network, rows, now_s, abreast=abreast)
        failed = RowFailedError("The device failed.")
        return Evaluation([failed if row.position == 1 else out for row, out in zip(rows, done.outputs, strict=True)])

    async with serving(tiny_app(tiny_zoo)) as client:
        monkeypatch.setattr("service.engine.loop.evaluate", second_fails)
        found = await stream(client, seed=1, n=3)
        name, data = found[-1]
        assert name is None
        assert data["error"] == {"message": "The device failed.", "type": "server_error", "param": None, "code": "image_failed"}
        assert [event for _, event in found[:-1] if event["image_index"] == 1] == []
        metrics = (await client.get("/metrics")).text
        assert 'outcome="error"} 1.0' in metrics
        assert "sfddm_running_rows 0.0" in metrics


@pytest.mark.parametrize("leaves_after", [0, 2])
async def test_a_client_that_leaves_frees_its_rows(tiny_zoo: Path, leaves_after: int) -> None:
    """The client leaves before the first byte, or after the first event."""
    app = tiny_app(tiny_zoo, max_n=1024, max_batch=2)
    async with serving(app) as client:
        body = json.dumps({"model": "tiny/teacher", "n": 1024, "stream": True, "partial_images": 1}).encode()
        incoming = [{"type": "http.request", "body": body, "more_body": False}]
        gone = anyio.Event()
        if not leaves_after:
            gone.set()
        sent = 0

        async def receive() -> dict[str, Any]:
            if incoming:
                return incoming.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            nonlocal sent
            sent += 1
            if sent == leaves_after:
                gone.set()

        with anyio.fail_after(60):
            await app(json_post(URL), receive, send)
            while "sfddm_running_rows 0.0" not in (await client.get("/metrics")).text:
                await anyio.sleep(0.01)
        metrics = (await client.get("/metrics")).text
        assert 'sfddm_requests_total{model="tiny/teacher",outcome="cancelled"} 1.0' in metrics
        assert "sfddm_waiting_requests 0.0" in metrics
