"""OpenAI's own Python client, unmodified, synchronous and asynchronous, against a real server."""

from __future__ import annotations

import asyncio
import base64
import io
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
from PIL import Image

from tests.e2e.conftest import PATIENCE_S, Server, launched, serving
from tests.tiny import break_graph

LONG = {"model": "tiny/teacher", "prompt": "dog", "n": 128}  # 4096 evaluations; with SLOW, one after another
SLOW = ("--max-n", "512", "--max-batch", "1", "--threads", "1", "--default-model", "tiny/student-004")


def connect(server: Server, **options: object) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", **options)  # type: ignore[arg-type]


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with connect(server) as opened:
        yield opened


@pytest.fixture(scope="module")
def slow(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("slow") / "log", "--zoo", str(tiny_zoo), *SLOW) as running:
        yield running


def sample(server: Server, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", httpx.get(f"{server.url}/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def wait_until_idle(server: Server) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while sample(server, "sfddm_running_rows") or sample(server, "sfddm_waiting_requests"):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def keep_busy(server: Server) -> threading.Thread:
    """Start a long request, and return once its rows run."""
    sending = {"json": LONG, "timeout": PATIENCE_S}
    busy = threading.Thread(target=httpx.post, args=(f"{server.url}/v1/images/generations",), kwargs=sending)
    busy.start()
    while not sample(server, "sfddm_running_rows"):
        time.sleep(0.01)
    return busy


CANCELLED = 'sfddm_requests_total{model="tiny/teacher",outcome="cancelled"}'


def wait_until_cancelled(server: Server, count: float) -> None:
    wait_until_idle(server)
    deadline = time.monotonic() + PATIENCE_S
    while sample(server, CANCELLED) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


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
        background="auto",
        moderation="low",
        output_format="webp",
        output_compression=80,
        response_format="b64_json",
        user="a user",
        extra_body={"seed": 11},
    )
    assert answer.data is not None
    assert len(answer.data) == 3
    assert answer.output_format == "webp"
    for image in answer.data:
        assert image.b64_json is not None
        assert Image.open(io.BytesIO(base64.b64decode(image.b64_json))).size == (8, 8)
    assert answer.model_extra is not None
    assert answer.model_extra["seed"] == 11


def test_urls(client: openai.OpenAI) -> None:
    answer = client.images.generate(prompt="dog", response_format="url", extra_body={"seed": 2})
    inline = client.images.generate(prompt="dog", extra_body={"seed": 2})
    assert answer.data is not None
    assert inline.data is not None
    assert answer.data[0].url is not None
    assert httpx.get(answer.data[0].url).content == base64.b64decode(inline.data[0].b64_json or "")


def test_stream(client: openai.OpenAI) -> None:
    stream = client.images.generate(prompt="dog", model="tiny/teacher", stream=True, partial_images=2, extra_body={"seed": 2})
    partial, another, done = stream
    assert partial.type == another.type == "image_generation.partial_image"
    assert (partial.partial_image_index, another.partial_image_index) == (0, 1)
    assert done.type == "image_generation.completed"
    assert done.usage.total_tokens == 0
    plain = client.images.generate(prompt="dog", model="tiny/teacher", extra_body={"seed": 2})
    assert plain.data is not None
    assert done.b64_json == plain.data[0].b64_json


def test_error_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.images.generate(model="dall-e-3", prompt="dog")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    assert missing.value.request_id
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("tiny/none")
    with pytest.raises(openai.BadRequestError) as wrong:
        client.images.generate(prompt="a unicorn", stream=True)
    assert (wrong.value.type, wrong.value.param) == ("invalid_request_error", "prompt")
    with pytest.raises(openai.APIConnectionError), connect(Server(None, "http://127.0.0.1:1", Path()), max_retries=0) as nobody:  # type: ignore[arg-type]
        nobody.models.list()


