"""A service over the tiny zoo in this process: the real engine and ASGI application, from startup to drain."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI

from service.api.app import create_app
from service.settings.model import Settings
from service.store.base import Store

READY_WITHIN_S = 60


def json_post(path: str) -> dict[str, Any]:
    """Return the ASGI scope of a POST of JSON, for tests that play the server's side of the connection."""
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("test", 80),
    }


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Run an app from startup to drain. Yields a client once the app is ready."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        with anyio.fail_after(READY_WITHIN_S):
            while (await client.get("/readyz")).status_code != 200:
                await anyio.sleep(0.01)
        yield client


def tiny_app(zoo: Path, store: Store | None = None, **changes: Any) -> FastAPI:
    fields = {"zoos": (zoo,), "default_model": "tiny/student-008", "max_n": 16}
    return create_app(Settings(threads=1, **(fields | changes)), store)


@pytest.fixture(scope="module")
async def client(tiny_zoo: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(tiny_app(tiny_zoo)) as ready:
        yield ready
