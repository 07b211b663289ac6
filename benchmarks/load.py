"""The load generator of every benchmark. It runs in a separate process, so that its own CPU time can be reported.

Open loop: requests are sent at times drawn before the run, whether or not earlier ones were answered. A latency counts from
the time at which the request should have been sent, so a server or client that stalls cannot hide the requests that it
delayed. Closed loops do hide them ("coordinated omission", Tene 2013).

Closed loop: a fixed number of clients, each with one request at a time and at least one in all; for throughput at saturation.

    python -m benchmarks.load --self-test      the generator's own lag and CPU time per request, against an empty handler
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import httpx
import numpy as np

from benchmarks.common import ROOT, print_table

_TIMEOUT_S = 600.0  # long enough for every queue that a benchmark builds up


@dataclass(frozen=True)
class Arrival:
    """A request to send: its time (seconds from the start), the tag to count it under, its url and its body."""

    at_s: float
    tag: str
    url: str
    body: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a request: its latency from the intended time, and lag_s, by how much the generator sent it late.

    ratio: time to the images over the server's estimate, both from its answer; None where the answer has none.
    """

    tag: str
    at_s: float
    latency_s: float
    lag_s: float
    status: int
    ratio: float | None = None


@dataclass(frozen=True)
class Load:
    """A finished load: its outcomes, how long it took, and the generator's CPU time, both in seconds."""

    outcomes: list[Outcome]
    wall_s: float
    client_cpu_s: float

    def of(self, tag: str) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.tag == tag]


def poisson(rates: Mapping[str, float], seconds: float, seed: int) -> list[tuple[float, str]]:
    """Draw arrival times and tags in order: an independent Poisson process for each tag at its rate per second."""
    arrivals = []
    for tag, rate in rates.items():
        source = random.Random(f"{seed}/{tag}")
        at_s = source.expovariate(rate) if rate else seconds
        while at_s < seconds:
            arrivals.append((at_s, tag))
            at_s += source.expovariate(rate)
    return sorted(arrivals)


def open_loop(arrivals: Sequence[Arrival]) -> Load:
    """Send each request at its time, from another process; return when the last is answered."""
    return _elsewhere({"arrivals": [asdict(arrival) for arrival in arrivals]})


def closed_loop(url: str, bodies: Sequence[Mapping[str, Any]], concurrency: int, seconds: float, tag: str = "") -> Load:
    """Run `concurrency` clients for `seconds` in another process; they send the bodies in turn."""
    return _elsewhere({"url": url, "bodies": list(bodies), "concurrency": concurrency, "seconds": seconds, "tag": tag})


def summary(outcomes: Sequence[Outcome], seconds: float, objective_s: float) -> dict[str, float]:
    """Summarise outcomes: throughput, goodput (answers within the objective), latency percentiles and the share of failures.

    Rates are per second, latencies in seconds. Where answers have estimates, `promises` says how good these were.
    """
    good = [outcome.latency_s for outcome in outcomes if outcome.status == 200]
    p50, p95, p99 = np.percentile(good, [50, 95, 99]).tolist() if good else [float("nan")] * 3
    return {
        "offered": len(outcomes) / seconds,
        "throughput": len(good) / seconds,
        "goodput": sum(latency <= objective_s for latency in good) / seconds,
        "p50_s": p50,
        "p95_s": p95,
        "p99_s": p99,
        "failed": 1 - len(good) / len(outcomes) if outcomes else 0.0,
        **promises([outcome.ratio for outcome in outcomes if outcome.ratio is not None]),
    }


def promises(ratios: Sequence[float]) -> dict[str, float]:
    """Return the median of the ratios time / estimate, their median error (distance from 1), and the share of at most 1."""
    if not ratios:
        return {}
    found = np.asarray(ratios)
    return {
        "estimate_ratio": float(np.median(found)),
        "estimate_error": float(np.median(np.abs(found - 1))),
        "estimate_coverage": float((found <= 1).mean()),
    }


