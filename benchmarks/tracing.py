"""Measure what traces cost a server: the processor time to make, encode and send a request's four spans to a collector.

python -m benchmarks.tracing
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from benchmarks.common import machine, print_table, save
from service.observability.tracing import Phase, Tracing

_BETWEEN_S = 0.002  # between two requests: spans that are made faster than they can be sent are dropped
_ROUTE = "/v1/images/generations"
_HEADERS = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}


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
    parser.add_argument("--requests", type=int, default=500, help="requests in one round")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    about = machine()
    collector = HTTPServer(("127.0.0.1", 0), _Sink)
    sink = multiprocessing.get_context("fork").Process(target=collector.serve_forever, daemon=True)
    sink.start()
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{collector.server_port}"
    os.environ["OTEL_BSP_SCHEDULE_DELAY"] = "200"  # milliseconds; short, so that a round includes sending its own spans
    tracing = Tracing("benchmark")
    _requests(tracing, arguments.requests)  # imports, connections
    spent = [1000 * _requests(tracing, arguments.requests) / arguments.requests for _ in range(arguments.rounds)]
    tracing.shut_down()
    sink.terminate()
    columns = ["rounds", "processor ms a request, median", "lowest", "highest"]
    rows = [[len(spent), statistics.median(spent), min(spent), max(spent)]]
    print_table(columns, rows)
    save(arguments.json, {"machine": about, "columns": columns, "rows": rows})


def _requests(tracing: Tracing, requests: int) -> float:
    """Trace so many requests; return the processor seconds of this process, including the thread that sends."""
    before_s = time.process_time()
    for _ in range(requests):
        now_s = time.perf_counter()
        phases = [Phase(name, now_s, now_s, 0.0) for name in ("queue", "denoise", "encode")]
        facts = {"sfddm.model": "fashion-mnist/student-016", "sfddm.outcome": "ok", "sfddm.images": 1, "http.route": _ROUTE}
        tracing.begin("POST", _ROUTE, _HEADERS).end(f"POST {_ROUTE}", "ok", facts, phases)
        time.sleep(_BETWEEN_S)
    return time.process_time() - before_s


if __name__ == "__main__":
    main()
