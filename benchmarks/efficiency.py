"""Measure the cost of the engine: throughput over HTTP against a bare ONNX Runtime loop, and its own time per step.

    python -m benchmarks.efficiency --out efficiency.json        about 6 minutes; run it again to resume after a stop
    python -m benchmarks.efficiency --quick                      half a minute: check that it runs

Efficiency is a ratio: images/s of student-16 through HTTP at saturation, divided by images/s of a loop that only calls ONNX
Runtime, at the best of several batch sizes.

- Each round measures both, one after the other, in random order. The ratio is taken within the round.
- The server's images are counted in steps, by its metrics at both ends of the window: finished images arrive in bunches, as
  many as a batch holds. Every request must be answered.
- Server, clients and bare loop share the same cores, so the clients' CPU time is reported. `efficiency` charges it to the
  server; `without clients` takes their share of the cores away from the bare loop as well.
- CPU time per image is the cost of serving, and other processes hardly change it. The rest of the difference is idle time,
  for instance of a core that waits for the other core.

Own time per step: process CPU time of a step through the real engine, whose network returns its input at once.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import common
from benchmarks.common import Server, print_machine, print_table, serving_ours, shown, spread
from benchmarks.idle import IdleBackend
from benchmarks.load import Load, closed_loop
from models.catalogue import Catalogue, Entry, default_zoo, discover
from models.runtime.choose import PROVIDERS, choose_backend
from models.runtime.onnx import CPU
from models.runtime.probe import probe_inputs
from service.engine.config import EngineConfig
from service.engine.engine import Engine
from service.engine.request import Generation, ImageSpec
from service.observability.logs import configure_logging
from service.observability.metrics import Metrics

STUDENT, TEACHER = "fashion-mnist/student-016", "fashion-mnist/teacher"
_OWN_STEPS = 100


async def own_step_seconds(rows: int) -> float:
    """Measure the CPU seconds of a step of `rows` rows without its network: one request of so many images, 100 steps each."""
    catalogue = discover([default_zoo()])
    model = catalogue.resolve(f"{TEACHER}@ddim-{_OWN_STEPS:03d}")
    config = EngineConfig(max_batch=rows, max_step_ms=1e6, max_backlog_s=1e9)
    engine = Engine(Catalogue({model.entry.id: model.entry}), IdleBackend(), config, Metrics())
    engine.start()
    while not engine.ready:
        await asyncio.sleep(0.01)
    specs = [ImageSpec(0, index, 0) for index in range(rows)]
    await engine.submit(Generation(model, specs)).images()
    cpu_s = time.process_time()
    await engine.submit(Generation(model, specs)).images()
    cpu_s = time.process_time() - cpu_s
    await engine.drain(1)
    return cpu_s / _OWN_STEPS


def bare_loop(entry: Entry, batch: int, seconds: float, threads: int, provider: str) -> dict[str, float]:
    """Measure images/s and CPU seconds per image of a loop that only evaluates the network, at one batch size."""
    network, inputs = choose_backend(provider, threads=threads).load(entry), probe_inputs(entry, batch)
    network.prepare([batch])
    network.step(**inputs)
    steps, start_s, cpu_s = 0, time.perf_counter(), time.process_time()
    while (passed_s := time.perf_counter() - start_s) < seconds:
        network.step(**inputs)
        steps += 1
    images = steps * batch / entry.manifest.steps
    return {"images_per_s": images / passed_s, "cpu_s_per_image": (time.process_time() - cpu_s) / images}


def at_saturation(server: Server, clients: int, seconds: float, steps: int) -> dict[str, float]:
    """Measure images/s of one-image requests in the last three quarters of the load, and where the time went.

    Raises RuntimeError when a request was not answered.
    """
    bodies = [{"model": STUDENT, "prompt": "", "class_label": seed % 10, "seed": seed} for seed in range(1000)]
    loads: list[Load] = []
    url = f"{server.url}/v1/images/generations"
    load = threading.Thread(target=lambda: loads.append(closed_loop(url, bodies, clients, seconds)))
    load.start()
    time.sleep(seconds / 4)
    before = _reading(server)
    time.sleep(seconds * 3 / 4)
    passed = {name: value - before[name] for name, value in _reading(server).items()}
    load.join()
    failed = sum(outcome.status != 200 for outcome in loads[0].outcomes) if loads else clients
    if failed:
        raise RuntimeError(f"{failed} requests were not answered; the others say nothing about efficiency")
    images = passed["row_steps"] / steps
    return {
        "images_per_s": images / passed["clock_s"],
        "client_cores": loads[0].client_cpu_s / loads[0].wall_s,
        "cpu_s_per_image": passed["cpu_s"] / images,
        "rows": passed["row_steps"] / passed["batches"],
        "in_step": passed["step_s"] / passed["clock_s"],
    }


def _reading(server: Server) -> dict[str, float]:
    """Read the server's CPU time and counters."""
    wanted = {"sfddm_steps_total": "row_steps", "sfddm_step_seconds_sum": "step_s", "sfddm_step_seconds_count": "batches"}
    found = dict.fromkeys(wanted.values(), 0.0)
    text = httpx.get(f"{server.url}/metrics", timeout=60).raise_for_status().text
    found |= {"clock_s": time.perf_counter(), "cpu_s": common.cpu_seconds(server.pid)}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in wanted:
                found[wanted[sample.name]] += sample.value
    return found


