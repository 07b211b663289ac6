"""`sfddm serve` as a process: an image over HTTP, the end by SIGTERM, and each reason not to start."""

from __future__ import annotations

import io
import json
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.e2e.conftest import PATIENCE_S, Server, environment, serving, sfddm


def test_one_request_gives_an_image_file(server: Server) -> None:
    response = httpx.post(
        f"{server.url}/v1/images/generations", json={"prompt": "cat", "seed": 7}, headers={"accept": "image/png"}
    )
    image = Image.open(io.BytesIO(response.content))
    assert (image.format, image.size) == ("PNG", (8, 8))
    assert response.headers["x-model"] == "tiny/student-008"


def test_sigterm_finishes_what_runs(tiny_zoo: Path, tmp_path: Path) -> None:
    options = ("--zoo", str(tiny_zoo), "--max-n", "512", "--max-batch", "1", "--threads", "1", "--log-format", "json")
    with serving(tmp_path / "log", *options, SFDDM_DRAIN_S="300") as server, ThreadPoolExecutor(1) as pool:
        body = {"model": "tiny/teacher", "n": 128}  # 4096 evaluations
        running = pool.submit(httpx.post, f"{server.url}/v1/images/generations", json=body, timeout=PATIENCE_S)
        _wait_for_work(server)
        assert not running.done()
        server.process.send_signal(signal.SIGTERM)
        _wait_for_draining(server)
        refused = httpx.post(f"{server.url}/v1/images/generations", json={})
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "unavailable_error")
        assert 1 <= int(refused.headers["retry-after"]) <= 120
        assert httpx.get(f"{server.url}/livez").status_code == 200
        assert not running.done()
        response = running.result(PATIENCE_S)
        assert response.status_code == 200
        assert len(response.json()["data"]) == 128
        assert server.process.wait(PATIENCE_S) == 0
    events = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    assert any(event["event"] == "request" and event["status"] == 200 and "request_id" in event for event in events)
    assert "Traceback" not in server.log.read_text()


def _wait_for_work(server: Server) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while "sfddm_running_rows 0.0" in httpx.get(f"{server.url}/metrics").text:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _wait_for_draining(server: Server) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while httpx.get(f"{server.url}/readyz").status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_stream_outlives_sigterm(tiny_zoo: Path, tmp_path: Path) -> None:
    options = ("--zoo", str(tiny_zoo), "--max-n", "512", "--max-batch", "1", "--threads", "1")
    body = {"model": "tiny/teacher", "n": 128, "stream": True}
    with (
        serving(tmp_path / "log", *options, SFDDM_DRAIN_S="300") as server,
        httpx.stream("POST", f"{server.url}/v1/images/generations", json=body, timeout=PATIENCE_S) as response,
    ):
        lines = response.iter_lines()
        assert next(lines) == "event: image_generation.completed"
        server.process.send_signal(signal.SIGTERM)
        rest = list(lines)
        assert sum(line == "event: image_generation.completed" for line in rest) == 127
        assert server.process.wait(PATIENCE_S) == 0


def test_a_taken_port_is_one_sentence(tiny_zoo: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = sfddm("serve", "--zoo", str(tiny_zoo), "--port", str(port))
    _is_one_sentence(result.returncode, result.stderr, f"Cannot listen on 127.0.0.1:{port}: address already in use")


def test_nothing_to_serve_is_one_sentence(tmp_path: Path) -> None:
    result = sfddm("serve", "--port", "0", "--zoo", str(tmp_path))
    _is_one_sentence(result.returncode, result.stderr, "No model to serve")


def test_a_setting_out_of_range_is_one_sentence() -> None:
    result = sfddm("serve", SFDDM_MAX_N="0")
    _is_one_sentence(result.returncode, result.stderr, "max_n")


@pytest.mark.parametrize(
    ("options", "changes", "says"),
    [
        (["--log-format", "json"], {"SFDDM_MAX_N": "0"}, "max_n: must be at least 1"),
        ([], {"SFDDM_LOG_FORMAT": "JSON", "SFDDM_ADMIN_TOKEN": "sekret"}, "admin_token: must have at least 16 characters"),
        (["--zoo", "nowhere"], {"SFDDM_LOG_FORMAT": "json"}, "No model to serve"),
    ],
)
def test_what_keeps_a_json_server_from_starting_is_json(options: list[str], changes: dict[str, str], says: str) -> None:
    result = sfddm("serve", "--port", "0", *options, **changes)
    event = json.loads(result.stderr.splitlines()[-1])
    assert [json.loads(line)["level"] for line in result.stderr.splitlines()].count("error") == 1
    assert (result.returncode, event["event"], event["level"]) == (1, "not_started", "error")
    assert says in event["reason"]
    assert "sekret" not in result.stderr


def test_every_line_of_a_json_server_is_json(tiny_zoo: Path, tmp_path: Path) -> None:
    options = ("--zoo", str(tiny_zoo), "--threads", "1", "--log-format", "json")
    with serving(tmp_path / "log", *options, SFDDM_LOG_LEVEL="INFO") as server:
        httpx.get(f"{server.url}/v1/models")
    events = [json.loads(line)["event"] for line in server.log.read_text().splitlines()]
    assert {"serving", "request"} <= set(events)


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_without_onnx_runtime_the_remedy_is_one_sentence(log_format: str) -> None:
    program = "import sys; sys.modules['onnxruntime'] = None; from service.cli.main import main; main()"
    command = [sys.executable, "-c", program, "serve", "--log-format", log_format]
    result = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=PATIENCE_S, check=False)
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1), result.stderr
    assert "ONNX Runtime is not installed; install sfddm-serve with the extra cpu" in result.stderr


def _is_one_sentence(code: int, stderr: str, says: str) -> None:
    assert code == 1
    assert stderr.startswith("Error: ")
    assert len(stderr.strip().splitlines()) == 1
    assert says in stderr
