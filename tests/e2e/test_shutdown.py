"""The end of a server that has slow clients: half a body, half a header, a request too long for the drain."""

from __future__ import annotations

import json
import signal
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.conftest import PATIENCE_S, Server, serving

HEAD = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n"
PATHS = ["/v1/images/generations", "/v1/jobs", "/v2/models/tiny/teacher/infer"]
FOREVER = {"SFDDM_DRAIN_S": "100000"}  # a drain that waited for one of these clients would outlast the test


def connect(server: Server) -> socket.socket:
    address = urlsplit(server.url)
    return socket.create_connection((address.hostname, address.port), timeout=PATIENCE_S)


def everything(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Read until the server closes the connection; return status, headers and body."""
    data = b""
    while part := connection.recv(65536):
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines}, body


def options(zoo: Path) -> list[str]:
    return ["--zoo", str(zoo), "--default-model", "tiny/student-008", "--threads", "1", "--log-format", "json"]


def test_a_body_that_does_not_come_is_a_408(tiny_zoo: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "log", *options(tiny_zoo), SFDDM_BODY_TIMEOUT_S="0.2", **FOREVER) as server:
        for path in PATHS:
            for key in (b"", b"Idempotency-Key: k\r\n"):
                with connect(server) as connection:
                    connection.sendall(HEAD % path.encode() + key + b"\r\n" + b'{"seed":')
                    status, headers, body = everything(connection)
                assert (status, headers["connection"]) == (408, "close")
                error = json.loads(body)["error"]
                if path.startswith("/v1"):
                    assert (error["type"], error["code"]) == ("invalid_request_error", "body_timeout")
                    error = error["message"]
                assert "did not come within 0.2 s" in error
                assert headers["x-request-id"]
        with connect(server) as trickling:
            trickling.sendall(HEAD % PATHS[0].encode() + b"\r\n")
            trickling.settimeout(0.05)
            sent = 0
            while sent < 900:  # a byte now and then does not buy more time
                try:
                    if trickling.recv(1, socket.MSG_PEEK):
                        break
                except TimeoutError:
                    trickling.sendall(b" ")
                    sent += 1
            trickling.settimeout(PATIENCE_S)
            assert everything(trickling)[0] == 408


@pytest.mark.parametrize("path", PATHS)
def test_a_drain_does_not_wait_for_half_a_request(tiny_zoo: Path, tmp_path: Path, path: str) -> None:
    with (
        serving(tmp_path / "log", *options(tiny_zoo), SFDDM_BODY_TIMEOUT_S="100000", **FOREVER) as server,
        connect(server) as half,
        connect(server) as header,
        connect(server) as silent,
    ):
        half.sendall(HEAD % path.encode() + b"\r\n" + b'{"seed":')
        header.sendall(b"POST /v1/images/generations HTTP/1.1\r\nHost:")
        _wait_until_read(server)
        server.process.send_signal(signal.SIGTERM)
        status, headers, body = everything(half)
        assert (status, headers["connection"]) == (503, "close")
        assert "shutting down" in json.loads(body)["error"]["message" if path.startswith("/v1") else slice(None)]
        assert header.recv(1) == b"", "closed without an answer: there is no request yet"
        assert silent.recv(1) == b""
        assert server.process.wait(PATIENCE_S) == 0
    assert "Traceback" not in server.log.read_text()


ENDLESS = {
    "/v1/images/generations": {"model": "tiny/teacher", "n": 512},
    "/v1/comparisons": {"models": ["tiny/teacher", "tiny/teacher@ddpm-032"], "n": 512, "repeats": 20},
}


@pytest.mark.parametrize("path", ENDLESS)
def test_what_is_left_at_the_end_of_the_drain_is_told_so(tiny_zoo: Path, tmp_path: Path, path: str) -> None:
    """Stop a busy server whose drain lasts 0 s: the answer is a 503, and the process ends."""
    body = json.dumps(ENDLESS[path]).encode()
    more = ["--max-n", "512", "--max-batch", "1"]
    with serving(tmp_path / "log", *options(tiny_zoo), *more, SFDDM_DRAIN_S="0") as server, connect(server) as connection:
        connection.sendall(HEAD.replace(b"1000", b"%d") % (path.encode(), len(body)) + b"\r\n" + body)
        _wait_for_work(server)
        server.process.send_signal(signal.SIGTERM)
        status, _, answer = everything(connection)
        assert (status, json.loads(answer)["error"]["type"]) == (503, "unavailable_error")
        assert server.process.wait(PATIENCE_S) == 0
    assert "Traceback" not in server.log.read_text()
    draining, ran_out = _drain_events(server)
    assert (draining["event"], draining["drain_s"]) == ("draining", 0)
    if path == "/v1/images/generations":  # a comparison has nothing in the engine between two of its requests
        assert draining["requests"] == 1
        assert draining["left_s"] > 0
        assert (ran_out["event"], ran_out["level"], ran_out["requests"]) == ("drain_ran_out", "warning", 1)
        assert 1 <= ran_out["rows"] <= draining["rows"] <= 512


def test_a_drain_with_nothing_left_says_so(tiny_zoo: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "log", *options(tiny_zoo)) as server:
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE_S) == 0
    draining, drained = _drain_events(server)
    assert (draining["requests"], draining["rows"], draining["drain_s"]) == (0, 0, 30)
    assert drained["event"] == "drained"


def _drain_events(server: Server) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in server.log.read_text().splitlines()]
    return [event for event in events if event["event"].startswith("drain")]


def _wait_until_read(server: Server) -> None:
    """Wait until the server has read what was sent before: it reads connections in the order in which bytes arrive."""
    for _ in range(3):
        with connect(server) as connection:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert everything(connection)[0] == 200


def _wait_for_work(server: Server) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with connect(server) as connection:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            if b"sfddm_running_rows 0.0" not in everything(connection)[2]:
                return
        assert time.monotonic() < deadline
