"""Checks that a network must pass before it is trusted: independent rows, and images that agree with float32.

The agreement bar applies to every runtime that computes in fewer bits. Images from the same seeds must be so close to the
float32 ones that neither a viewer nor a metric could tell them apart:

- at least 45 dB PSNR in the mean. student-016, the usual model, is 38.6 dB from its teacher's images, and student-032 is
  45.4 dB. The runtime's error therefore stays below the error of distillation up to about 32 steps.
- 99 % of all pixels within one 8-bit level, the difference that rounding alone can make.

The check runs when a model is loaded. It takes sixteen images through at most sixteen evaluations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.catalogue import Entry, variant_plan
from models.image_metrics import UInt8, psnr
from models.noise import initial_noise
from models.pictures import to_uint8
from models.plan import COEFFICIENTS, Plan
from models.runtime.base import Int64, Network, StepInputs, rows_of
from models.runtime.denoise import denoise, starting_noise

MIN_PSNR_DB = 45.0
MIN_WITHIN_ONE = 0.99
ROWS = 16
_MAX_EVALUATIONS = 16  # a start waits until two networks have taken this many
_SEED = 0


@dataclass(frozen=True)
class RuntimeAgreement:
    """Difference of 8-bit images from a reference: mean PSNR in dB, share of pixels within one level, largest difference."""

    psnr_db: float
    within_one: float
    largest: int

    @property
    def holds(self) -> bool:
        return self.psnr_db >= MIN_PSNR_DB and self.within_one >= MIN_WITHIN_ONE

    def __str__(self) -> str:
        return f"{self.psnr_db:.1f} dB, {self.within_one:.2%} of pixels within one level, at most {self.largest} levels apart"


def probe_inputs(entry: Entry, rows: int) -> StepInputs:
    """Return the inputs of one step. Images differ between all rows; steps and classes take turns."""
    manifest = entry.manifest
    x = np.stack([initial_noise(_SEED, row, manifest.image.chw) for row in range(rows)])
    return {
        "x": x,
        "x0_prev": x,
        "timestep": np.resize(np.asarray(manifest.labels, dtype=np.int64), rows),
        "class_label": _class_labels(entry, rows),
        "coefficients": np.full((rows, len(COEFFICIENTS)), 0.5, dtype=np.float32),
    }


def rows_are_independent(network: Network, entry: Entry, rows: int) -> bool:
    """Check that a batch of `rows` rows gives the same bytes as each of its rows alone."""
    inputs = probe_inputs(entry, rows)

    def run(part: slice) -> bytes:
        return network.step(**rows_of(inputs, part))[0].tobytes()

    return run(slice(None)) == b"".join(run(slice(row, row + 1)) for row in range(rows))


def sample(network: Network, entry: Entry, plan: Plan, rows: int) -> UInt8:
    """Draw images 0 ... rows - 1 of one seed in one batch: uint8 [rows,C,H,W]."""
    keys = [(_SEED, index) for index in range(rows)]
    noise = starting_noise(keys, entry.manifest.image.chw)
    return to_uint8(denoise(network, plan, noise, keys=keys, class_label=_class_labels(entry, rows)))


def short_plan(entry: Entry) -> Plan:
    """Return the model's own plan, or _MAX_EVALUATIONS steps of DDIM where its own plan is longer."""
    if entry.manifest.steps <= _MAX_EVALUATIONS:
        return entry.plan()
    return variant_plan(entry.manifest, "ddim", _MAX_EVALUATIONS)


def agreement(images: UInt8, reference: UInt8) -> RuntimeAgreement:
    """Compare uint8 [N,C,H,W] with a reference of the same shape."""
    difference = np.abs(images.astype(np.int64) - reference.astype(np.int64))
    return RuntimeAgreement(
        psnr_db=float(np.mean(psnr(images, reference))),
        within_one=float((difference <= 1).mean()),
        largest=int(difference.max()),
    )


def agrees(network: Network, reference: Network, entry: Entry) -> RuntimeAgreement:
    """Compare a network's images with those of a float32 reference, from the same seeds through a short plan."""
    plan = short_plan(entry)
    return agreement(sample(network, entry, plan, ROWS), sample(reference, entry, plan, ROWS))


def _class_labels(entry: Entry, rows: int) -> Int64 | None:
    """Return class i mod classes for row i, None for an unconditional model."""
    classes = len(entry.manifest.classes)
    return np.arange(rows, dtype=np.int64) % classes if classes else None
