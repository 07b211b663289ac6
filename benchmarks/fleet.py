"""Simulate one day of a fleet of hundreds of replicas: the engine's own scheduler and admission on measured step times.

    python -m benchmarks.fleet --out fleet.json        on step times of this machine, calibrated or recalled
    python -m benchmarks.fleet --one-core              on the CPU time of one core, where this machine is busy
    python -m benchmarks.fleet --curves curves.json    on step times measured elsewhere: {model: {rows: seconds}}

benchmarks/simulation.py describes how replicas and clients behave. The day has five windows of ten minutes.

Only a sample is simulated. A window needs hundreds of replicas, which differ by chance only; --sample of them are simulated,
with their share of the arrivals. Each request goes to the less loaded of two replicas drawn at random, as a load balancer
with two choices does. The sample cannot show a failure of the whole fleet, nor a load balancer with outdated figures.

The objective: 99 % of the requests are admitted, and 99 % of the student requests (1 image each, 4 for one in ten) are
answered within one second. Bisection over the load of a replica finds how many replicas that takes; each load is simulated
in three windows.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import platform
import random
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.simulation import Mix, Tally, simulate
from models.catalogue import Catalogue, Resolved, default_zoo, discover
from models.runtime.onnx import OnnxBackend
from service.engine.calibrate import choose_buckets, sweep
from service.engine.config import EngineConfig
from service.engine.engine import Engine
from service.features.generation import by_quality
from service.observability.logs import configure_logging
from service.observability.metrics import Metrics
from service.settings.model import Settings

PEAK = 10_000.0  # images a second
DAY = {"04:00": 0.2, "08:00": 0.55, "12:00": 0.8, "16:00": 0.7, "20:00": 1.0}
LOADS = (0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)  # of the highest throughput
SIZING_SEEDS = (4000, 7, 8)  # the first is the seed of the peak window
OBJECTIVE_S = 1.0


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of the values do not exceed; nan when there are no values."""
    return sorted(values)[min(len(values) - 1, math.ceil(share * len(values)) - 1)] if values else math.nan


def good(tally: Tally) -> bool:
    """Return true when a window meets the objective."""
    answered = [seconds for values in tally.latency.values() for seconds in values]
    students = tally.latency.get("student", answered)
    return tally.refused + tally.late <= 0.01 * tally.offered and percentile(students, 0.99) <= OBJECTIVE_S


def report(tally: Tally, window_s: float, replicas: int) -> dict[str, float]:
    """Summarise a window: seconds, shares, and the mean RMSE to the teacher's own image (0 to 255)."""
    numbers: dict[str, float] = {
        "refused": tally.refused / max(1, tally.offered),
        "late": tally.late / max(1, tally.offered),
        "utilisation": tally.busy_s / (window_s * replicas),
        "wasted": tally.wasted / max(1, tally.steps),
        "estimate_median": percentile(tally.ratios, 0.5),
        "estimate_coverage": sum(ratio <= 1 for ratio in tally.ratios) / max(1, len(tally.ratios)),
        "rmse": sum(tally.quality) / max(1, len(tally.quality)),
    }
    for kind, values in tally.latency.items():
        numbers |= {f"{kind}_p50_s": percentile(values, 0.5), f"{kind}_p99_s": percentile(values, 0.99)}
    return numbers


def measured_curves(zoo: Path, ids: Sequence[str]) -> dict[str, dict[int, float]]:
    """Return the step times of these models on this machine, calibrated or recalled as in the engine."""

    async def load() -> dict[str, dict[int, float]]:
        catalogue = discover([zoo])
        settings = Settings()
        config = EngineConfig(max_batch=settings.max_batch, max_step_ms=settings.max_step_ms, cache_dir=settings.cache_dir)
        engine = Engine(Catalogue({i: catalogue.entries[i] for i in ids}), OnnxBackend(), config, Metrics())
        engine.start()
        while not engine.ready:
            if engine.failure or all(status.state == "failed" for status in engine.models.values()):
                raise SystemExit(f"no model could be loaded: {engine.models}")
            await asyncio.sleep(0.1)
        curves = {i: {rows: ms / 1000 for rows, ms in status.step_ms.items()} for i, status in engine.models.items()}
        await engine.drain(1)
        return curves

    return asyncio.run(load())


def one_core_curves(zoo: Path, ids: Sequence[str]) -> dict[str, dict[int, float]]:
    """Measure the step times of a replica with one core, in CPU seconds, which other processes hardly change."""
    catalogue, backend, config = discover([zoo]), OnnxBackend(threads=1), EngineConfig()
    curves = {}
    for model in ids:
        entry = catalogue.entries[model]
        curve = sweep(backend.load(entry), entry, config, clock=time.thread_time).curve
        curves[model] = {rows: curve[rows] for rows in choose_buckets(curve, config.max_step_ms / 1000)}
    return curves


