"""What the engine costs: throughput over HTTP against a bare ONNX Runtime loop, and its own time per step.

    python -m benchmarks.efficiency --out efficiency.json        about 6 minutes; run it again to go on after a stop
    python -m benchmarks.efficiency --quick                      half a minute: does it run?

Efficiency: images/s of student-16 through HTTP at saturation over images/s of a loop that only calls ONNX Runtime, at the
best of several batch sizes. Each round measures both, one after the other, in random order; the ratio is taken within the
round. Server, clients and the bare loop share the same cores, so the clients' CPU time is measured and told: `efficiency`
charges it to the server, `without clients` takes their share of the cores away from the bare loop as well.

Own time per step: process CPU time of a step through the real engine, whose network returns its input at once.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.common import Server, print_table, serving_ours, shown, spread
from benchmarks.idle import IdleBackend
from benchmarks.load import closed_loop
from models.catalogue import Catalogue, Entry, default_zoo, discover
from service.backend.onnx import OnnxBackend
from service.backend.probe import probe_inputs
from service.engine.config import EngineConfig
from service.engine.engine import Engine
from service.engine.request import ImageSpec
from service.logs import configure_logging
from service.telemetry import Metrics

STUDENT, TEACHER = "fashion-mnist/student-016", "fashion-mnist/teacher"
_OWN_STEPS = 100


async def own_step_seconds(rows: int) -> float:
    """CPU seconds that one step of `rows` rows costs beside the network: a request of that many images, 100 steps each."""
    catalogue = discover([default_zoo()])
    model = catalogue.resolve(f"{TEACHER}@ddim-{_OWN_STEPS:03d}")
    config = EngineConfig(max_batch=rows, max_step_ms=1e6, max_backlog_s=1e9)
    engine = Engine(Catalogue({model.entry.id: model.entry}), IdleBackend(), config, Metrics())
    engine.start()
    while not engine.ready:
        await asyncio.sleep(0.01)
    specs = [ImageSpec(0, index, 0) for index in range(rows)]
    await engine.submit(model, specs).images()
    cpu_s = time.process_time()
    await engine.submit(model, specs).images()
    cpu_s = time.process_time() - cpu_s
    await engine.drain(1)
    return cpu_s / _OWN_STEPS


def bare_images_per_second(entry: Entry, batch: int, seconds: float, threads: int) -> float:
    """A loop that only evaluates the network, at one batch size."""
    network, inputs = OnnxBackend(threads=threads).load(entry), probe_inputs(entry, batch)
    network.step(*inputs)
    steps, start_s = 0, time.perf_counter()
    while (passed_s := time.perf_counter() - start_s) < seconds:
        network.step(*inputs)
        steps += 1
    return steps * batch / entry.manifest.steps / passed_s


def http_images_per_second(server: Server, clients: int, seconds: float) -> dict[str, float]:
    """Images/s of one-image requests once batches are full, and the CPU seconds an image costs server and clients."""
    before_s = common.cpu_seconds(server.pid)
    bodies = [{"model": STUDENT, "prompt": "", "class_label": seed % 10, "seed": seed} for seed in range(1000)]
    load = closed_loop(f"{server.url}/v1/images/generations", bodies, clients, seconds)
    server_cpu_s = common.cpu_seconds(server.pid) - before_s
    ramp_s = seconds / 4
    ended = [o.at_s + o.latency_s for o in load.outcomes if o.status == 200]
    return {
        "images_per_s": sum(ramp_s <= end <= seconds for end in ended) / (seconds - ramp_s),
        "client_cores": load.client_cpu_s / load.wall_s,
        "server_cpu_s_per_image": server_cpu_s / max(1, len(ended)),
    }


def one_round(server: Server, entry: Entry, number: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """The bare loop at each batch size and the server, in random order."""
    bare: dict[int, float] = {}
    http: dict[str, float] = {}
    parts: list[int | None] = [*arguments.batches, None]
    for batch in random.Random(number).sample(parts, len(parts)):
        if batch is None:
            http = http_images_per_second(server, arguments.clients, arguments.seconds)
        else:
            bare[batch] = bare_images_per_second(entry, batch, arguments.seconds / 2, arguments.threads)
    best = max(bare.values())
    left = 1 - http["client_cores"] / arguments.threads
    ratio = http["images_per_s"] / best
    return {"bare": bare, "http": http, "efficiency": ratio, "without_clients": ratio / left}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON to write, and to go on from")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=20.0, help="of HTTP load in a round; half as long for each bare loop")
    parser.add_argument("--clients", type=int, default=128)
    parser.add_argument("--threads", type=int, default=common.usable_cores())
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--quick", action="store_true", help="one short round, few sizes")
    arguments = parser.parse_args()
    configure_logging("console", "warning")
    sizes = [2**power for power in range(9)]
    if arguments.quick:
        arguments.rounds, arguments.seconds, arguments.batches, arguments.clients, sizes = 1, 3.0, [16], 32, [1, 16, 256]
    result = common.resume(arguments.out) or {"machine": common.machine(), "own_step_us": {}, "rounds": []}
    for rows in sizes:
        if str(rows) not in result["own_step_us"]:
            result["own_step_us"][str(rows)] = 1e6 * asyncio.run(own_step_seconds(rows))
            common.save(arguments.out, result)
    entry = discover([default_zoo()]).entries[STUDENT]
    with serving_ours([STUDENT], arguments.threads) as server:
        while len(result["rounds"]) < arguments.rounds:
            result["rounds"].append(one_round(server, entry, len(result["rounds"]), arguments))
            common.save(arguments.out, result)
    rounds = result["rounds"]
    print_table(
        ["rows", "engine's own CPU time a step, us", "us a row"],
        [[rows, us, us / int(rows)] for rows, us in result["own_step_us"].items()],
    )
    slope, constant = np.polyfit([int(rows) for rows in result["own_step_us"]], list(result["own_step_us"].values()), 1)
    print(f"\nFit: {constant:.0f} us + {slope:.1f} us a row\n")
    print_table(
        ["what", f"median of {len(rounds)} rounds (lowest - highest)"],
        [
            ["bare ONNX Runtime loop, best batch, images/s", shown(spread([max(r["bare"].values()) for r in rounds]))],
            ["over HTTP, images/s", shown(spread([r["http"]["images_per_s"] for r in rounds]))],
            ["efficiency", shown(spread([r["efficiency"] for r in rounds]))],
            ["efficiency without clients", shown(spread([r["without_clients"] for r in rounds]))],
            ["cores that the clients used", shown(spread([r["http"]["client_cores"] for r in rounds]))],
        ],
    )


if __name__ == "__main__":
    main()
