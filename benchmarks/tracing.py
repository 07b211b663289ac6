"""What traces cost a server: processor time of a request with and without them, in turns, and a collector that takes them all.

    PYTHONPATH=. python benchmarks/tracing.py

The requests are small and their images are not recalled, so what is left of a request is mostly the service itself.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx

from benchmarks.common import cpu_seconds, free_port, machine, print_table, save, serving, zoo_of

MODEL = "fashion-mnist/student-004"
_TIMEOUT_S = 60.0


class _Sink(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--requests", type=int, default=100, help="in one round")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    about = machine()
    sink = ThreadingHTTPServer(("127.0.0.1", 0), _Sink)
    threading.Thread(target=sink.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{sink.server_port}"
    port, traced_port = free_port(), free_port()
    with (
        zoo_of([MODEL]) as zoo,
        serving(_command(zoo, port), port, "/readyz", {"SFDDM_LOG_LEVEL": "warning"}) as plain,
        serving(
            _command(zoo, traced_port),
            traced_port,
            "/readyz",
            {"SFDDM_LOG_LEVEL": "warning", "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint},
        ) as traced,
        httpx.Client(timeout=_TIMEOUT_S) as client,
    ):
        spent: dict[str, list[float]] = {plain.url: [], traced.url: []}
        for _ in range(arguments.rounds):
            for server in (plain, traced):
                before_s = cpu_seconds(server.pid)
                for _ in range(arguments.requests):
                    client.post(f"{server.url}/v1/images/generations", json={}).raise_for_status()
                spent[server.url].append(1000 * (cpu_seconds(server.pid) - before_s) / arguments.requests)
    without, with_traces = (spent[server.url] for server in (plain, traced))
    extra = [after - before for before, after in zip(without, with_traces, strict=True)]
    columns = ["processor ms a request, median of the rounds", "lowest", "highest"]
    rows = [
        [name, statistics.median(values), min(values), max(values)]
        for name, values in (("without traces", without), ("with", with_traces), ("difference", extra))
    ]
    print_table(["", *columns], rows)
    save(arguments.json, {"machine": about, "columns": columns, "rows": rows})
    sink.shutdown()


def _command(zoo: Path, port: int) -> list[str]:
    call = "from service.cli import main; main()"
    return [sys.executable, "-c", call, "serve", "--zoo", str(zoo), "--port", str(port), "--threads", "1"]


if __name__ == "__main__":
    main()
