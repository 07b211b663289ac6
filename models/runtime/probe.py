"""What a network is asked before it is trusted: do rows feel their company, and do its images agree with float32?

The agreement bar for anything that computes in fewer bits. Images of the same seeds must be closer to the float32 ones
than a viewer or a metric could tell: at least 45 dB in the mean (student-016, the usual one, is 38.5 dB from its teacher's
images and student-032 42.0 dB, so up to there the provider's error stays below the distillation's), and 99 % of all pixels
within one 8-bit level, which rounding alone can cost. Sixteen images through at most sixteen evaluations decide it at load.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.catalogue import Entry, variant_plan
from models.noise import initial_noise
from models.plan import COEFFICIENTS, Plan
from models.runtime.base import Float32, Int64, Network

MIN_PSNR_DB = 45.0
MIN_WITHIN_ONE = 0.99
ROWS = 16
_EVALUATIONS = 16
_QUANTISATION = 1 / 12  # variance of the rounding to 8 bits: PSNR stops at 58.9 dB


@dataclass(frozen=True)
class Agreement:
    """How 8-bit images differ from a reference: mean PSNR in dB, share of pixels within one level, largest difference."""

    psnr_db: float
    within_one: float
    largest: int

    @property
    def holds(self) -> bool:
        return self.psnr_db >= MIN_PSNR_DB and self.within_one >= MIN_WITHIN_ONE

    def __str__(self) -> str:
        return f"{self.psnr_db:.1f} dB, {self.within_one:.2%} of pixels within one level, at most {self.largest} levels apart"


def probe_inputs(entry: Entry, rows: int) -> tuple[Float32, Float32, Int64, Int64 | None, Float32]:
    """Inputs of one step, every row another image, step and class: x, x0_prev, timestep, class_label, coefficients."""
    manifest = entry.manifest
    x = np.stack([initial_noise(0, row, manifest.image.chw) for row in range(rows)])
    timestep = np.resize(np.asarray(manifest.labels, dtype=np.int64), rows)
    label = np.arange(rows, dtype=np.int64) % len(manifest.classes) if manifest.classes else None
    return x, x, timestep, label, np.full((rows, len(COEFFICIENTS)), 0.5, dtype=np.float32)


def same_alone(network: Network, entry: Entry, rows: int) -> bool:
    """Whether a batch of `rows` rows gives the same bytes as each of its rows by itself."""
    x, x0_prev, timestep, label, coefficients = probe_inputs(entry, rows)

    def run(part: slice) -> bytes:
        class_label = None if label is None else label[part]
        return network.step(x[part], x0_prev[part], timestep[part], class_label, coefficients[part])[0].tobytes()

    return run(slice(None)) == b"".join(run(slice(row, row + 1)) for row in range(rows))


def sample(network: Network, entry: Entry, plan: Plan, rows: int, seed: int = 0) -> NDArray[np.uint8]:
    """Images of `seed` with indices 0 ... rows - 1, one batch at every step: uint8 [rows,C,H,W]. Deterministic plans only."""
    manifest = entry.manifest
    x = np.stack([initial_noise(seed, row, manifest.image.chw) for row in range(rows)])
    x0 = np.zeros_like(x)
    label = np.arange(rows, dtype=np.int64) % len(manifest.classes) if manifest.classes else None
    for step in range(len(plan)):
        coefficients = np.repeat(plan.coefficients[step : step + 1].astype(np.float32), rows, axis=0)
        x, x0 = network.step(x, x0, np.repeat(plan.label[step : step + 1], rows), label, coefficients)
    levels: Float32 = np.rint((x + 1) * np.float32(127.5))
    return np.clip(levels, 0, 255).astype(np.uint8)


def short_plan(entry: Entry) -> Plan:
    """The model's own plan, or strided DDIM where that has too many evaluations to wait for."""
    if entry.manifest.steps <= _EVALUATIONS:
        return entry.plan()
    return variant_plan(entry.manifest, "ddim", _EVALUATIONS)


def agreement(images: NDArray[np.uint8], reference: NDArray[np.uint8]) -> Agreement:
    """Compare uint8 [N,C,H,W] with a reference of the same shape."""
    difference = np.abs(images.astype(np.int64) - reference.astype(np.int64))
    error = np.maximum((difference**2).mean(axis=(1, 2, 3)), _QUANTISATION)
    return Agreement(
        psnr_db=float(np.mean(10 * np.log10(255**2 / error))),
        within_one=float((difference <= 1).mean()),
        largest=int(difference.max()),
    )


def agrees(network: Network, reference: Network, entry: Entry) -> Agreement:
    """Compare a network's images with a float32 reference's, from the same seeds through a short plan."""
    plan = short_plan(entry)
    return agreement(sample(network, entry, plan, ROWS), sample(reference, entry, plan, ROWS))
