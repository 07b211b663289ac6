"""Calibration: measure the seconds of a step by batch size, choose the batch sizes worth having, and remember both.

measure    one step at 1, 2, 3, 4, 6, 8, 12, 16 ... rows, up to max_batch and to the first size that takes over max_step_ms.
           Each round measures all sizes, so that other work of the machine disturbs them alike. Rounds repeat until one was
           undisturbed. The shortest step of each size counts. No size costs more than a larger one, which could replace it
choose     the largest bucket is the smallest size within 2 % of the best throughput: a larger batch would only make others
           wait. A smaller size is a bucket if it saves a tenth of the next larger bucket's time. A single row is a bucket
           wherever the device can compute it alone
remember   in cache_dir, by everything the numbers depend on, so that a restart skips the measuring. Numbers of a busy machine
           are not kept. Numbers that serving corrects are replaced (costs.py)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import structlog

from models.catalogue import Entry
from models.noise import initial_noise
from models.runtime.base import BackendError, DeviceMemoryError, Network, StepInputs
from models.runtime.remembered import recall, remember
from service.engine.config import EngineConfig
from service.engine.costs import StepCosts

log = structlog.get_logger(__name__)

_KIND = "calibration"
_METHOD = 2  # part of the key: raise it when the method changes, and old curves are measured again
_MIN_ROUNDS, _MAX_ROUNDS = 3, 8  # more than one, since any round may be disturbed; few enough to start quickly
_QUIET = 1.1  # a round was undisturbed when it took at most this times the sum of the shortest steps
_STEADY = 2.0  # a machine whose longest round takes more than this times its shortest one is busy
_SAME_THROUGHPUT = 0.98  # of the best: a smaller difference is noise
_WORTH_A_BUCKET = 0.9  # most time of a bucket, relative to the next larger one: each bucket costs memory and warm-up
_TOO_QUICK = 0.5  # measure again when steps take less than this share of the curve: a busy machine measured it
BATCH_INVARIANT = "CPUExecutionProvider"  # the provider that gives the same bytes at any batch size


def calibrate(
    network: Network,
    entry: Entry,
    fingerprint: str,
    config: EngineConfig,
    clock: Callable[[], float] = time.perf_counter,
) -> StepCosts:
    """Return the model's buckets with their costs. Leave the network prepared and warm.

    fingerprint: identifies the backend. clock: measures a step, in seconds.
    Raises BackendError for a network that cannot fill up batches in deterministic mode, and whatever the runtime raises.
    """
    fixed = config.deterministic and network.provider != BATCH_INVARIANT
    key: dict[str, str | float] = {
        "method": _METHOD,
        "model": entry.id,
        "sha256": entry.manifest.sha256,
        "backend": fingerprint,
        "provider": network.provider,
        "precision": network.precision,
        "max_batch": config.max_batch,
        "max_step_ms": config.max_step_ms,
        "fixed": fixed,
    }
    curve = recall(config.cache_dir, _KIND, key, lambda stored: _curve_of(stored, config.max_batch))
    if curve is not None and _measured(network, entry, [max(curve)], clock).curve[max(curve)] < _TOO_QUICK * curve[max(curve)]:
        log.info("calibration_outdated", model=entry.id, reason="steps take less than half the time they took")
        curve = None

    def keep(curve: Mapping[int, float]) -> None:
        remember(config.cache_dir, _KIND, key, {"seconds": dict(curve)})

    if curve is not None:
        network.prepare(sorted(curve))
    else:
        found = None if fixed else sweep(network, entry, config, clock)
        buckets = [config.max_batch] if found is None else choose_buckets(found.curve, config.max_step_ms / 1000)
        network.prepare(buckets)
        if network.padded(1) == 1:
            buckets = sorted({1, *buckets})
        measured = _measured(network, entry, buckets, clock)  # again, since preparing may have changed the times
        curve = measured.curve
        if measured.steady and (found is None or found.steady):
            keep(curve)
        else:
            log.warning("calibration_not_kept", model=entry.id, reason="the machine is busy")
    if fixed and network.padded(1) != config.max_batch:
        raise BackendError(f"{network.provider} cannot fill up batches to {config.max_batch} rows as deterministic mode needs")
    return StepCosts(curve, network.padded, corrected=keep)


def choose_buckets(curve: Mapping[int, float], max_step_s: float) -> list[int]:
    """Return the batch sizes worth having, ascending, from measured seconds by size. The smallest size is always allowed."""
    allowed = [rows for rows in sorted(curve) if curve[rows] <= max_step_s] or [min(curve)]
    best = max(rows / curve[rows] for rows in allowed)
    largest = next(rows for rows in allowed if rows / curve[rows] >= _SAME_THROUGHPUT * best)
    buckets = [largest]
    for rows in reversed(allowed):
        if rows < largest and curve[rows] <= _WORTH_A_BUCKET * curve[buckets[-1]]:
            buckets.append(rows)
    return buckets[::-1]


@dataclass(frozen=True)
class Measured:
    """The result of measuring.

    curve: seconds of a step by batch size, never less for more rows. steady: False when the rounds differed too much.
    """

    curve: dict[int, float]
    steady: bool


def sweep(network: Network, entry: Entry, config: EngineConfig, clock: Callable[[], float] = time.perf_counter) -> Measured:
    """Measure a step at every size, up to the first one that takes too long each time, or too much memory."""
    sizes: list[int] = []
    for rows in _sizes(config.max_batch):
        try:
            too_long = all(1000 * _step_s(network, entry, rows, clock) > config.max_step_ms for _ in range(_MIN_ROUNDS))
        except DeviceMemoryError:
            if not sizes:
                raise
            log.info("calibration_stopped", model=entry.id, rows=rows, reason="the device is out of memory")
            break
        sizes.append(rows)
        if too_long:
            break
    return _measured(network, entry, sizes, clock)


def _sizes(largest: int) -> list[int]:
    """Return powers of two and the sizes halfway between (1, 2, 3, 4, 6, 8, 12 ...) below `largest`, and `largest`."""
    powers = [2**power for power in range(largest.bit_length())]
    return sorted({rows for power in powers for rows in (power, power * 3 // 2) if rows < largest} | {largest})


def _measured(network: Network, entry: Entry, sizes: Sequence[int], clock: Callable[[], float]) -> Measured:
    """Measure the shortest step of each size over several rounds, after one round that does not count."""
    for rows in sizes:
        _step_s(network, entry, rows, clock)  # the first step of a size includes setting it up
    shortest = dict.fromkeys(sizes, inf)
    totals: list[float] = []
    while len(totals) < _MIN_ROUNDS or (min(totals) > _QUIET * sum(shortest.values()) and len(totals) < _MAX_ROUNDS):
        seconds = {rows: _step_s(network, entry, rows, clock) for rows in sizes}
        shortest = {rows: min(seconds[rows], shortest[rows]) for rows in sizes}
        totals.append(sum(seconds.values()))
    curve = {rows: min(shortest[more] for more in sizes if more >= rows) for rows in sizes}
    return Measured(curve, max(totals) <= _STEADY * min(totals))


def _step_s(network: Network, entry: Entry, rows: int, clock: Callable[[], float]) -> float:
    """Measure the seconds of one step of `rows` images, the first step of the model's plan."""
    plan, manifest = entry.plan(), entry.manifest
    x = np.repeat(initial_noise(0, 0, manifest.image.chw)[None], rows, axis=0)
    inputs: StepInputs = {
        "x": x,
        "x0_prev": np.zeros_like(x),
        "timestep": np.repeat(plan.label[:1], rows),
        "class_label": np.zeros(rows, dtype=np.int64) if manifest.classes else None,
        "coefficients": np.repeat(plan.coefficients[:1].astype(np.float32), rows, axis=0),
    }
    start = clock()
    network.step(**inputs)
    return clock() - start


def _curve_of(stored: Mapping[str, Any], max_batch: int) -> dict[int, float]:
    """Read the curve from remembered fields.

    Raises ValueError for a curve that StepCosts refuses or that has batches of more than max_batch rows.
    """
    curve = {int(rows): float(seconds) for rows, seconds in stored["seconds"].items()}
    if max(StepCosts(curve).buckets) > max_batch:
        raise ValueError(f"it has batches of more than {max_batch} rows")
    return curve
