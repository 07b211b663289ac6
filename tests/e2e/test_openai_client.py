"""The official client against a real server."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import openai
import pytest
from PIL import Image

from tests.e2e.conftest import Server


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused") as opened:
        yield opened


def test_models(client: openai.OpenAI) -> None:
    listed = client.models.list()
    assert {model.id for model in listed} == {"plain/teacher", "tiny/teacher", "tiny/student-004", "tiny/student-008"}
    one = client.models.retrieve("tiny/student-004")
    assert (one.id, one.object) == ("tiny/student-004", "model")
    assert one.model_extra is not None
    assert one.model_extra["steps"] == 4
    assert client.models.retrieve("tiny/teacher@dpmpp-008").id == "tiny/teacher@dpmpp-008"


def test_images(client: openai.OpenAI) -> None:
    answer = client.images.generate(
        model="tiny/student-004",
        prompt="a small dog",
        n=3,
        size="auto",
        quality="standard",
        style="natural",
        response_format="b64_json",
        user="a user",
        extra_body={"seed": 11},
    )
    assert answer.data is not None
    assert len(answer.data) == 3
    assert answer.output_format == "png"
    for image in answer.data:
        assert image.b64_json is not None
        assert Image.open(io.BytesIO(base64.b64decode(image.b64_json))).size == (8, 8)
    assert answer.model_extra is not None
    assert answer.model_extra["seed"] == 11
    again = client.images.generate(model="tiny/student-004", prompt="dog", n=3, extra_body={"seed": 11})
    assert again.data is not None
    assert [image.b64_json for image in again.data] == [image.b64_json for image in answer.data]


def test_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.images.generate(model="dall-e-3", prompt="dog")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("tiny/none")
    with pytest.raises(openai.BadRequestError) as wrong:
        client.images.generate(prompt="a unicorn")
    assert (wrong.value.type, wrong.value.param) == ("invalid_request_error", "prompt")
    with pytest.raises(openai.BadRequestError) as streamed:
        client.images.generate(prompt="dog", stream=True)
    assert streamed.value.param == "stream"


@pytest.mark.anyio
async def test_async_client(server: Server) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="unused") as client:
        assert "tiny/teacher" in {model.id async for model in client.models.list()}
        answer = await client.images.generate(prompt="cat", extra_body={"seed": 1})
        assert answer.data is not None
        assert answer.data[0].b64_json
        with pytest.raises(openai.BadRequestError):
            await client.images.generate(prompt="cat", size="1024x1536")
