"""Calibration: measure what a step costs by batch size, choose the batch sizes worth having, and remember both.

measure   one step at 1, 2, 3, 4, 6, 8, 12, 16 ... rows, up to max_batch and to the first that takes over max_step_ms
choose    the largest bucket is the smallest size that reaches the best throughput, within 2 %: a larger batch would only
          make others wait. Below it, a size is a bucket where it saves a tenth of the next larger bucket's time
remember  in cache_dir, by everything the numbers depend on, so that a restart skips the measuring
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import structlog

from models.catalogue import Entry
from models.noise import initial_noise
from service.backend.base import BackendError, DeviceMemoryError, Network
from service.engine.config import EngineConfig
from service.engine.costs import StepCosts

log = structlog.get_logger(__name__)

_REPEATS = 3
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
        "model": entry.id,
        "sha256": entry.manifest.sha256,
        "backend": fingerprint,
        "provider": network.provider,
        "precision": network.precision,
        "max_batch": config.max_batch,
        "max_step_ms": config.max_step_ms,
        "fixed": fixed,
    }
    curve = _recall(config.cache_dir, key)
    if curve is not None and _measure(network, entry, max(curve), clock) < _TOO_QUICK * curve[max(curve)]:
        log.info("calibration_outdated", model=entry.id, reason="steps take less than half the time they took")
        curve = None
    if curve is not None:
        network.prepare(sorted(curve))
    else:
        curve = {} if fixed else sweep(network, entry, config, clock)
        buckets = [config.max_batch] if fixed else choose_buckets(curve, config.max_step_ms / 1000)
        network.prepare(buckets)
        curve = {rows: _measure(network, entry, rows, clock) for rows in buckets}  # again: preparing may have changed the times
        _remember(config.cache_dir, key, curve)
    if fixed and network.padded(1) != config.max_batch:
        raise BackendError(f"{network.provider} cannot fill up batches to {config.max_batch} rows as deterministic mode needs")
    return StepCosts(curve, network.padded)


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


def sweep(
    network: Network, entry: Entry, config: EngineConfig, clock: Callable[[], float] = time.perf_counter
) -> dict[int, float]:
    """Seconds of a step by batch size, up to the first size that takes too long or too much memory."""
    curve: dict[int, float] = {}
    for rows in _sizes(config.max_batch):
        try:
            curve[rows] = _measure(network, entry, rows, clock)
        except DeviceMemoryError:
            if not curve:
                raise
            log.info("calibration_stopped", model=entry.id, rows=rows, reason="the device is out of memory")
            break
        if curve[rows] * 1000 > config.max_step_ms:
            break
    return curve


def _sizes(largest: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12 ...: powers of two and the sizes halfway between, below `largest`, and `largest`."""
    powers = [2**power for power in range(largest.bit_length())]
    return sorted({rows for power in powers for rows in (power, power * 3 // 2) if rows < largest} | {largest})


def _measure(network: Network, entry: Entry, rows: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """The shortest of a few steps of the model's first plan row, in seconds, after one that does not count."""
    plan, manifest = entry.plan(), entry.manifest
    x = np.repeat(initial_noise(0, 0, manifest.image.chw)[None], rows, axis=0)
    timestep = np.repeat(plan.label[:1], rows)
    class_label = np.zeros(rows, dtype=np.int64) if manifest.classes else None
    coefficients = np.repeat(plan.coefficients[:1].astype(np.float32), rows, axis=0)
    durations = []
    for _ in range(1 + _REPEATS):
        start = clock()
        network.step(x, np.zeros_like(x), timestep, class_label, coefficients)
        durations.append(clock() - start)
    return min(durations[1:])


def _place(folder: Path, key: Mapping[str, str | float]) -> Path:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return folder / "calibration" / f"{digest[:32]}.json"


def _recall(folder: Path | None, key: Mapping[str, str | float]) -> dict[int, float] | None:
    """The curve stored under this key; None where there is none that makes sense."""
    if folder is None:
        return None
    path = _place(folder, key)
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        curve = {int(rows): float(seconds) for rows, seconds in stored["seconds"].items()}
        if stored["key"] != key or not 1 <= min(curve) <= max(curve) <= int(key["max_batch"]):
            raise ValueError("it is of something else")
        StepCosts(curve)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        log.warning("calibration_ignored", path=str(path), error=str(error))
        return None
    return curve


def _remember(folder: Path | None, key: Mapping[str, str | float], curve: Mapping[int, float]) -> None:
    """Store a curve; a folder that cannot be written costs a warning and the next start its measuring."""
    if folder is None:
        return
    path = _place(folder, key)
    temporary = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({"key": key, "seconds": curve}, indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        log.warning("calibration_not_kept", path=str(path), error=str(error))
