"""`sfddm` as its users run it: a process of its own, over the tiny zoo."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from service.cli import main; main()"]
PATIENCE_S = 120


def environment(**changes: str) -> dict[str, str]:
    """The environment of a user who has set nothing but `changes`, and the runtime that all tests share."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SFDDM_") or name == "SFDDM_PROVIDER"}
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
def serving(log: Path, *arguments: str, **changes: str) -> Iterator[Server]:
    """`sfddm serve` on a free port, ready; stopped by SIGTERM if it still runs at the end."""
    command = [*COMMAND, "serve", "--port", "0", *arguments]
    with log.open("w") as stderr:
        process = subprocess.Popen(command, stderr=stderr, env=environment(**changes), text=True)
    try:
        yield Server(process, _wait_until_ready(process, log), log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)


def _wait_until_ready(process: subprocess.Popen[str], log: Path) -> str:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        announced = re.search(r"Serving on (http://\S+:\d+)/", log.read_text())
        if announced:
            try:
                if httpx.get(f"{announced[1]}/readyz").status_code == 200:
                    return announced[1]
            except httpx.TransportError:
                pass
        time.sleep(0.05)
    raise AssertionError(f"sfddm serve did not become ready:\n{log.read_text()}")


@pytest.fixture(scope="session")
def server(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("serve") / "log"
    with serving(log, "--zoo", str(tiny_zoo), "--default-model", "tiny/student-008", "--threads", "1") as running:
        yield running
