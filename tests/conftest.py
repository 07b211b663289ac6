"""Fixtures of every room: a tiny zoo of real models, a real Redis, and asyncio as the event loop of asynchronous tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

from models.catalogue import Catalogue, discover
from tests.markers import pytest_collection_modifyitems  # noqa: F401 - a hook
from tests.no_skip import pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401 - hooks
from tests.redis_server import RedisServer
from tests.shared import shared_root
from tests.tiny import make_tiny_zoo

# Tests choose the runtime themselves only in tests/models/runtime. Elsewhere the faster one would be chosen by chance.
os.environ.setdefault("SFDDM_PROVIDER", "CPUExecutionProvider")

# An example may take long beside a training or another worker, so its time says nothing.
settings.register_profile("sfddm", deadline=None)
settings.register_profile("fast", deadline=None, max_examples=20)  # of `make test-fast`
settings.load_profile("sfddm")


@pytest.fixture(scope="session", autouse=True)
def _calibrations_of_this_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the calibrations of this run in a folder of its own, not in the cache of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SFDDM_CACHE_DIR", str(shared_root(tmp_path_factory) / "cache"))
        yield


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """Undo the logging that a command configured in this process: later tests capture the log of a service."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def tiny_zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a zoo folder with the models of tests.tiny. It is read-only by agreement: copy it before you break it."""
    return make_tiny_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="session")
def tiny_catalogue(tiny_zoo: Path) -> Catalogue:
    """Discover the tiny zoo; nothing in it is refused."""
    catalogue = discover([tiny_zoo])
    assert not catalogue.refusals
    return catalogue


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Name the event loop of tests marked `anyio`."""
    return "asyncio"


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Run a redis-server for the whole session."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()
