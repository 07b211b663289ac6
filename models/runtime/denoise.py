"""The walk through a plan outside the engine: for evaluation, sample grids, checks and benchmarks.

The engine takes the same steps, but mixes the rows of many plans in a batch (service.engine).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, Unpack

import numpy as np

from models.noise import initial_noise, step_noise
from models.plan import Plan
from models.runtime.base import Float32, Int64, StepInputs

ImageKey = tuple[int, int]  # (seed, image index): it decides all noise of an image


class StepNetwork(Protocol):
    """Weights that take denoise steps; models.runtime.base.Network is one, training.sampling.TorchNetwork another."""

    def step(self, **inputs: Unpack[StepInputs]) -> tuple[Float32, Float32]:
        """Take one denoise step of B rows: (x_next, x0), as models.runtime.base.Network does."""


def starting_noise(keys: Sequence[ImageKey], shape: tuple[int, int, int]) -> Float32:
    """Return x_T of the images with these keys: float32 [B,C,H,W] for a shape (C, H, W)."""
    return np.stack([initial_noise(seed, index, shape) for seed, index in keys])


def denoise(
    network: StepNetwork,
    plan: Plan,
    noise: Float32,
    *,
    keys: Sequence[ImageKey],
    class_label: Int64 | None,
    first_step: int = 0,
    on_step: Callable[[int], None] | None = None,
) -> Float32:
    """Take the steps of a plan, from step `first_step` (0 ... N - 1) on, and return the images: float32 [B,C,H,W] in [-1, 1].

    noise: where the images start, float32 [B,C,H,W]. It is x_T, or a noised image at the level of that step.
    keys: (seed, image index) of each image. They decide the fresh noise of stochastic plans.
    class_label: int64 [B], None for unconditional models.
    on_step: called with B after each step.

    The first step taken is of first order, D = x0, because no x0_prev exists yet (models.plan.dpmpp_2m).
    """
    x, x0 = noise, np.zeros_like(noise)
    table = plan.coefficients.astype(np.float32)
    table[first_step, 3:] = table[first_step, 3:].sum(), 0  # b + c and 0
    for step in range(first_step, len(plan)):
        x, x0 = network.step(
            x=x,
            x0_prev=x0,
            timestep=np.full(len(x), plan.label[step], dtype=np.int64),
            class_label=class_label,
            coefficients=np.repeat(table[step : step + 1], len(x), axis=0),
        )
        if plan.s[step] > 0:
            fresh = np.stack([step_noise(seed, index, step, x.shape[1:]) for seed, index in keys])
            x = x + np.float32(plan.s[step]) * fresh
        if on_step is not None:
            on_step(len(x))
    return x