def mixes(catalogue: Catalogue, family: str, costs: Mapping[str, dict[int, float]]) -> list[Mix]:
    """Return three kinds of traffic: students only, one teacher image in 200, and clients who want the best within a second."""
    student, teacher = catalogue.resolve(f"{family}/student-016"), catalogue.resolve(f"{family}/teacher")
    best = [model for model in by_quality(catalogue, family) if model.entry.id in costs]

    def few(chance: random.Random) -> int:
        return 4 if chance.random() < 0.1 else 1

    def with_teacher(chance: random.Random) -> tuple[Sequence[Resolved], int, float | None]:
        return ([teacher], 1, None) if chance.random() < 0.0065 else ([student], few(chance), None)

    return [
        Mix("student-016", lambda chance: ([student], few(chance), None), 16),
        Mix("student-016 and 0.5 % teacher images", with_teacher, 16 * 0.995 + 1024 * 0.005),
        Mix("the same, the teacher with weight 0.1", with_teacher, 16 * 0.995 + 1024 * 0.005, {teacher.id: 0.1}),
        Mix("auto within 1 s", lambda chance: (best, few(chance), OBJECTIVE_S), 16),
        *(
            Mix(f"{model.id} within 1 s", lambda chance, m=model: ([m], few(chance), OBJECTIVE_S), len(model.plan))  # type: ignore[misc]
            for model in (catalogue.resolve(f"{family}/{name}") for name in ("teacher@dpmpp-032",))
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=default_zoo())
    parser.add_argument("--family", default="fashion-mnist")
    parser.add_argument("--curves", type=Path, help="JSON of curves, {model: {rows: seconds}}; default: calibrate here")
    parser.add_argument("--one-core", action="store_true", help="measure curves of one core in CPU time, on a busy machine")
    parser.add_argument("--sample", type=int, default=8, help="replicas to simulate, of all those that a window needs")
    parser.add_argument("--window", type=float, default=600.0, help="seconds of a window")
    parser.add_argument("--mix", default="", help="simulate only the kinds of traffic whose name contains this text")
    parser.add_argument("--out", type=Path, help="JSON to write")
    arguments = parser.parse_args()
    configure_logging("console", "warning")
    catalogue, family = discover([arguments.zoo]), arguments.family
    ids = [f"{family}/{name}" for name in ("teacher", "student-016", "student-064")]
    if arguments.one_core:
        costs = one_core_curves(arguments.zoo, ids)
    elif arguments.curves is None:
        costs = measured_curves(arguments.zoo, ids)
    else:
        stored = json.loads(arguments.curves.read_text())
        costs = {model: {int(rows): float(s) for rows, s in curve.items()} for model, curve in stored.items()}
    curve = costs[f"{family}/student-016"]
    throughput = max(rows / seconds for rows, seconds in curve.items())
    quality = {m.id: _rmse(m) for m in by_quality(catalogue, family)}
    print(f"student-016: {throughput:.0f} rows a second a replica at best, buckets {sorted(curve)}\n")
    results = []
    for mix in mixes(catalogue, family, costs):
        if arguments.mix not in mix.name:
            continue
        capacity = throughput / mix.row_steps  # images a second of one replica
        load = _highest_load(costs, mix, capacity, arguments, quality)
        fleet = math.ceil(PEAK / (load * capacity)) if load else 0
        print(f"### {mix.name}: {fleet} replicas\n\n{_HEAD}")
        for number, (hour, share) in enumerate(DAY.items()):
            if not fleet:
                continue
            rate = share * PEAK * arguments.sample / fleet
            tally = simulate(costs, mix, rate, arguments.sample, arguments.window, quality, 1000 * number)
            row = {"mix": mix.name, "hour": hour, "images_per_s": share * PEAK, "replicas": fleet}
            numbers = report(tally, arguments.window, arguments.sample)
            results.append(row | numbers)
            print(_line(row, numbers))
        print(flush=True)
    if arguments.out is not None:
        machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
        settings = {"sample": arguments.sample, "window_s": arguments.window, "curves": costs}
        arguments.out.write_text(json.dumps({**machine, **settings, "rows": results}, indent=1) + "\n")


def _highest_load(
    costs: Mapping[str, dict[int, float]],
    mix: Mix,
    capacity: float,
    arguments: argparse.Namespace,
    quality: Mapping[str, float],
) -> float:
    """Return the highest load of LOADS at which each of a few windows meets the objective; 0 when there is none.

    Bisection assumes that a lower load is never worse.
    """

    def misses(load: float) -> bool:
        rate = load * capacity * arguments.sample
        windows = (simulate(costs, mix, rate, arguments.sample, arguments.window, quality, seed) for seed in SIZING_SEEDS)
        return not all(map(good, windows))

    met = bisect_left(LOADS, True, key=misses)
    return LOADS[met - 1] if met else 0.0


def _rmse(model: Resolved) -> float:
    manifest = model.entry.manifest
    assert manifest.ranking is not None
    return manifest.quality[f"{model.sampler}-{len(model.plan):03d}"].metrics[manifest.ranking.metric]


_HEAD = (
    "| hour | images/s | utilisation | refused or late | student p50, p99 s | teacher p50, p99 s | wasted | "
    "time / estimate: median, coverage | mean RMSE |\n|---|---|---|---|---|---|---|---|---|"
)


def _line(row: Mapping[str, object], n: Mapping[str, float]) -> str:
    def pair(kind: str) -> str:
        return f"{n[f'{kind}_p50_s']:.3f}, {n[f'{kind}_p99_s']:.3f}" if f"{kind}_p50_s" in n else "-"

    return (
        f"| {row['hour']} | {row['images_per_s']:.0f} | {n['utilisation']:.0%} | {n['refused'] + n['late']:.2%} "
        f"| {pair('student')} | {pair('teacher')} | {n['wasted']:.2%} "
        f"| {n['estimate_median']:.2f}, {n['estimate_coverage']:.0%} | {n['rmse']:.2f} |"
    )


if __name__ == "__main__":
    main()
