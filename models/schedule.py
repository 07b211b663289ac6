"""Noise schedules as float64 tables of the cumulative signal level.

Notation (paper -> code; SFDDM, arXiv 2405.14961, which writes alpha_t for the *cumulative* level as DDIM does):

    T            number of diffusion steps
    beta_t       betas[t - 1]            variance added at step t = 1 ... T
    alpha_t      alpha_bar[t]            prod_{s <= t} (1 - beta_s), alpha_bar[0] = 1

A table is built once in float64. Plans and student betas are computed from it.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
ScheduleName = Literal["linear", "cosine", "sigmoid"]
SCHEDULES: tuple[str, ...] = get_args(ScheduleName)

_MAX_BETA = 0.999  # Nichol & Dhariwal 2021, section 3.2: keeps the last step of the cosine schedule finite


def linear_betas(steps: int) -> Float64:
    """Return beta_t from 1e-4 to 0.02 in equal steps (Ho et al. 2020, section 4), rescaled by 1000/T for other T.

    Returns float64 [T]. T = 1000 is the original; the rescaling keeps alpha_bar[T] within 2 to 5e-5 for T from 100 up.
    """
    scale = 1000 / steps
    return np.minimum(np.linspace(scale * 1e-4, scale * 0.02, steps, dtype=np.float64), _MAX_BETA)


def cosine_betas(steps: int, offset: float = 0.008) -> Float64:
    """Return beta_t = min(1 - f(t)/f(t-1), 0.999) with f(t) = cos^2((t/T + s)/(1 + s) pi/2) (Nichol & Dhariwal 2021, eq. 17).

    Returns float64 [T].
    """
    t = np.arange(steps + 1, dtype=np.float64) / steps
    f: Float64 = np.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2
    return np.minimum(1 - f[1:] / f[:-1], _MAX_BETA)


def sigmoid_betas(steps: int) -> Float64:
    """Return beta_t = sigmoid(u) (0.02 - 1e-4) + 1e-4, u from -6 to 6 (Xu et al. 2022, GeoDiff), rescaled by 1000/T.

    Returns float64 [T].
    """
    scale = 1000 / steps
    u = np.linspace(-6, 6, steps, dtype=np.float64)
    return np.minimum(scale * ((0.02 - 1e-4) / (1 + np.exp(-u)) + 1e-4), _MAX_BETA)


def alpha_bar_from_betas(betas: Float64) -> Float64:
    """Return alpha_bar[t] = prod_{s <= t} (1 - beta_s), alpha_bar[0] = 1.

    betas: [T], each in (0, 1). Returns float64 [T + 1].
    Raises ValueError for betas outside (0, 1), or for so many of them that no signal is left.
    """
    betas = np.asarray(betas, dtype=np.float64)
    if betas.ndim != 1 or betas.size == 0 or not np.all((betas > 0) & (betas < 1)):
        raise ValueError("betas must be a non-empty list of numbers strictly between 0 and 1")
    alpha_bar = np.concatenate([[1.0], np.cumprod(1 - betas)])
    if alpha_bar[-1] == 0:  # underflow: plans divide by the signal
        raise ValueError("betas leave no signal at the last step; make them smaller")
    return alpha_bar


def alpha_bar_table(name: str, steps: int) -> Float64:
    """Return the cumulative signal level of a named schedule: float64 [T + 1], alpha_bar[0] = 1, strictly decreasing.

    Raises ValueError for an unknown name or a step count below 1.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if name == "linear":
        betas = linear_betas(steps)
    elif name == "cosine":
        betas = cosine_betas(steps)
    elif name == "sigmoid":
        betas = sigmoid_betas(steps)
    else:
        raise ValueError(f"unknown schedule {name!r}; choose one of {', '.join(SCHEDULES)}")
    return alpha_bar_from_betas(betas)