def test_overload_is_retried_after_the_time_that_the_server_names(tiny_zoo: Path, tmp_path: Path) -> None:
    options = ("--zoo", str(tiny_zoo), *SLOW, "--max-backlog-s", "0.000001")
    with serving(tmp_path / "log", *options) as server, connect(server) as client:
        busy = keep_busy(server)
        with pytest.raises(openai.RateLimitError) as refused:
            client.with_options(max_retries=0).images.generate(model="tiny/teacher", prompt="dog")
        assert 1 <= int(refused.value.response.headers["retry-after"]) <= 120
        answer = client.with_options(max_retries=20).images.generate(model="tiny/teacher", prompt="dog")
        assert answer.data is not None
        busy.join()
        refusals = 'sfddm_requests_total{model="tiny/teacher",outcome="overloaded"}'
        assert sample(server, refusals) >= 2


@pytest.mark.anyio
async def test_a_server_that_starts_is_waited_for(tmp_path: Path) -> None:
    """Send requests while the shipped models load, which takes seconds: clients retry until they get an answer."""
    options = ("--max-batch", "2", "--threads", "1")
    body = {"prompt": "sneaker", "model": "fashion-mnist/student-004"}
    with launched(tmp_path / "log", *options, SFDDM_CACHE_DIR="") as server, connect(server, max_retries=300) as client:
        early = httpx.post(f"{server.url}/v1/images/generations", json=body)
        assert early.status_code == 503
        assert 1 <= int(early.headers["retry-after"]) <= 120
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=300) as waiting:
            answers = await asyncio.gather(
                asyncio.to_thread(client.images.generate, **body),  # type: ignore[arg-type]
                waiting.images.generate(**body),  # type: ignore[call-overload]
            )
        assert all(answer.data for answer in answers)
        assert sample(server, 'sfddm_shed_total{reason="starting"}') >= 3


@pytest.mark.anyio
async def test_a_model_that_failed_to_load_is_asked_once(tiny_zoo: Path, tmp_path: Path) -> None:
    zoo = tmp_path / "zoo"
    shutil.copytree(tiny_zoo, zoo)
    break_graph(zoo / "tiny" / "student-008")
    options = ("--zoo", str(zoo), "--default-model", "tiny/student-004", "--threads", "1")
    with serving(tmp_path / "log", *options) as server, connect(server) as client:
        with pytest.raises(openai.InternalServerError) as refused:
            client.images.generate(model="tiny/student-008", prompt="dog")
        assert (refused.value.status_code, refused.value.code) == (503, "model_failed")
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="unused") as another:
            with pytest.raises(openai.InternalServerError):
                await another.images.generate(model="tiny/student-008", prompt="dog")
        assert sample(server, 'sfddm_shed_total{reason="model_failed"}') == 2
        assert client.images.generate(prompt="dog").data


def test_a_key_is_answered_once(slow: Server) -> None:
    """Send one key twice: the second request is told to wait (409) while the first runs, then gets the same answer."""
    with connect(slow, max_retries=100) as client, ThreadPoolExecutor() as pool:
        keyed = {"Idempotency-Key": "sync"}
        first = pool.submit(client.images.generate, **LONG, extra_headers=keyed)  # type: ignore[arg-type]
        while not sample(slow, "sfddm_running_rows"):
            time.sleep(0.01)
        with pytest.raises(openai.ConflictError) as conflict:
            client.with_options(max_retries=0).images.generate(**LONG, extra_headers=keyed)  # type: ignore[call-overload]
        assert (conflict.value.code, conflict.value.response.headers["retry-after"]) == ("idempotency_key_in_use", "1")
        replayed = client.images.with_raw_response.generate(**LONG, extra_headers=keyed)  # type: ignore[call-overload]
        assert replayed.headers["idempotency-replayed"] == "true"
        assert replayed.parse() == first.result()
        with pytest.raises(openai.UnprocessableEntityError) as reused:
            client.images.generate(prompt="cat", extra_headers=keyed)
        assert reused.value.code == "idempotency_key_reused"


