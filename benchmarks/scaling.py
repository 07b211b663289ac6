"""Measure throughput and latency against the number of clients, and memory against the number of queued requests.

    python -m benchmarks.scaling --out scaling.json       about 6 minutes; run it again to resume after a stop
    python -m benchmarks.scaling --quick                  half a minute: check that it runs

Clients: closed loops of 1 ... 512 clients that ask student-16 for one image a request. A second table shows how good the
server's estimates were.

Memory: the resident memory of a process whose engine has 0 ... 100,000 queued one-image requests while its device waits. The
slope is the cost of a queued request. No network is evaluated.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks import common
from benchmarks.common import Server, print_machine, print_table, serving_ours
from benchmarks.idle import IdleBackend
from benchmarks.load import closed_loop, print_promises, summary
from models.catalogue import Catalogue, default_zoo, discover
from service.engine.config import EngineConfig
from service.engine.engine import Engine
from service.engine.request import Generation, ImageSpec
from service.observability.logs import configure_logging
from service.observability.metrics import Metrics

STUDENT = "fashion-mnist/student-016"
OBJECTIVE_S = 1.0


async def resident_bytes(counts: Sequence[int]) -> dict[int, int]:
    """Return the resident memory of this process by the number of one-image requests queued."""
    configure_logging("console", "warning")
    catalogue, backend = discover([default_zoo()]), IdleBackend()
    model = catalogue.resolve(STUDENT)
    engine = Engine(Catalogue({model.entry.id: model.entry}), backend, EngineConfig(max_backlog_s=1e12), Metrics())
    engine.start()
    while not engine.ready:
        await asyncio.sleep(0.01)
    backend.going.clear()
    process, found, tickets = psutil.Process(), {}, []
    for count in counts:
        while len(tickets) < count:
            tickets.append(engine.submit(Generation(model, [ImageSpec(len(tickets), 0, 0)])))
        await asyncio.sleep(0.1)
        gc.collect()
        found[count] = process.memory_info().rss
    backend.going.set()
    await engine.drain(0)
    return found


def memory(counts: Sequence[int]) -> dict[str, int]:
    """Run `resident_bytes` in a fresh process."""
    call = f"asyncio.run(resident_bytes({list(counts)}))"
    code = f"import asyncio, json; from benchmarks.scaling import resident_bytes; print(json.dumps({call}))"
    finished = subprocess.run([sys.executable, "-c", code], cwd=common.ROOT, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise RuntimeError(f"the memory measurement failed:\n{finished.stderr[-3000:]}")
    return dict(json.loads(finished.stdout.splitlines()[-1]))


def clients(server: Server, count: int, seconds: float) -> dict[str, Any]:
    """Measure throughput and latency with `count` clients. Only answers after the first quarter count."""
    bodies = [{"model": STUDENT, "prompt": "", "class_label": seed % 10, "seed": seed} for seed in range(1000)]
    load = closed_loop(f"{server.url}/v1/images/generations", bodies, count, seconds)
    ramp_s = seconds / 4
    late = [o for o in load.outcomes if ramp_s <= o.at_s + o.latency_s <= seconds]
    return {**summary(late, seconds - ramp_s, OBJECTIVE_S), "client_cores": load.client_cpu_s / load.wall_s}


def report(result: Mapping[str, Any]) -> None:
    """Print the result as Markdown tables."""
    print_machine(result)
    columns = ["clients", "images/s", "p50 s", "p95 s", "p99 s", "failed", "client cores"]
    wanted = ("throughput", "p50_s", "p95_s", "p99_s", "failed", "client_cores")
    print_table(columns, [[count, *(cell[key] for key in wanted)] for count, cell in result["clients"].items()])
    print()
    print_promises({f"{count} clients": cell for count, cell in result["clients"].items()})
    print()
    base = result["memory"]["0"]
    print_table(
        ["queued requests", "resident MiB", "bytes a request"],
        [[n, rss / 2**20, (rss - base) / int(n) if int(n) else "-"] for n, rss in result["memory"].items()],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON to write, and to resume from")
    parser.add_argument("--seconds", type=float, default=30.0, help="seconds at each number of clients")
    parser.add_argument("--threads", type=int, default=common.usable_cores())
    parser.add_argument("--quick", action="store_true", help="few clients, few requests, short")
    arguments = parser.parse_args()
    numbers, counts = [2**power for power in range(10)], [0, 1_000, 10_000, 100_000]
    if arguments.quick:
        numbers, counts, arguments.seconds = [1, 8], [0, 1_000, 5_000], 3.0
    result = common.resume(arguments.out) or {"machine": common.machine(), "memory": {}, "clients": {}}
    if not result["memory"]:
        result["memory"] = memory(counts)
        common.save(arguments.out, result)
    with serving_ours([STUDENT], arguments.threads) as server:
        for count in numbers:
            if str(count) not in result["clients"]:
                result["clients"][str(count)] = clients(server, count, arguments.seconds)
                common.save(arguments.out, result)
    report(result)


if __name__ == "__main__":
    main()