def print_promises(cells: Mapping[str, Mapping[str, float]]) -> None:
    """Print a table of `promises`, a row for each measurement that has them."""
    rows = [
        [name, *(cell[key] for key in ("estimate_ratio", "estimate_error", "estimate_coverage"))]
        for name, cell in cells.items()
        if "estimate_ratio" in cell
    ]
    if rows:
        print_table(["answers of", "time / estimate, median", "median error", "done by the estimate"], rows)


def _elsewhere(specification: Mapping[str, Any]) -> Load:
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"],
        input=json.dumps(specification),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode:
        raise RuntimeError(f"the load generator failed:\n{finished.stderr[-3000:]}")
    told = json.loads(finished.stdout)
    return Load([Outcome(*row) for row in told["outcomes"]], told["wall_s"], told["client_cpu_s"])


async def _run(specification: Mapping[str, Any]) -> dict[str, Any]:
    outcomes: list[Outcome] = []
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=_TIMEOUT_S) as client:
        start_s, cpu_s = time.perf_counter(), time.process_time()

        async def send(at_s: float, tag: str, url: str, body: Mapping[str, Any]) -> None:
            lag_s = time.perf_counter() - start_s - at_s
            ratio = None
            try:
                answer = await client.post(url, json=body)
                status = answer.status_code
            except httpx.HTTPError:
                status = 0
            latency_s = time.perf_counter() - start_s - at_s
            if status == 200:
                ratio = _ratio(answer.content)
            outcomes.append(Outcome(tag, at_s, latency_s, lag_s, status, ratio))

        if "arrivals" in specification:
            tasks = []
            for arrival in specification["arrivals"]:
                wait_s = arrival["at_s"] - (time.perf_counter() - start_s)
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                tasks.append(asyncio.create_task(send(**arrival)))
            await asyncio.gather(*tasks)
        else:
            end_s, bodies = specification["seconds"], itertools.cycle(specification["bodies"])

            async def client_loop() -> None:
                while True:
                    await send(time.perf_counter() - start_s, specification["tag"], specification["url"], next(bodies))
                    if time.perf_counter() - start_s >= end_s:
                        return

            await asyncio.gather(*(client_loop() for _ in range(specification["concurrency"])))
        wall_s, cpu_s = time.perf_counter() - start_s, time.process_time() - cpu_s
    return {"outcomes": [list(asdict(o).values()) for o in outcomes], "wall_s": wall_s, "client_cpu_s": cpu_s}


def _ratio(answer: bytes) -> float | None:
    """Return time over estimate of an answer of this project's server; None for other servers, which send no estimate."""
    if b'"estimated_s"' not in answer:
        return None
    timing = json.loads(answer)["timing"]
    return float(timing["total_s"] / timing["estimated_s"]) if timing["estimated_s"] else None


async def _self_test(seconds: float) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while header := await reader.readuntil(b"\r\n\r\n"):
            length = next(int(line[15:]) for line in header.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(length)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: application/json\r\n\r\n{}")

    def forget(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Ignore the error of a handler whose client hung up while it was reading."""

    asyncio.get_running_loop().set_exception_handler(forget)
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    rows = []
    for rate in (50.0, 200.0):
        arrivals = [Arrival(at_s, tag, url, {"seed": 0}) for at_s, tag in poisson({"empty": rate}, seconds, seed=0)]
        load = await asyncio.to_thread(open_loop, arrivals)
        lags, latencies = ([getattr(o, name) * 1000 for o in load.outcomes] for name in ("lag_s", "latency_s"))
        rows.append([rate, *np.percentile(lags, [50, 99]), *np.percentile(latencies, [50, 99])])
        rows[-1].append(1000 * load.client_cpu_s / len(load.outcomes))
    server.close()
    print_table(["requests/s", "lag p50 ms", "lag p99 ms", "latency p50 ms", "latency p99 ms", "CPU ms a request"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    if arguments.self_test:
        asyncio.run(_self_test(arguments.seconds))
    else:
        json.dump(asyncio.run(_run(json.load(sys.stdin))), sys.stdout)


if __name__ == "__main__":
    main()
