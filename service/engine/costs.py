"""What a step costs: measured seconds by batch size, kept honest while serving."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from math import exp
from statistics import median

_MEMORY = 0.05  # weight of the newest step in the drift: about twenty steps of memory
_FADES_S = 20.0  # a drift that nothing has confirmed for so long counts 1/e
_STALL = 4.0
_LASTING = 256  # batches of one bucket whose median shows that its entry is wrong: the drift follows in far fewer
_WRONG = 1.25  # by this factor, either way


class StepCosts:
    """Seconds of one network evaluation by batch size, from a calibration curve and its drift since.

    The curve is measured once and cached. While serving, one factor follows how the same steps run now (a busy machine,
    a hot device), so that estimates stay honest without measuring every size again. While the model does not run, the factor
    fades: what was true of a busy minute must not shut the model out for ever. A bucket that goes on differing from the
    others in this is one that was measured wrongly: its entry is corrected.
    """

    def __init__(
        self,
        curve: Mapping[int, float],
        padded: Callable[[int], int] = lambda rows: rows,
        corrected: Callable[[Mapping[int, float]], None] | None = None,
    ) -> None:
        """curve: bucket -> seconds, each above 0, at least one bucket; padded: rows asked -> rows that the device computes.

        corrected: told the new curve when serving has corrected it.
        Raises ValueError for a curve without meaning.
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
        self._recent: dict[int, list[float]] = {size: [] for size in self._buckets}  # measured over estimated

    @property
    def curve(self) -> dict[int, float]:
        """Bucket -> seconds, as calibrated or corrected since."""
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
        """The smallest bucket that holds `rows` rows, or the largest there is."""
        return self._buckets[min(bisect_left(self._buckets, rows), len(self._buckets) - 1)]

    def room(self, rows: int) -> int:
        """How many more rows a batch of `rows` takes at no cost: those the device would only compute to fill it."""
        return self._padded[rows - 1] - rows

    def seconds(self, rows: int) -> float:
        """Estimated seconds of one step of 1 ... `largest` rows: linear between buckets where the device does not pad."""
        return self._drift * self._table[rows - 1]

    def calibrated(self, rows: int) -> float:
        """What `seconds` gives on a device that runs as it was calibrated."""
        return self._table[rows - 1]

    def fade(self, now_s: float) -> None:
        """Let the drift fade over the time in which nothing was observed."""
        if self._drift_at_s is not None:
            self._drift = 1 + (self._drift - 1) * exp(min(0.0, self._drift_at_s - now_s) / _FADES_S)
            self._drift_at_s = now_s

    def fair(self, rows: int, seconds: float) -> float:
        """What one measured step may be charged: one that stalls counts as a few times the expected and no more."""
        return min(seconds, _STALL * self.seconds(rows))

    def observe(self, rows: int, seconds: float, now_s: float | None = None) -> None:
        """Account for one measured step; now_s: clock reading at its end."""
        self._drift_at_s = now_s
        fair_s = self.fair(rows, seconds)
        size = self._padded[rows - 1]
        recent = self._recent.get(size, [])
        recent.append(fair_s / self.seconds(rows))
        self._drift += _MEMORY * (fair_s / self._table[rows - 1] - self._drift)
        if len(recent) == _LASTING:
            factor = median(recent)
            recent.clear()
            if not 1 / _WRONG <= factor <= _WRONG:
                self._correct(size, factor)

    def _correct(self, size: int, factor: float) -> None:
        """Multiply a bucket's entry; the others follow where more rows would seem to take less time."""
        now = {bucket: self._drift * seconds for bucket, seconds in self.curve.items()}
        now[size] *= factor
        self._seconds = [max(s, now[size]) if b > size else min(s, now[size]) for b, s in now.items()]
        self._drift = 1.0
        self._recent = {bucket: [] for bucket in self._buckets}
        self._table = [self._interpolate(rows) for rows in self._padded]
        if self._corrected is not None:
            self._corrected(self.curve)

    def _interpolate(self, rows: int) -> float:
        above = bisect_left(self._buckets, rows)
        if above == 0:
            return self._seconds[0]
        if above == len(self._buckets):
            return self._seconds[-1] * rows / self._buckets[-1]
        low, high = self._buckets[above - 1], self._buckets[above]
        share = (rows - low) / (high - low)
        return self._seconds[above - 1] + share * (self._seconds[above] - self._seconds[above - 1])
