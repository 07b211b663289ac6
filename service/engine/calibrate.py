"""Calibration: measure what a step costs by batch size, choose the batch sizes worth having, and remember both.

measure   one step at 1, 2, 3, 4, 6, 8, 12, 16 ... rows, up to max_batch and to the first that takes over max_step_ms: in rounds
          over all sizes, so that what else the machine does meets each of them, until a round met nothing. The shortest
          counts, and no size costs more than a larger one, which could stand in for it
choose    the largest bucket is the smallest size that reaches the best throughput, within 2 %: a larger batch would only
          make others wait. Below it, a size is a bucket where it saves a tenth of the next larger bucket's time; a single row
          is one wherever the device can compute it alone
remember  in cache_dir, by everything the numbers depend on, so that a restart skips the measuring; not what a busy machine
          gave, and replaced by what serving corrects (costs.py)
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
_METHOD = 2  # in the key: curves that were measured in another way are measured again
_ROUNDS = (3, 8)  # at least, at most
_QUIET = 1.1  # how much longer than all sizes' shortest steps a round may take that met nothing else on the machine
_STEADY = 2.0  # how far apart the rounds may be, longest over shortest; a busy machine's are farther
_SAME_THROUGHPUT = 0.98
_WORTH_A_BUCKET = 0.9
_TOO_QUICK = 0.5  # a curve measured on a busy machine must not keep batches small for ever
_INVARIANT = "CPUExecutionProvider"  # gives the same bytes whatever the batch size, so needs no fixed one


def calibrate(
    network: Network,
    entry: Entry,
    fingerprint: str,
    config: EngineConfig,
    clock: Callable[[], float] = time.perf_counter,
) -> StepCosts:
    """The model's buckets and what a step of each costs; leaves the network prepared and warm.

    fingerprint: the backend's. clock: what measures a step, in seconds. Raises BackendError for a network that cannot fill up
    batches in deterministic mode, and whatever the runtime raises.
    """
    fixed = config.deterministic and network.provider != _INVARIANT
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
        measured = _measured(network, entry, buckets, clock)  # again: preparing may have changed the times
        curve = measured.curve
        if measured.steady and (found is None or found.steady):
            keep(curve)
        else:
            log.warning("calibration_not_kept", model=entry.id, reason="the machine is busy")
    if fixed and network.padded(1) != config.max_batch:
        raise BackendError(f"{network.provider} cannot fill up batches to {config.max_batch} rows as deterministic mode needs")
    return StepCosts(curve, network.padded, corrected=keep)


def choose_buckets(curve: Mapping[int, float], max_step_s: float) -> list[int]:
    """Batch sizes worth having, ascending, from measured seconds by size. A single row is allowed whatever it takes."""
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
    """curve: seconds of a step by batch size, never less for more rows; steady: whether the rounds were alike."""

    curve: dict[int, float]
    steady: bool


def sweep(network: Network, entry: Entry, config: EngineConfig, clock: Callable[[], float] = time.perf_counter) -> Measured:
    """What a step costs at every size, up to the first that takes too long, however often it is tried, or too much memory."""
    sizes: list[int] = []
    for rows in _sizes(config.max_batch):
        try:
            too_long = all(1000 * _step_s(network, entry, rows, clock) > config.max_step_ms for _ in range(_ROUNDS[0]))
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
    """1, 2, 3, 4, 6, 8, 12 ...: powers of two and the sizes halfway between, below `largest`, and `largest`."""
    powers = [2**power for power in range(largest.bit_length())]
    return sorted({rows for power in powers for rows in (power, power * 3 // 2) if rows < largest} | {largest})


def _measured(network: Network, entry: Entry, sizes: Sequence[int], clock: Callable[[], float]) -> Measured:
    """The shortest step of each size over several rounds, after one round that does not count."""
    for rows in sizes:
        _step_s(network, entry, rows, clock)  # the first step of a size is another matter
    shortest = dict.fromkeys(sizes, inf)
    totals: list[float] = []
    while len(totals) < _ROUNDS[0] or (min(totals) > _QUIET * sum(shortest.values()) and len(totals) < _ROUNDS[1]):
        seconds = {rows: _step_s(network, entry, rows, clock) for rows in sizes}
        shortest = {rows: min(seconds[rows], shortest[rows]) for rows in sizes}
        totals.append(sum(seconds.values()))
    curve = {rows: min(shortest[more] for more in sizes if more >= rows) for rows in sizes}
    return Measured(curve, max(totals) <= _STEADY * min(totals))


def _step_s(network: Network, entry: Entry, rows: int, clock: Callable[[], float]) -> float:
    """Seconds of the model's first plan row for so many images."""
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
    """The curve among remembered fields. Raises ValueError for one without meaning."""
    curve = {int(rows): float(seconds) for rows, seconds in stored["seconds"].items()}
    if max(StepCosts(curve).buckets) > max_batch:
        raise ValueError(f"it has batches of more than {max_batch} rows")
    return curve