@pytest.mark.anyio
async def test_async_a_key_is_answered_once(slow: Server) -> None:
    async with openai.AsyncOpenAI(base_url=f"{slow.url}/v1", api_key="unused", max_retries=100) as client:
        keyed = {"Idempotency-Key": "async"}
        first = asyncio.create_task(client.images.generate(**LONG, extra_headers=keyed))  # type: ignore[call-overload]
        while not sample(slow, "sfddm_running_rows"):
            await asyncio.sleep(0.01)
        with pytest.raises(openai.ConflictError):
            await client.with_options(max_retries=0).images.generate(**LONG, extra_headers=keyed)  # type: ignore[call-overload]
        replayed = await client.images.with_raw_response.generate(**LONG, extra_headers=keyed)  # type: ignore[call-overload]
        assert replayed.headers["idempotency-replayed"] == "true"
        assert replayed.parse() == await first


def test_a_server_that_drains_says_so(tiny_zoo: Path, tmp_path: Path) -> None:
    options = ("--zoo", str(tiny_zoo), *SLOW)
    with serving(tmp_path / "log", *options, SFDDM_DRAIN_S="300") as server, connect(server, max_retries=0) as client:
        busy = keep_busy(server)
        server.process.send_signal(signal.SIGTERM)
        while httpx.get(f"{server.url}/readyz").status_code == 200:
            time.sleep(0.01)
        with pytest.raises(openai.InternalServerError) as draining:
            client.images.generate(prompt="dog")
        assert draining.value.status_code == 503
        busy.join()


def test_a_timeout_and_a_closed_stream_free_the_device(slow: Server) -> None:
    before = sample(slow, CANCELLED)
    with connect(slow, max_retries=0) as client:
        with pytest.raises(openai.APITimeoutError):
            client.images.generate(**LONG, timeout=0.2)  # type: ignore[call-overload]
        wait_until_cancelled(slow, before + 1)
        with client.images.generate(**LONG, stream=True) as stream:  # type: ignore[call-overload]
            assert next(iter(stream)).type == "image_generation.completed"
        wait_until_cancelled(slow, before + 2)


@pytest.mark.anyio
async def test_async_client(server: Server) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="unused") as client:
        assert "tiny/teacher" in {model.id async for model in client.models.list()}
        assert (await client.models.retrieve("tiny/teacher")).id == "tiny/teacher"
        answer = await client.images.generate(prompt="cat", extra_body={"seed": 1})
        assert answer.data is not None
        stream = await client.images.generate(prompt="cat", stream=True, partial_images=1, extra_body={"seed": 1})
        events = [event async for event in stream]
        assert [event.type for event in events] == ["image_generation.partial_image", "image_generation.completed"]
        assert events[-1].b64_json == answer.data[0].b64_json
        with pytest.raises(openai.BadRequestError):
            await client.images.generate(prompt="cat", size="1024x1536")
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("tiny/none")


@pytest.mark.anyio
async def test_async_cancellation_and_timeout_free_the_device(slow: Server) -> None:
    before = sample(slow, CANCELLED)
    async with openai.AsyncOpenAI(base_url=f"{slow.url}/v1", api_key="unused", max_retries=0) as client:
        task = asyncio.create_task(client.images.generate(**LONG))  # type: ignore[call-overload]
        while not sample(slow, "sfddm_running_rows"):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(wait_until_cancelled, slow, before + 1)
        with pytest.raises(openai.APITimeoutError):
            await client.images.generate(**LONG, timeout=0.2)  # type: ignore[call-overload]
        await asyncio.to_thread(wait_until_cancelled, slow, before + 2)


@pytest.mark.anyio
async def test_async_overload_is_retried(tiny_zoo: Path, tmp_path: Path) -> None:
    options = ("--zoo", str(tiny_zoo), *SLOW, "--max-backlog-s", "0.000001")
    with serving(tmp_path / "log", *options) as server:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=20) as client:
            busy = asyncio.create_task(client.images.generate(**LONG))  # type: ignore[call-overload]
            while not sample(server, "sfddm_running_rows"):
                await asyncio.sleep(0.01)
            with pytest.raises(openai.RateLimitError):
                await client.with_options(max_retries=0).images.generate(model="tiny/teacher", prompt="dog")
            assert (await client.images.generate(model="tiny/teacher", prompt="dog")).data
            await busy
