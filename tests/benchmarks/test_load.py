"""The load generator: arrivals depend on the seed alone, and latencies include all waiting."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from benchmarks.load import Arrival, Outcome, closed_loop, open_loop, poisson, summary


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        body = b'{"timing": {"total_s": 3.0, "estimated_s": 2.0}}' if self.path == "/ours" else b"{}"
        self.send_response(503 if self.path == "/full" else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    """Run a server that answers one connection after the other; return its url."""
    server = HTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_arrivals_depend_on_the_seed_and_on_no_other_tag() -> None:
    both = poisson({"a": 50.0, "b": 20.0}, 100.0, seed=1)
    assert both == sorted(both)
    assert [arrival for arrival in both if arrival[1] == "a"] == poisson({"a": 50.0}, 100.0, seed=1)
    assert both != poisson({"a": 50.0, "b": 20.0}, 100.0, seed=2)
    counts = {tag: sum(name == tag for _, name in both) for tag in "ab"}
    assert abs(counts["a"] - 5000) < 5 * 5000**0.5  # five standard deviations
    assert abs(counts["b"] - 2000) < 5 * 2000**0.5


def test_every_request_of_an_open_loop_is_accounted_for_from_its_intended_time(url: str) -> None:
    load = open_loop(
        [
            Arrival(0.0, "fine", f"{url}/", {"seed": 1}),
            Arrival(-5.0, "late", f"{url}/", {"seed": 2}),  # should have left five seconds before the start
            Arrival(0.0, "full", f"{url}/full", {"seed": 3}),
            Arrival(0.0, "ours", f"{url}/ours", {"seed": 4}),
        ]
    )
    late = load.of("late")[0]
    assert late.latency_s >= late.lag_s >= 5.0
    assert {outcome.tag: outcome.status for outcome in load.outcomes} == {"fine": 200, "late": 200, "full": 503, "ours": 200}
    assert {outcome.tag: outcome.ratio for outcome in load.outcomes} == {"fine": None, "late": None, "full": None, "ours": 1.5}
    assert load.client_cpu_s > 0


def test_a_closed_loop_keeps_its_clients_busy_and_counts_a_server_that_is_gone(url: str) -> None:
    load = closed_loop(url, [{"n": 1}], 1, 0.2, "x")
    assert load.outcomes
    assert {outcome.status for outcome in load.outcomes} == {200}
    assert {o.status for o in closed_loop("http://127.0.0.1:9", [{}], 2, 0.0).outcomes} == {0}


def test_a_summary_counts_answers_and_good_answers() -> None:
    outcomes = [Outcome("", 0.0, latency, 0.0, 200) for latency in (0.1, 0.2, 0.3, 2.0)] + [Outcome("", 0.0, 0.1, 0.0, 429)]
    told = summary(outcomes, seconds=2.0, objective_s=1.0)
    assert told["offered"] == 2.5
    assert told["throughput"] == 2.0
    assert told["goodput"] == 1.5
    assert told["failed"] == pytest.approx(0.2)
    assert told["p50_s"] == pytest.approx(0.25)
    assert "estimate_ratio" not in told


def test_promises_are_judged_by_what_became_of_them() -> None:
    told = summary([Outcome("", 0.0, 1.0, 0.0, 200, ratio) for ratio in (0.5, 0.9, 1.0, 3.0)], 1.0, 1.0)
    assert told["estimate_ratio"] == pytest.approx(0.95)
    assert told["estimate_error"] == pytest.approx(0.3)  # of 0.5, 0.1, 0 and 2
    assert told["estimate_coverage"] == 0.75
