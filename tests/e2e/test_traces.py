"""OpenTelemetry: the spans that a real server sends to a collector, and a server whose collector is away."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import PATIENCE_S, Server, serving

PROTOCOL = "opentelemetry.proto.collector.trace.v1.trace_service_pb2"
trace_service_pb2 = pytest.importorskip(PROTOCOL, reason="pip install '.[otel]'")
URL = "/v1/images/generations"
CALLER = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}


class Collector:
    """An OTLP/HTTP receiver that keeps the spans it gets."""

    def __init__(self) -> None:
        self.resources: list[dict[str, Any]] = []
        self.spans: list[Any] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                request = trace_service_pb2.ExportTraceServiceRequest()
                request.ParseFromString(self.rfile.read(int(self.headers["content-length"])))
                for group in request.resource_spans:
                    collector.resources.append(attributes(group.resource))
                    collector.spans += [span for scope in group.scope_spans for span in scope.spans]
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def trace(self, trace_id: str) -> dict[str, Any]:
        """Return the spans of one trace by name."""
        return {span.name: span for span in self.spans if span.trace_id.hex() == trace_id}


def attributes(of: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in of.attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    running = Collector()
    yield running
    running.server.shutdown()
    running.server.server_close()


def logged(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]


def requests_of(server: Server) -> list[dict[str, Any]]:
    return [event for event in logged(server) if event["event"] == "request"]


def options(zoo: Path) -> tuple[str, ...]:
    return ("--zoo", str(zoo), "--threads", "1", "--log-format", "json", "--default-model", "tiny/student-008")


def test_a_request_is_a_span_and_its_phases_are_its_children(collector: Collector, tiny_zoo: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "log", *options(tiny_zoo), OTEL_EXPORTER_OTLP_ENDPOINT=collector.url) as server:
        with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client:
            assert client.post(URL, json={"model": "tiny/teacher", "n": 2}, headers=CALLER).status_code == 200
            streamed = client.post(URL, json={"n": 3, "stream": True, "partial_images": 2})
            assert streamed.text.count("event: image_generation.completed") == 3
            assert client.post(URL, json={"prompt": "a house"}).status_code == 400
            client.get("/metrics")
        assert server.process.poll() is None
    # The server has ended, so every span has arrived. The log lines are told apart by their contents, not by their order:
    # the line of a stream may come after that of the next request.
    said = {(line["outcome"], line.get("images")): line for line in requests_of(server)}
    plain, stream, refused = said["ok", 2], said["ok", 3], said["invalid", None]
    assert plain["trace_id"] == "ab" * 16
    for line in (plain, stream):
        spans = collector.trace(line["trace_id"])
        assert spans.keys() == {f"POST {URL}", "queue", "denoise", "encode"}
        root = spans.pop(f"POST {URL}")
        known = attributes(root)
        assert (known["http.response.status_code"], known["http.route"], known["sfddm.outcome"]) == (200, URL, "ok")
        assert (known["sfddm.model"], known["sfddm.images"]) == (line["model"], line["images"])
        assert known["sfddm.request_id"] == line["request_id"]
        for span in spans.values():
            assert span.parent_span_id == root.span_id
            assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
            assert span.end_time_unix_nano <= root.end_time_unix_nano
        assert spans["queue"].end_time_unix_nano == spans["denoise"].start_time_unix_nano
    assert collector.trace(plain["trace_id"])[f"POST {URL}"].parent_span_id.hex() == "cd" * 8
    assert attributes(collector.trace(refused["trace_id"])[f"POST {URL}"])["sfddm.outcome"] == "invalid"
    assert len(collector.spans) == 9  # one span a phase, however many images and previews; none for /readyz and /metrics
    assert {resource["service.name"] for resource in collector.resources} == {"sfddm"}


def test_the_variables_of_opentelemetry_are_honoured(collector: Collector, tiny_zoo: Path, tmp_path: Path) -> None:
    changes = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.url}/v1/traces", "OTEL_SERVICE_NAME": "cats"}
    with serving(tmp_path / "log", *options(tiny_zoo), **changes) as server:
        unsampled = CALLER["traceparent"].removesuffix("01") + "00"
        httpx.post(server.url + URL, json={}, headers={"traceparent": unsampled}, timeout=PATIENCE_S)
        httpx.get(f"{server.url}/v1/models/tiny/teacher")
    assert {resource["service.name"] for resource in collector.resources} == {"cats"}
    assert [span.name for span in collector.spans] == ["GET /v1/models/{model_id:id}"]
    assert requests_of(server)[0]["trace_id"] == "ab" * 16


def test_a_collector_that_is_away_is_a_line_in_the_log(collector: Collector, tiny_zoo: Path, tmp_path: Path) -> None:
    collector.server.server_close()
    changes = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    with serving(tmp_path / "log", *options(tiny_zoo), **changes) as server:
        deadline = time.monotonic() + PATIENCE_S
        while not (said := [event for event in logged(server) if event["event"] == "traces"]):
            assert httpx.post(server.url + URL, json={}, timeout=PATIENCE_S).status_code == 200
            assert time.monotonic() < deadline
        for _ in range(50):
            assert httpx.get(f"{server.url}/v1/models").status_code == 200
    said = [re.sub(r"[0-9.]+s", "", event["message"]) for event in logged(server) if event["event"] == "traces"]
    assert said
    assert len(said) == len(set(said))  # each message once a minute
    assert "Traceback" not in server.log.read_text()
    assert server.process.wait(PATIENCE_S) == 0
