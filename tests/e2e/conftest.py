"""Fixtures that run `sfddm` as its users do: a process of its own, over the tiny zoo."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from service.cli.main import main; main()"]
PATIENCE_S = 120
SHARED = ("SFDDM_CACHE_DIR", "SFDDM_PROVIDER")


def environment(**changes: str) -> dict[str, str]:
    """Return the environment without SFDDM_ variables, except those that all tests share (SHARED) and `changes`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SFDDM_") or name in SHARED}
    return kept | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"} | changes


def sfddm(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, env=environment(**changes), timeout=PATIENCE_S, check=False
    )


@dataclass(frozen=True)
class Server:
    """A running `sfddm serve`."""

    process: subprocess.Popen[str]
    url: str
    log: Path


@contextmanager
def serving(log: Path, *arguments: str, program: Sequence[str] = COMMAND, **changes: str) -> Iterator[Server]:
    """Run `sfddm serve` on a free port and enter once it is ready. SIGTERM stops it at the end if it still runs."""
    with launched(log, *arguments, program=program, **changes) as server:
        _wait_until(server, lambda: httpx.get(f"{server.url}/readyz").status_code == 200)
        yield server


@contextmanager
def launched(log: Path, *arguments: str, program: Sequence[str] = COMMAND, **changes: str) -> Iterator[Server]:
    """Run `sfddm serve` in the folder of its log and enter once it listens; models may still be loading."""
    command = [*program, "serve", "--port", "0", *arguments]
    with log.open("w") as stderr:
        process = subprocess.Popen(command, stderr=stderr, env=environment(**changes), text=True, cwd=log.parent)
    try:
        server = Server(process, "", log)
        _wait_until(server, lambda: _announced(log) is not None)
        announced = _announced(log)
        assert announced
        yield replace(server, url=announced[1])
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)


def _announced(log: Path) -> re.Match[str] | None:
    """Find the url in the log, which has one of two formats."""
    return re.search(r'(?:Serving on |"url": ")(http://\S+:\d+)/', log.read_text())


def _wait_until(server: Server, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and server.process.poll() is None:
        with suppress(httpx.TransportError):
            if condition():
                return
        time.sleep(0.02)
    raise AssertionError(f"sfddm serve did not become ready:\n{server.log.read_text()}")


@pytest.fixture(scope="session")
def server(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("serve") / "log"
    with serving(log, "--zoo", str(tiny_zoo), "--default-model", "tiny/student-008", "--threads", "1") as running:
        yield running


@pytest.fixture(scope="module")  # not longer: while Playwright's event loop runs, asynchronous tests cannot start one
def browser() -> Iterator[Browser]:
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("chromium is not installed; on Debian: apt install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE_S * 1000)
    yield context.new_page()
    context.close()
