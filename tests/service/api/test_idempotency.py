"""Idempotency-Key over ASGI."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.api.idempotency import Idempotency
from service.store.base import Store
from service.store.memory import MemoryStore
from tests.service.api.conftest import serving, tiny_app

pytestmark = pytest.mark.anyio
GENERATE, JOBS = "/v1/images/generations", "/v1/jobs"


async def post(
    client: httpx.AsyncClient, url: str, key: str, body: dict[str, Any], **headers: str
) -> tuple[httpx.Response, bool]:
    """Return the response, and if it is a kept one."""
    response = await client.post(url, json=body, headers={"idempotency-key": key} | headers)
    return response, response.headers.get("idempotency-replayed") == "true"


@pytest.mark.parametrize(("url", "status"), [(GENERATE, 200), (JOBS, 202)])
async def test_the_same_request_has_the_same_answer(client: httpx.AsyncClient, url: str, status: int) -> None:
    first, replayed = await post(client, url, "one", {"n": 2})  # without a seed a second computation would give another image
    assert (first.status_code, replayed) == (status, False)
    again, replayed = await post(client, url, "one", {"n": 2})
    assert (again.status_code, again.content, replayed) == (status, first.content, True)
    assert again.headers["content-type"] == first.headers["content-type"]
    assert again.headers.get("location") == first.headers.get("location")
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    other, _ = await post(client, url, "two", {"n": 2})
    assert other.content != first.content


async def test_files_are_kept_too(client: httpx.AsyncClient) -> None:
    first, _ = await post(client, GENERATE, "file", {}, accept="image/png")
    again, replayed = await post(client, GENERATE, "file", {}, accept="image/png")
    assert replayed
    assert (again.content, again.headers["x-seed"]) == (first.content, first.headers["x-seed"])


async def test_another_request_under_the_same_key_is_a_422(client: httpx.AsyncClient) -> None:
    await post(client, GENERATE, "reused", {"n": 1})
    for body, headers in (({"n": 2}, {}), ({"n": 1}, {"accept": "image/png"})):
        response, _ = await post(client, GENERATE, "reused", body, **headers)
        assert response.status_code == 422
        error = response.json()["error"]
        assert (error["param"], error["code"]) == ("Idempotency-Key", "idempotency_key_reused")
    elsewhere, replayed = await post(client, JOBS, "reused", {"n": 1})  # keys belong to a route
    assert (elsewhere.status_code, replayed) == (202, False)


async def test_a_refused_request_may_be_corrected_under_its_key(client: httpx.AsyncClient) -> None:
    refused, _ = await post(client, GENERATE, "corrected", {"n": 0})
    assert refused.status_code == 400
    corrected, replayed = await post(client, GENERATE, "corrected", {"n": 1})
    assert (corrected.status_code, replayed) == (200, False)


async def test_a_duplicate_of_what_is_being_answered_is_a_409_that_clients_retry(tiny_zoo: Path) -> None:
    async with serving(tiny_app(tiny_zoo)) as client:
        body = {"model": "tiny/teacher", "n": 16}
        answers = await asyncio.gather(*(post(client, GENERATE, "twice", body) for _ in range(3)))
        statuses = sorted(response.status_code for response, _ in answers)
        assert statuses == [200, 409, 409]
        for response, _ in answers:
            if response.status_code == 409:
                assert response.headers["retry-after"] == "1"
                assert response.json()["error"]["code"] == "idempotency_key_in_use"
        _, replayed = await post(client, GENERATE, "twice", body)
        assert replayed


@pytest.mark.parametrize("key", ["", "a b", "x" * 256])
async def test_a_key_that_is_none_is_refused(client: httpx.AsyncClient, key: str) -> None:
    response, _ = await post(client, GENERATE, key, {})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "Idempotency-Key"


async def test_a_stream_takes_no_key(client: httpx.AsyncClient) -> None:
    response, _ = await post(client, GENERATE, "stream-1", {"seed": 1, "stream": True})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "Idempotency-Key"


async def test_the_limit_on_bodies_holds(client: httpx.AsyncClient) -> None:
    async def unannounced() -> Any:
        for _ in range(17):
            yield b" " * 65536

    response = await client.post(GENERATE, content=unannounced(), headers={"idempotency-key": "large"})
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "body_too_large"


async def call(app: Idempotency, key: str) -> int:
    transport = httpx.ASGITransport(app, raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return (await client.post(GENERATE, content=b"{}", headers={"idempotency-key": key})).status_code


async def test_a_request_that_breaks_off_frees_its_key() -> None:
    store: Store = MemoryStore(max_jobs=1, job_ttl_s=60, job_bytes=1)
    outcomes: list[bool] = [False, True]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if not outcomes.pop(0):
            raise RuntimeError("boom")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    guarded = Idempotency(app, store.blobs, max_bytes=1000, ttl_s=60)
    with pytest.raises(RuntimeError, match="boom"):
        await call(guarded, "k")
    assert await call(guarded, "k") == 200
    assert await call(guarded, "k") == 200  # a kept answer: the application has no second one
    assert not outcomes


async def test_an_answer_too_large_to_keep_is_made_again() -> None:
    store: Store = MemoryStore(max_jobs=1, job_ttl_s=60, job_bytes=1)
    calls = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal calls
        calls += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 251})

    guarded = Idempotency(app, store.blobs, max_bytes=1000, ttl_s=60)
    assert [await call(guarded, "k") for _ in range(2)] == [200, 200]
    assert calls == 2
