"""The cost of a step: measured seconds by batch size, corrected while serving."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from math import exp
from statistics import median

_NEWEST_STEP = 0.05  # weight of the newest step in the drift: about twenty steps of memory
_FADE_S = 20.0  # a drift that no step has confirmed for so long counts 1/e
_MAX_STALL = 4.0  # a step of more than this times its estimate says nothing about the model: the machine was busy
_JUDGED_STEPS = 256  # batches of one bucket before its entry is judged: many more than the drift needs to follow the machine
_WRONG_ENTRY = 1.25  # an entry is corrected when the median is off by more than this factor, either way


class StepCosts:
    """Seconds of one network evaluation by batch size: a calibration curve times a drift.

    curve   measured once and cached
    drift   one factor for all sizes that follows the measured steps, since a machine may be busy or a device hot. While the
            model does not run, the drift fades: a busy minute must not shut the model out for ever

    A bucket whose steps keep differing from the estimate was measured wrongly. Its entry of the curve is corrected.
    """

    def __init__(
        self,
        curve: Mapping[int, float],
        padded: Callable[[int], int] = lambda rows: rows,
        corrected: Callable[[Mapping[int, float]], None] | None = None,
    ) -> None:
        """curve: bucket -> seconds. padded: rows asked for -> rows that the device computes.

        corrected: called with the new curve after a correction.
        Raises ValueError for an empty curve, a bucket below 1 and seconds that are not above 0.
        """
        if not curve or min(curve) < 1 or min(curve.values()) <= 0:
            raise ValueError("a cost curve needs at least one batch size of 1 or more, with seconds above 0")
        self._buckets = sorted(curve)
        self._seconds = [curve[size] for size in self._buckets]
        self._padded = [padded(rows) for rows in range(1, self.largest + 1)]
        self._table = [self._interpolate(rows) for rows in self._padded]
        self._drift = 1.0
        self._drift_at_s: float | None = None  # clock reading
        self._corrected = corrected
        self._recent: dict[int, list[float]] = {size: [] for size in self._buckets}  # measured / estimated seconds, by bucket

    @property
    def curve(self) -> dict[int, float]:
        """Seconds by bucket, as calibrated or corrected since."""
        return dict(zip(self._buckets, self._seconds, strict=True))

    @property
    def buckets(self) -> tuple[int, ...]:
        """The batch sizes that were chosen, ascending."""
        return tuple(self._buckets)

    @property
    def largest(self) -> int:
        """The largest bucket: most rows in one batch."""
        return self._buckets[-1]

    def bucket(self, rows: int) -> int:
        """Return the smallest bucket that holds `rows` rows, or the largest one."""
        return self._buckets[min(bisect_left(self._buckets, rows), len(self._buckets) - 1)]

    def room(self, rows: int) -> int:
        """Return the number of rows that can join a batch of `rows` at no cost, in the places that would be padding."""
        return self._padded[rows - 1] - rows

    def seconds(self, rows: int) -> float:
        """Estimate the seconds of one step of 1 ... `largest` rows. Linear between buckets where the device does not pad."""
        return self._drift * self._table[rows - 1]

    def calibrated(self, rows: int) -> float:
        """Estimate the seconds of one step at the speed of the calibration, without the drift."""
        return self._table[rows - 1]

    def fade(self, now_s: float) -> None:
        """Let the drift fade towards 1 over the time since the last observation."""
        if self._drift_at_s is not None:
            self._drift = 1 + (self._drift - 1) * exp(min(0.0, self._drift_at_s - now_s) / _FADE_S)
            self._drift_at_s = now_s

    def fair(self, rows: int, seconds: float) -> float:
        """Return the seconds to charge for a measured step: at most _MAX_STALL times the estimate."""
        return min(seconds, _MAX_STALL * self.seconds(rows))

    def observe(self, rows: int, seconds: float, now_s: float | None = None) -> None:
        """Learn from one measured step. now_s: clock reading at its end."""
        self._drift_at_s = now_s
        fair_s = self.fair(rows, seconds)
        size = self._padded[rows - 1]
        recent = self._recent.get(size, [])
        recent.append(fair_s / self.seconds(rows))
        self._drift += _NEWEST_STEP * (fair_s / self._table[rows - 1] - self._drift)
        if len(recent) == _JUDGED_STEPS:
            factor = median(recent)
            recent.clear()
            if not 1 / _WRONG_ENTRY <= factor <= _WRONG_ENTRY:
                self._correct(size, factor)

    def _correct(self, size: int, factor: float) -> None:
        """Multiply a bucket's entry by `factor`. Move the other entries only where more rows would seem to take less time."""
        now = {bucket: self._drift * seconds for bucket, seconds in self.curve.items()}
        now[size] *= factor
        self._seconds = [max(s, now[size]) if b > size else min(s, now[size]) for b, s in now.items()]
        self._drift = 1.0
        self._recent = {bucket: [] for bucket in self._buckets}
        self._table = [self._interpolate(rows) for rows in self._padded]
        if self._corrected is not None:
            self._corrected(self.curve)

    def _interpolate(self, rows: int) -> float:
        """Return the curve's seconds for a batch size.

        Below the smallest bucket this is its entry. Above the largest one it is proportional to the rows.
        """
        above = bisect_left(self._buckets, rows)
        if above == 0:
            return self._seconds[0]
        if above == len(self._buckets):
            return self._seconds[-1] * rows / self._buckets[-1]
        low, high = self._buckets[above - 1], self._buckets[above]
        share = (rows - low) / (high - low)
        return self._seconds[above - 1] + share * (self._seconds[above] - self._seconds[above - 1])
