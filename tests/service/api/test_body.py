"""Compressed bodies are read and bounded. A refusal is a sentence that names the header."""

from __future__ import annotations

import gzip
import json
import zlib

import httpx
import pytest

pytestmark = pytest.mark.anyio
URL = "/v1/images/generations"
BODY = json.dumps({"model": "tiny/student-004", "seed": 3}).encode()
GZIPPED = gzip.compress(BODY, mtime=0)  # without the time, so that all workers of a run collect the same tests


async def send(client: httpx.AsyncClient, content: bytes, coding: str, url: str = URL) -> httpx.Response:
    headers = {"content-type": "application/json", "content-encoding": coding}
    return await client.post(url, content=content, headers=headers)


@pytest.mark.parametrize(
    ("coding", "content"),
    [("gzip", GZIPPED), ("x-GZip", GZIPPED), ("deflate", zlib.compress(BODY)), ("identity", BODY)],
)
async def test_a_compressed_body_is_the_body(client: httpx.AsyncClient, coding: str, content: bytes) -> None:
    plain = await client.post(URL, content=BODY, headers={"content-type": "application/json"})
    packed = await send(client, content, coding)
    assert packed.status_code == 200, packed.text
    assert packed.json()["data"][0]["b64_json"] == plain.json()["data"][0]["b64_json"]


async def test_the_limit_holds_after_decompression(client: httpx.AsyncClient) -> None:
    bomb = gzip.compress(b" " * (64 << 20))
    assert len(bomb) < 1 << 20
    refused = await send(client, bomb, "gzip")
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "body_too_large")
    assert (await send(client, gzip.compress(BODY.ljust(1 << 20)), "gzip")).status_code == 200  # as many bytes as are allowed
    assert (await send(client, gzip.compress(BODY.ljust((1 << 20) + 1)), "gzip")).status_code == 413


@pytest.mark.parametrize("content", [BODY, GZIPPED[:-1], GZIPPED + b"x", zlib.compress(BODY)])
async def test_what_is_not_gzip_is_a_400(client: httpx.AsyncClient, content: bytes) -> None:
    refused = await send(client, content, "gzip")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "Content-Encoding")
    assert "gzip" in refused.json()["error"]["message"]


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip"])
async def test_another_coding_is_a_415(client: httpx.AsyncClient, coding: str) -> None:
    refused = await send(client, BODY, coding)
    assert (refused.status_code, refused.headers["accept-encoding"]) == (415, "gzip, deflate")
    assert refused.json()["error"]["param"] == "Content-Encoding"
    inference = await send(client, BODY, coding, "/v2/models/tiny/student-004/infer")
    assert (inference.status_code, "Content-Encoding" in inference.json()["error"]) == (415, True)
