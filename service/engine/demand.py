"""Demand: the load of the service in the last seconds. The forecast expects the same load in the next seconds.

Pure: no clock, no I/O. The scheduler reports arrivals and steps; the forecast reads.
"""

from __future__ import annotations

from math import exp

from service.engine.lane import Lane

_NEWEST_REQUEST = 0.1  # weight of the newest request in `overlap`: about ten requests of memory
_MEMORY_S = 10.0  # device time that was used this long ago counts 1/e in a lane's rate
_MIN_RATE = 0.001  # ignore lanes that use under 0.1 % of the device


class Demand:
    """Remembers how requests overlapped and which share of the device each lane used.

    overlap: share of recent requests that arrived while others were in progress, 0 to 1. With Poisson arrivals it is about
    the utilisation of the device.
    """

    def __init__(self) -> None:
        self.overlap = 0.0
        self._used: dict[Lane, tuple[float, float]] = {}  # rate, and the clock reading at which it was computed
        self._recent: dict[Lane, None] = {}  # lanes whose rate was not yet found to be below _MIN_RATE

    def arrived(self, *, others: bool) -> None:
        """Count an arrival. others: other requests were in progress."""
        self.overlap += _NEWEST_REQUEST * (others - self.overlap)

    def ran(self, lane: Lane, seconds: float, now_s: float) -> None:
        """Count device seconds that a lane was charged at clock reading now_s."""
        self._used[lane] = self._rate(lane, now_s) + seconds / _MEMORY_S, now_s
        self._recent[lane] = None

    def rates(self, now_s: float) -> dict[Lane, float]:
        """Return the device seconds per second that each lane used recently.

        Later calls leave out the lanes whose rate is below _MIN_RATE now.
        """
        rates = {lane: self._rate(lane, now_s) for lane in self._recent}
        for lane, rate in rates.items():
            if rate < _MIN_RATE:
                del self._recent[lane]
        return rates

    def forget(self, lane: Lane) -> None:
        """Remove a lane that is closed."""
        self._used.pop(lane, None)
        self._recent.pop(lane, None)

    def _rate(self, lane: Lane, now_s: float) -> float:
        rate, then_s = self._used.get(lane, (0.0, 0.0))
        return rate * exp((then_s - now_s) / _MEMORY_S)
