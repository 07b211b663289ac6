"""Fixtures shared by every room: a tiny zoo of real models, and asyncio as the one event loop for async tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from models.catalogue import Catalogue, discover
from tests.markers import pytest_collection_modifyitems  # noqa: F401 - a hook
from tests.no_skip import pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401 - hooks
from tests.redis_server import RedisServer
from tests.tiny import make_tiny_zoo

# One runtime in every test but those of tests/service/backend: which one is faster would be a matter of luck.
os.environ.setdefault("SFDDM_PROVIDER", "CPUExecutionProvider")

# Examples are slow where a training runs beside the tests: how long one takes says nothing.
settings.register_profile("sfddm", deadline=None)
settings.load_profile("sfddm")


@pytest.fixture(scope="session", autouse=True)
def _calibrations_of_this_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Services that tests start remember their calibrations, but not in the cache of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SFDDM_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo folder with the models of tests.tiny; read-only by agreement: copy it before breaking it."""
    return make_tiny_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="session")
def tiny_catalogue(tiny_zoo: Path) -> Catalogue:
    """The tiny zoo, discovered; nothing in it is refused."""
    catalogue = discover([tiny_zoo])
    assert not catalogue.refusals
    return catalogue


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A real Redis."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()
