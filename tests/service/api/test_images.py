"""POST /v1/images/generations over ASGI."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import pytest
from PIL import Image

from tests.service.api.conftest import json_post, serving, tiny_app
from tests.tiny import CLASSES

pytestmark = pytest.mark.anyio
URL = "/v1/images/generations"


def pixels(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)))


async def generate(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await client.post(URL, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def refused(client: httpx.AsyncClient, status: int = 400, **body: Any) -> dict[str, Any]:
    response = await client.post(URL, json=body)
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


async def test_an_answer_says_everything_that_makes_the_image_again(client: httpx.AsyncClient) -> None:
    answer = await generate(client, prompt="dog", seed=5, n=2, model="tiny/student-004")
    assert answer["model"] == "tiny/student-004"
    assert answer["steps"] == 4
    assert answer["size"] == "8x8"
    assert answer["output_format"] == "png"
    assert answer["created"] > 1_700_000_000
    assert [image["index"] for image in answer["data"]] == [0, 1]
    for image in answer["data"]:
        assert (image["seed"], image["class_label"], image["class_name"]) == (5, 1, "dog")
        assert pixels(base64.b64decode(image["b64_json"])).shape == (8, 8)
        assert image["timing"]["total_s"] >= image["timing"]["queue_s"] >= 0
    assert answer["timing"]["mean_batch"] >= 1

    second = answer["data"][1]
    again = await generate(client, class_label=1, seed=5, first_index=1, model="tiny/student-004")
    assert again["data"][0]["b64_json"] == second["b64_json"]


async def test_a_seed_is_drawn_when_absent_and_returned(client: httpx.AsyncClient) -> None:
    first, second = await generate(client), await generate(client)
    assert first["seed"] != second["seed"]
    image = first["data"][0]
    again = await generate(client, seed=first["seed"])
    assert again["data"][0] | {"timing": None} == image | {"timing": None}


async def test_without_a_prompt_a_row_of_images_shows_every_class(client: httpx.AsyncClient) -> None:
    answer = await generate(client, seed=2, n=4)
    assert [image["class_label"] for image in answer["data"]] == [2, 0, 1, 2]


async def test_an_unconditional_model_has_no_class(client: httpx.AsyncClient) -> None:
    answer = await generate(client, model="plain/teacher", prompt="")
    assert answer["data"][0]["class_label"] is None
    assert answer["data"][0]["class_name"] is None
    assert (await refused(client, model="plain/teacher", prompt="dog"))["param"] == "prompt"
    assert (await refused(client, model="plain/teacher", class_label=0))["param"] == "class_label"


async def test_variants_of_the_teacher_are_models(client: httpx.AsyncClient) -> None:
    answer = await generate(client, model="tiny/teacher@dpmpp-6", seed=1)
    assert (answer["model"], answer["steps"]) == ("tiny/teacher@dpmpp-006", 6)


async def test_an_unknown_model_is_a_404(client: httpx.AsyncClient) -> None:
    error = await refused(client, 404, model="tiny/student-999")
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert "tiny/student-008" in error["message"]


async def test_size_is_native_or_a_whole_multiple(client: httpx.AsyncClient) -> None:
    small = await generate(client, seed=3, prompt="cat")
    large = await generate(client, seed=3, prompt="cat", size="24x24")
    assert large["size"] == "24x24"
    native = pixels(base64.b64decode(small["data"][0]["b64_json"]))
    upscaled = pixels(base64.b64decode(large["data"][0]["b64_json"]))
    assert np.array_equal(upscaled, native.repeat(3, 0).repeat(3, 1))
    for size in ("1024x1025", "12x12", "8x16", "7x7", "0x0", "2048x2048", "large"):
        error = await refused(client, size=size)
        assert error["param"] == "size"
        assert "8x8" in error["message"]


@pytest.mark.parametrize("output_format", ["png", "webp", "jpeg"])
async def test_output_formats(client: httpx.AsyncClient, output_format: str) -> None:
    answer = await generate(client, seed=3, output_format=output_format)
    assert answer["output_format"] == output_format
    image = Image.open(io.BytesIO(base64.b64decode(answer["data"][0]["b64_json"])))
    assert image.format == output_format.upper()


@pytest.mark.parametrize("output_format", ["png", "webp", "jpeg"])
async def test_accept_asks_for_the_file_itself(client: httpx.AsyncClient, output_format: str) -> None:
    headers = {"accept": f"image/{output_format}"}
    response = await client.post(URL, json={"prompt": "bird", "seed": 7}, headers=headers)
    assert response.status_code == 200
    assert response.headers["content-type"] == f"image/{output_format}"
    assert response.headers["x-seed"] == "7"
    assert response.headers["x-model"] == "tiny/student-008"
    assert response.headers["x-class"] == "bird"
    assert "total;dur=" in response.headers["server-timing"]
    wrapped = await generate(client, prompt="bird", seed=7, output_format=output_format)
    assert base64.b64decode(wrapped["data"][0]["b64_json"]) == response.content


async def test_accept_that_contradicts_the_body_is_refused(client: httpx.AsyncClient) -> None:
    several = await client.post(URL, json={"n": 2}, headers={"accept": "image/png"})
    assert several.json()["error"]["param"] == "n"
    other = await client.post(URL, json={"output_format": "jpeg"}, headers={"accept": "image/png"})
    assert other.json()["error"]["param"] == "output_format"
    any_image = await client.post(URL, json={"output_format": "webp"}, headers={"accept": "image/*"})
    assert any_image.headers["content-type"] == "image/webp"
    both = await client.post(URL, json={}, headers={"accept": "application/json, image/png"})
    assert both.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("accept", "body", "param"),
    [
        ("image/png", {"response_format": "url"}, "response_format"),
        ("image/*", {"stream": True}, "stream"),
        ("image/png", {"stream": True, "partial_images": 1}, "stream"),
        ("*/*", {"stream": True, "response_format": "url"}, "response_format"),
        ("*/*", {"partial_images": 1}, "partial_images"),
        ("application/json", {"stream": False, "partial_images": 3}, "partial_images"),
    ],
)
async def test_fields_that_contradict_each_other_are_refused(
    client: httpx.AsyncClient, accept: str, body: dict[str, Any], param: str
) -> None:
    response = await client.post(URL, json=body, headers={"accept": accept})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert error["message"].startswith(f"{param}: ")


@pytest.mark.parametrize(
    ("accept", "body", "gets"),
    [
        ("application/json", {"stream": True}, "text/event-stream"),  # the official client
        ("text/event-stream", {"stream": True, "partial_images": 0}, "text/event-stream"),
        ("image/png, */*;q=0.1", {"stream": True, "response_format": "b64_json"}, "text/event-stream"),
        ("application/json", {"partial_images": 0, "stream": False, "response_format": "url"}, "application/json"),
        ("image/png, application/json", {"response_format": "url"}, "application/json"),
        ("image/png", {"response_format": "b64_json"}, "image/png"),
    ],
)
async def test_defaults_that_are_spelt_out_contradict_nothing(
    client: httpx.AsyncClient, accept: str, body: dict[str, Any], gets: str
) -> None:
    response = await client.post(URL, json=body, headers={"accept": accept})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].split(";")[0] == gets


@pytest.mark.parametrize(
    ("accept", "gets"),
    [
        ("image/png;q=0.5, application/json;q=0.9", "application/json"),
        ("image/png, application/json;q=0.9", "image/png"),
        ("image/avif,image/webp,*/*;q=0.8", "image/webp"),
        ("image/png;q=0, */*", "application/json"),
        ("", "application/json"),
    ],
)
async def test_accept_weighs_its_choices(client: httpx.AsyncClient, accept: str, gets: str) -> None:
    response = await client.post(URL, json={"seed": 1}, headers={"accept": accept})
    assert response.headers["content-type"] == gets


async def test_a_stream_that_is_not_accepted_is_a_406(client: httpx.AsyncClient) -> None:
    response = await client.post(URL, json={"stream": True}, headers={"accept": "text/html"})
    assert response.status_code == 406
    assert "text/event-stream" in response.json()["error"]["message"]


async def test_what_nobody_accepts_is_a_406(client: httpx.AsyncClient) -> None:
    for accept in ("text/html", "image/avif", "application/json;q=0"):
        response = await client.post(URL, json={"seed": 1}, headers={"accept": accept})
        assert response.status_code == 406
        assert response.json()["error"]["code"] == "not_acceptable"


@pytest.mark.parametrize("output_format", ["webp", "jpeg"])
async def test_output_compression_is_the_quality_of_lossy_files(client: httpx.AsyncClient, output_format: str) -> None:
    sizes = []
    for quality in (5, 90):
        body = {"seed": 3, "size": "64x64", "output_format": output_format, "output_compression": quality}
        sizes.append(len((await generate(client, **body))["data"][0]["b64_json"]))
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"n": "2"}, "n"),
        ({"n": True}, "n"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**53}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"first_index": -1}, "first_index"),
        ({"class_label": 3}, "class_label"),
        ({"class_label": 0, "prompt": "dog"}, "class_label"),
        ({"prompt": "a red house"}, "prompt"),
        ({"prompt": "a cat and a dog"}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"output_format": "gif"}, "output_format"),
        ({"response_format": "link"}, "response_format"),
        ({"stream": 1}, "stream"),
        ({"partial_images": 4}, "partial_images"),
        ({"output_compression": 101}, "output_compression"),
        ({"output_compression": -1}, "output_compression"),
        ({"frobnicate": None}, "frobnicate"),
    ],
)
async def test_a_refusal_names_the_field(client: httpx.AsyncClient, body: dict[str, Any], param: str) -> None:
    error = await refused(client, **body)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert param in error["message"].casefold()


async def test_an_unknown_prompt_lists_the_classes(client: httpx.AsyncClient) -> None:
    message = (await refused(client, prompt="a red house"))["message"]
    assert all(name in message for name in CLASSES)


async def test_what_openai_clients_send_is_accepted_and_null_means_absent(client: httpx.AsyncClient) -> None:
    answer = await generate(
        client,
        prompt="dog",
        seed=1,
        n=None,
        size=None,
        quality="hd",
        style="vivid",
        background="auto",
        moderation="low",
        output_compression=50,
        user="someone",
        response_format=None,
        stream=False,
    )
    assert answer["data"][0]["class_name"] == "dog"


async def test_half_a_surrogate_pair_is_refused(client: httpx.AsyncClient) -> None:
    for content, param in ((rb'{"\ud800": 1}', None), (rb'{"prompt": "\ud800"}', "prompt")):
        response = await client.post(URL, content=content, headers={"content-type": "application/json"})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == param
        assert "Unicode" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"{", "application/json"),
        (b"[1]", "application/json"),
        (b"\xff", "application/json"),
        (b"[" * 10**5, "application/json"),
        (b'{"n": ' + b"9" * 5000 + b"}", "application/json"),
        (b'{"n": 1}', "text/plain"),
    ],
)
async def test_bodies_that_are_not_a_json_object(client: httpx.AsyncClient, content: bytes, content_type: str) -> None:
    response = await client.post(URL, content=content, headers={"content-type": content_type})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert ("thousands of digits" if len(content) == 5007 else "JSON") in error["message"]


async def test_overload_is_a_429_with_a_delay_that_clients_honour(tiny_zoo: Path) -> None:
    async with serving(tiny_app(tiny_zoo, max_backlog_s=1e-6)) as client:
        answers: list[httpx.Response] = []

        async def ask() -> None:
            answers.append(await client.post(URL, json={"model": "tiny/teacher", "n": 16}))

        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(ask)
        shed = [answer for answer in answers if answer.status_code == 429]
        assert {answer.status_code for answer in answers} == {200, 429}
        for answer in shed:
            assert 1 <= int(answer.headers["retry-after"]) <= 120
            assert answer.json()["error"]["type"] == "rate_limit_error"
        metrics = (await client.get("/metrics")).text
        assert f'sfddm_requests_total{{model="tiny/teacher",outcome="overloaded"}} {len(shed)}.0' in metrics


async def test_before_the_models_are_loaded_it_is_a_503(tiny_zoo: Path) -> None:
    transport = httpx.ASGITransport(tiny_app(tiny_zoo))  # the application is never started
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        response = await client.post(URL, json={})
    assert response.status_code == 503
    assert response.json()["error"]["type"] == "unavailable_error"
    assert 1 <= int(response.headers["retry-after"]) <= 120


async def test_a_client_that_leaves_frees_its_rows(tiny_zoo: Path) -> None:
    app = tiny_app(tiny_zoo, max_n=1024, max_batch=2)
    async with serving(app) as client:
        body = json.dumps({"model": "tiny/teacher", "n": 1024}).encode()
        messages = [{"type": "http.request", "body": body, "more_body": False}, {"type": "http.disconnect"}]
        statuses: list[int] = []

        async def receive() -> dict[str, Any]:
            return messages.pop(0) if messages else {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        await app(json_post(URL), receive, send)
        assert statuses == [499]
        with anyio.fail_after(30):
            while "sfddm_running_rows 0.0" not in (await client.get("/metrics")).text:
                await anyio.sleep(0.01)
        metrics = (await client.get("/metrics")).text
        assert 'sfddm_requests_total{model="tiny/teacher",outcome="cancelled"} 1.0' in metrics
        assert "sfddm_waiting_requests 0.0" in metrics
        await generate(client, model="tiny/teacher")  # and the engine goes on
