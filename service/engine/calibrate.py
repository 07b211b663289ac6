"""Warm-up: run a network at growing batch sizes, which allocates its memory and measures what a step costs."""

from __future__ import annotations

import time

import numpy as np

from models.catalogue import Entry
from models.noise import initial_noise
from service.backend.base import Network
from service.engine.config import EngineConfig
from service.engine.costs import StepCosts

_REPEATS = 2


def calibrate(network: Network, entry: Entry, config: EngineConfig) -> StepCosts:
    """Seconds per step at batch sizes 1, 2, 4 ... max_batch, the sizes a batch may have.

    Stops before the size whose step would take longer than max_step_ms; a single row always runs.
    Raises whatever the runtime raises.
    """
    curve: dict[int, float] = {}
    for rows in _sizes(config.max_batch):
        seconds = _measure(network, entry, rows)
        if curve and seconds * 1000 > config.max_step_ms:
            break
        curve[rows] = seconds
    return StepCosts(curve)


def _sizes(largest: int) -> list[int]:
    """Powers of two below `largest`, and `largest`."""
    return [2**power for power in range((largest - 1).bit_length())] + [largest]


def _measure(network: Network, entry: Entry, rows: int) -> float:
    """The shortest of a few steps of the model's first plan row, in seconds, after one that does not count."""
    plan, manifest = entry.plan(), entry.manifest
    x = np.repeat(initial_noise(0, 0, manifest.image.chw)[None], rows, axis=0)
    timestep = np.repeat(plan.label[:1], rows)
    class_label = np.zeros(rows, dtype=np.int64) if manifest.classes else None
    coefficients = np.repeat(plan.coefficients[:1].astype(np.float32), rows, axis=0)
    durations = []
    for _ in range(1 + _REPEATS):
        start = time.perf_counter()
        network.step(x, np.zeros_like(x), timestep, class_label, coefficients)
        durations.append(time.perf_counter() - start)
    return min(durations[1:])
