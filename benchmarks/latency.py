"""Measure latency by step count: every model of a family through the engine, one request at a time, in turns.

    python -m benchmarks.latency                 one image a request
    python -m benchmarks.latency --n 16          sixteen images a request

After a warm-up, each round runs every model once in a new random order, so that slow moments of the machine affect all models
alike. Prints the median and the speed-up over the teacher, and writes JSON with --out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
from pathlib import Path

from models.catalogue import Catalogue, Resolved, default_zoo, discover
from models.runtime.onnx import OnnxBackend
from service.engine.config import EngineConfig
from service.engine.engine import Engine
from service.engine.request import Generation, ImageSpec
from service.observability.logs import configure_logging
from service.observability.metrics import Metrics


async def measure(catalogue: Catalogue, models: list[Resolved], n: int, repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each request, by model id."""
    engine = Engine(catalogue, OnnxBackend(), EngineConfig(max_backlog_s=1e9), Metrics())
    engine.start()
    while not engine.ready:
        await asyncio.sleep(0.05)
    seconds: dict[str, list[float]] = {model.id: [] for model in models}
    for repeat in range(-1, repeats):  # the first round is warm-up
        for model in random.Random(repeat).sample(models, len(models)):
            label = 0 if model.entry.manifest.classes else None
            images = await engine.submit(Generation(model, [ImageSpec(repeat + 1, i, label) for i in range(n)])).images()
            if repeat >= 0:
                seconds[model.id].append(max(image.timing.total_s for image in images))
    await engine.drain(1)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=default_zoo())
    parser.add_argument("--family", default="fashion-mnist")
    parser.add_argument("--n", type=int, default=1, help="images a request")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON to write")
    arguments = parser.parse_args()
    configure_logging("console", "warning")
    catalogue = discover([arguments.zoo])
    members = [entry for entry in catalogue.entries.values() if entry.manifest.family == arguments.family]
    if not members:
        parser.error(f"{arguments.zoo} has no family {arguments.family!r}")
    ordered = sorted(members, key=lambda entry: -entry.manifest.steps)
    seconds = asyncio.run(measure(catalogue, [catalogue.resolve(e.id) for e in ordered], arguments.n, arguments.repeats))
    reference = statistics.median(seconds[ordered[0].id])
    rows = [
        {
            "model": entry.id,
            "steps": entry.manifest.steps,
            "median_s": statistics.median(seconds[entry.id]),
            "fastest_s": min(seconds[entry.id]),
            "slowest_s": max(seconds[entry.id]),
            "speed_up": reference / statistics.median(seconds[entry.id]),
        }
        for entry in ordered
    ]
    print(f"| model | steps | median s, {arguments.n} image(s) | fastest | slowest | speed-up |\n|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['model']} | {row['steps']} | {row['median_s']:.3f} | {row['fastest_s']:.3f} | {row['slowest_s']:.3f} "
            f"| {row['speed_up']:.1f} |"
        )
    if arguments.out is not None:
        machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
        arguments.out.write_text(
            json.dumps({**machine, "n": arguments.n, "repeats": arguments.repeats, "rows": rows}, indent=1)
        )


if __name__ == "__main__":
    main()
