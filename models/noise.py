"""Noise keyed by (seed, image index, step), so that every model starts a seed from the same x_T.

The generator is counter-based (Philox 4x64; Salmon et al. 2011): its key is (seed, image index), the high word of its counter
the step. Noise never depends on a row's place in its batch, on the other rows, or on when it is drawn.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MAX_SEED = 2**53 - 1  # the largest integer JSON clients hold exactly
_MAX_WORD = 2**64 - 1  # a word of Philox's key and counter


def _normal(seed: int, index: int, step: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    # numpy's own errors for words out of range name neither the seed nor the index.
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed must be between 0 and {MAX_SEED}, got {seed}")
    if not 0 <= index <= _MAX_WORD:
        raise ValueError(f"index must be between 0 and {_MAX_WORD}, got {index}")
    key = np.array([seed, index], dtype=np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, step]))
    return generator.standard_normal(shape, dtype=np.float32)


def initial_noise(seed: int, index: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Draw x_T of one image: standard normal float32 of `shape` (C, H, W).

    Raises ValueError for a seed outside 0 ... MAX_SEED or a negative index.
    """
    return _normal(seed, index, 0, shape)


def slerp(a: NDArray[np.float32], b: NDArray[np.float32], fraction: float) -> NDArray[np.float32]:
    """Interpolate between two noises on the sphere: sin((1 - f) w) / sin w a + sin(f w) / sin w b, w the angle between them.

    Unit noise stays unit noise (Shoemake 1985; Song et al. 2021, arXiv 2010.02502, appendix D.5). Exactly a at 0, b at 1.
    float32 of one shape twice -> float32 of that shape. Raises ValueError for a fraction outside 0 ... 1.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must be between 0 and 1, got {fraction}")
    if fraction in (0, 1):
        return b if fraction else a
    left, right = a.astype(np.float64), b.astype(np.float64)
    cosine = (left * right).sum() / (np.linalg.norm(left) * np.linalg.norm(right))
    angle = np.arccos(np.clip(cosine, -1, 1))
    if np.sin(angle) < 1e-6:  # the same noise twice: every point between them is that noise
        return a
    between = (np.sin((1 - fraction) * angle) * left + np.sin(fraction * angle) * right) / np.sin(angle)
    return np.asarray(between, dtype=np.float32)


def step_noise(seed: int, index: int, step: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Draw z of a stochastic plan's step `step`, counted from 0 at the noisy end: standard normal float32 of `shape`.

    Raises ValueError for a seed outside 0 ... MAX_SEED or a negative index or step.
    """
    if step < 0:  # step -1 would be x_T again
        raise ValueError(f"row must not be negative, got {step}")
    return _normal(seed, index, step + 1, shape)