def one_round(server: Server, entry: Entry, number: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the bare loop at each batch size and the server, in random order."""
    bare: dict[int, dict[str, float]] = {}
    http: dict[str, float] = {}
    parts: list[int | None] = [*arguments.batches, None]
    for batch in random.Random(number).sample(parts, len(parts)):
        if batch is None:
            http = at_saturation(server, arguments.clients, arguments.seconds, entry.manifest.steps)
        else:
            bare[batch] = bare_loop(entry, batch, arguments.seconds / 2, arguments.threads, arguments.provider)
    best = max(bare.values(), key=lambda loop: loop["images_per_s"])
    left = 1 - http["client_cores"] / common.usable_cores()
    ratio = http["images_per_s"] / best["images_per_s"]
    return {"bare": bare, "best": best, "http": http, "efficiency": ratio, "without_clients": ratio / left}


def report(result: Mapping[str, Any]) -> None:
    """Print the result as Markdown tables."""
    print_machine(result)
    print_table(
        ["rows", "engine's own CPU time a step, us", "us a row"],
        [[rows, us, us / int(rows)] for rows, us in result["own_step_us"].items()],
    )
    slope, constant = np.polyfit([int(rows) for rows in result["own_step_us"]], list(result["own_step_us"].values()), 1)
    print(f"\nFit: {constant:.0f} us + {slope:.1f} us a row\n")
    rounds = result["rounds"]

    def row(name: str, part: str, field: str, unit: float = 1.0) -> list[str]:
        return [name, shown(spread([unit * (one[part] if part else one)[field] for one in rounds]))]

    print_table(
        ["what", f"median of {len(rounds)} rounds (lowest - highest)"],
        [
            row("bare ONNX Runtime loop, best batch, images/s", "best", "images_per_s"),
            row("over HTTP, images/s", "http", "images_per_s"),
            row("efficiency", "", "efficiency"),
            row("efficiency without clients", "", "without_clients"),
            row("bare loop's CPU time an image, ms", "best", "cpu_s_per_image", 1000),
            row("server's CPU time an image, ms", "http", "cpu_s_per_image", 1000),
            row("rows in a batch", "http", "rows"),
            row("share of the time in which the device was in a step", "http", "in_step"),
            row("cores that the clients used", "http", "client_cores"),
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON to write, and to resume from")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="seconds of HTTP load in a round; each bare loop takes half"
    )
    parser.add_argument("--clients", type=int, default=128)
    parser.add_argument("--threads", type=int, default=common.usable_cores())
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--provider", choices=PROVIDERS, default=CPU, help="runtime of the server and of the bare loop")
    parser.add_argument("--quick", action="store_true", help="one short round, few sizes")
    arguments = parser.parse_args()
    configure_logging("console", "warning")
    sizes = [2**power for power in range(9)]
    if arguments.quick:
        arguments.rounds, arguments.seconds, arguments.batches, arguments.clients, sizes = 1, 4.0, [16], 32, [1, 16, 256]
    result = common.resume(arguments.out) or {"machine": common.machine(), "own_step_us": {}, "rounds": []}
    for rows in sizes:
        if str(rows) not in result["own_step_us"]:
            result["own_step_us"][str(rows)] = 1e6 * asyncio.run(own_step_seconds(rows))
            common.save(arguments.out, result)
    entry = discover([default_zoo()]).entries[STUDENT]
    with serving_ours([STUDENT], arguments.threads, arguments.provider) as server:
        while len(result["rounds"]) < arguments.rounds:
            result["rounds"].append(one_round(server, entry, len(result["rounds"]), arguments))
            common.save(arguments.out, result)
    report(result)


if __name__ == "__main__":
    main()
