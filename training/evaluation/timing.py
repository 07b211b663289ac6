"""The time that an image takes, alone and in the best batch, and a description of the machine."""

from __future__ import annotations

import os
import platform
import time
from typing import Any

import numpy as np
import torch

from models.runtime.base import StepInputs
from models.runtime.denoise import StepNetwork
from training.evaluation.candidates import Candidate
from training.evaluation.images import NoiseStarts

TIMED_BATCHES = (1, 2, 4, 8, 16, 32, 64)
_REPEATS = 3


def time_per_image(seconds: dict[int, float], steps: int) -> dict[str, float]:
    """Return the milliseconds of an image of `steps` steps, from the seconds of one step by batch size."""
    best = min(seconds, key=lambda batch: seconds[batch] / batch)
    return {"ms_alone": 1000 * steps * seconds[1], "ms_batched": 1000 * steps * seconds[best] / best, "best_batch": float(best)}


def step_seconds(network: StepNetwork, candidate: Candidate) -> dict[int, float]:
    """Measure the seconds of one step by batch size, the shortest of a few. They hold for every plan of the same weights."""
    return {batch: _step_seconds(network, candidate, batch) for batch in TIMED_BATCHES}


def _step_seconds(network: StepNetwork, candidate: Candidate, batch: int) -> float:
    start = NoiseStarts(0).at(candidate, range(batch))
    inputs: StepInputs = {
        "x": start.x,
        "x0_prev": np.zeros_like(start.x),
        "timestep": np.repeat(candidate.plan.label[:1], batch),
        "class_label": start.label,
        "coefficients": np.repeat(candidate.plan.coefficients[:1].astype(np.float32), batch, axis=0),
    }
    durations = []
    for _ in range(1 + _REPEATS):
        before = time.perf_counter()
        network.step(**inputs)
        durations.append(time.perf_counter() - before)
    return min(durations[1:])  # the first step is a warm-up


def machine() -> dict[str, Any]:
    """Describe the machine that the times were taken on."""
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"machine": platform.machine(), "cores": cores, "load": round(os.getloadavg()[0], 1), "accelerator": accelerator}
