"""Sub-sequences phi: the steps of the teacher that a student keeps (SFDDM, section 3.3).

    phi: 0 = phi_0 < phi_1 < ... < phi_T' = T          student step t is teacher step phi_t

Any strictly increasing phi is a valid student: T' need not divide T. (The authors' released code keeps
{0, c, ..., T - c}. It samples from the noisiest step but never trains there. We keep phi_T' = T.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.schedule import Float64

Int64 = NDArray[np.int64]


def check_phi(phi: Sequence[int] | Int64, steps: int) -> Int64:
    """Check phi against a teacher of `steps` steps and return it as int64 [T' + 1].

    phi must start at 0, be strictly increasing and end at T. Raises ValueError with the rule that is broken.
    """
    table = np.asarray(phi)
    if table.ndim != 1 or table.size < 2:
        raise ValueError("phi needs at least two entries: 0 and the teacher's last step")
    if not np.issubdtype(table.dtype, np.integer):
        raise ValueError("phi must hold whole numbers")
    table = table.astype(np.int64)
    if table[0] != 0:
        raise ValueError(f"phi must start at 0, got {table[0]}")
    if np.any(np.diff(table) <= 0):
        raise ValueError("phi must be strictly increasing")
    if table[-1] != steps:
        raise ValueError(f"phi must end at the teacher's last step {steps}, got {table[-1]}")
    return table


def _check_steps(steps: int, student_steps: int) -> None:
    if not 1 <= student_steps <= steps:
        raise ValueError(f"the student's steps must be between 1 and the teacher's {steps}, got {student_steps}")


def uniform_phi(steps: int, student_steps: int) -> Int64:
    """Return phi_t = round(t T / T'): int64 [T' + 1]. T' may be any number from 1 to T.

    Halves round to even, as in Python's round and diffusers' "trailing" spacing. Raises ValueError for T' outside 1 ... T.
    """
    _check_steps(steps, student_steps)
    t = np.arange(student_steps + 1, dtype=np.int64)
    return check_phi(np.rint(t * steps / student_steps).astype(np.int64), steps)


def concentrated_phi(steps: int, student_steps: int, *, start: float, end: float, share: float = 0.5) -> Int64:
    """Return phi with at least `share` of the steps spread evenly inside (start T, end T] and the rest evenly outside.

    start, end: fractions of the teacher's range, 0 = clean end, 1 = noisy end, rounded to teacher steps. For instance
    start=0.6, end=1 puts half of the steps in the noisiest 40 %. phi is uniform in each piece, so a piece can hold at most as
    many steps as it has teacher steps. Returns int64 [T' + 1].
    Raises ValueError when the steps asked for do not fit, inside or outside.
    """
    if not 0 <= start < end <= 1 or not 0 < share < 1:
        raise ValueError(
            f"concentrated steps need 0 <= start < end <= 1 and 0 < share < 1; start is {start:g}, end {end:g}, share {share:g}"
        )
    _check_steps(steps, student_steps)
    low, high = round(start * steps), round(end * steps)
    if low == 0 and high == steps:
        return uniform_phi(steps, student_steps)
    inside = math.ceil(share * student_steps - 1e-9)  # 0.07 of 100 must be 7, although 0.07 * 100 > 7 in floating point
    outside = student_steps - inside
    if inside > high - low:
        raise ValueError(f"{inside} steps do not fit in the {high - low} teacher steps from {low} to {high}")
    if outside > steps - (high - low):
        raise ValueError(f"{outside} steps do not fit in the {steps - (high - low)} teacher steps outside {low} to {high}")
    if high < steps and outside == 0:
        raise ValueError("no step is left for the noisy end, where every phi ends; ask for more steps or a smaller share")
    above_least = 1 if high < steps else 0  # phi must end at T
    below = round(outside * low / (low + steps - high))
    below = min(max(below, outside - (steps - high)), low, outside - above_least)
    pieces = ((0, low, below), (low, high, inside), (high, steps, outside - below))
    kept = [first + uniform_phi(last - first, count)[1:] for first, last, count in pieces if count]
    return check_phi(np.concatenate([[0], *kept]), steps)


def student_alpha_bar(alpha_bar: Float64, phi: Int64) -> Float64:
    """Return alpha_bar'[t] = alpha_bar[phi_t] (SFDDM, section 3.3): float64 [T' + 1]."""
    return np.asarray(alpha_bar[check_phi(phi, len(alpha_bar) - 1)], dtype=np.float64)


def student_betas(alpha_bar: Float64, phi: Int64) -> Float64:
    """Return beta'_t = 1 - alpha_bar[phi_t] / alpha_bar[phi_{t-1}] (SFDDM, section 3.3): float64 [T']."""
    kept = student_alpha_bar(alpha_bar, phi)
    return 1 - kept[1:] / kept[:-1]


def labels(phi: Int64) -> Int64:
    """Return network labels of the kept teacher steps, phi_t - 1 for t = 1 ... T': int64 [T'] (networks count from zero)."""
    return np.asarray(phi[1:] - 1, dtype=np.int64)
