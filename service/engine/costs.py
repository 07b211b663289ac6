"""What a step costs: measured seconds by batch size, kept honest while serving."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

_MEMORY = 0.05  # weight of the newest step in the drift: about twenty steps of memory
_STALL = 4.0


class StepCosts:
    """Seconds of one network evaluation by batch size, from a calibration curve and its drift since.

    The curve is measured once at warm-up. While serving, one factor follows how the same steps run now (a busy machine,
    a hot device), so that estimates stay honest without measuring every size again.
    """

    def __init__(self, curve: Mapping[int, float]) -> None:
        """curve: batch size -> seconds, each above 0, at least one size. Raises ValueError otherwise."""
        if not curve or min(curve) < 1 or min(curve.values()) <= 0:
            raise ValueError("a cost curve needs at least one batch size of 1 or more, with seconds above 0")
        self._sizes = sorted(curve)
        self._seconds = [curve[size] for size in self._sizes]
        self._drift = 1.0

    @property
    def curve(self) -> dict[int, float]:
        """The calibration: batch size -> seconds."""
        return dict(zip(self._sizes, self._seconds, strict=True))

    @property
    def largest(self) -> int:
        """The largest batch size that was measured."""
        return self._sizes[-1]

    def bucket(self, rows: int) -> int:
        """The smallest measured size that holds `rows` rows, or the largest there is."""
        return self._sizes[min(bisect_left(self._sizes, rows), len(self._sizes) - 1)]

    def seconds(self, rows: int) -> float:
        """Estimated seconds of one step of `rows` rows: linear between measured sizes, proportional beyond the last."""
        return self._drift * self._calibrated(rows)

    def observe(self, rows: int, seconds: float) -> None:
        """Account for one measured step; one that stalls counts as a few times the expected and no more."""
        ratio = min(seconds / self._calibrated(rows), _STALL * self._drift)
        self._drift += _MEMORY * (ratio - self._drift)

    def _calibrated(self, rows: int) -> float:
        above = bisect_left(self._sizes, rows)
        if above == 0:
            return self._seconds[0]
        if above == len(self._sizes):
            return self._seconds[-1] * rows / self._sizes[-1]
        low, high = self._sizes[above - 1], self._sizes[above]
        share = (rows - low) / (high - low)
        return self._seconds[above - 1] + share * (self._seconds[above] - self._seconds[above - 1])
