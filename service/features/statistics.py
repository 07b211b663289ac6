"""Statistics of latencies: quantiles, and the differences between two samples with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

QUANTILES = (0.5, 0.9, 0.95, 0.99)
_RESAMPLES = 1000  # the ends of an interval move little from run to run, and a call stays in milliseconds
CONFIDENCE = 0.95
# Fewest units of an arm for an interval. A percentile bootstrap is too narrow for few units: it uses the spread of the n units
# as if it were the true spread, and a normal distribution instead of Student's t. Its 95 % interval holds the true difference
# of means with probability P(|t(2n - 2)| < 1.96 sqrt((n - 1) / n)): 82 % for 3 units an arm, 90 % for 6, 92 % for 10.
LEAST_UNITS = 10


@dataclass(frozen=True)
class Latencies:
    """Recent latencies of one arm: seconds [N], and the unit of each as an integer 0 ... U - 1, [N]."""

    seconds: NDArray[np.float64]
    units: NDArray[np.int64]

    @classmethod
    def of(cls, samples: Sequence[tuple[str, float]]) -> Latencies:
        """Build from (unit, seconds) pairs."""
        numbers: dict[str, int] = {}
        units = [numbers.setdefault(unit, len(numbers)) for unit, _ in samples]
        return cls(np.array([seconds for _, seconds in samples], dtype=np.float64), np.array(units, dtype=np.int64))

    def quantiles(self) -> dict[str, float]:
        """Return `p50` ... `p99` in seconds; empty without samples."""
        if not len(self.seconds):
            return {}
        values = np.quantile(self.seconds, QUANTILES)
        return {f"p{100 * q:.0f}": float(value) for q, value in zip(QUANTILES, values, strict=True)}


@dataclass(frozen=True)
class ConfidenceInterval:
    """A value and its confidence interval. low and high are None where there are too few units for an interval."""

    value: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, value: float, resampled: NDArray[np.float64] | None) -> ConfidenceInterval:
        """Return a value with its CONFIDENCE percentile bootstrap interval (Efron & Tibshirani 1993, chapter 13).

        resampled: the value in each resample, [R]; None: no interval.
        """
        if resampled is None:
            return cls(value, None, None)
        low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return cls(value, float(low), float(high))


def units_of(side: Latencies) -> int:
    """Count the distinct units of a sample."""
    return int(side.units.max(initial=-1)) + 1


def differences_between_arms(arm: Latencies, *, reference: Latencies) -> Mapping[str, ConfidenceInterval]:
    """Return arm - reference of the `mean` and the `median`, seconds, with CONFIDENCE percentile bootstrap intervals.

    Users are resampled with all of their requests (cluster bootstrap; Davison & Hinkley 1997, section 3.8), because users were
    assigned, not requests. There is no interval unless both arms have LEAST_UNITS units. The result is empty unless both arms
    have samples.
    """
    sides = (arm, reference)
    if not all(map(units_of, sides)):
        return {}
    random = np.random.default_rng(0)  # the same samples give the same interval
    weights = [_unit_weights(side, random) for side in sides] if min(map(units_of, sides)) >= LEAST_UNITS else None
    found = {}
    for name, statistic in (("mean", _weighted_means), ("median", _weighted_medians)):
        value, baseline = (float(statistic(side.seconds, np.ones((1, len(side.seconds))))[0]) for side in sides)
        resampled = None
        if weights is not None:
            drawn, drawn_baseline = (statistic(side.seconds, w) for side, w in zip(sides, weights, strict=True))
            resampled = drawn - drawn_baseline
        found[name] = ConfidenceInterval.of(value - baseline, resampled)
    return found


def _unit_weights(side: Latencies, random: np.random.Generator) -> NDArray[np.float64]:
    """Draw resamples of units. Return the count of each sample in each resample: [_RESAMPLES, N]."""
    units = units_of(side)
    drawn = random.multinomial(units, np.full(units, 1 / units), size=_RESAMPLES)
    return drawn[:, side.units].astype(np.float64)


def _weighted_means(seconds: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weighted mean of each resample: [N], [R,N] -> [R]."""
    means: NDArray[np.float64] = weights @ seconds / weights.sum(axis=1)
    return means


def _weighted_medians(seconds: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weighted median of each resample, [N], [R,N] -> [R]: the first value with half of the weight up to it."""
    order = np.argsort(seconds)
    passed = np.cumsum(weights[:, order], axis=1)
    medians: NDArray[np.float64] = seconds[order][np.argmax(passed >= passed[:, -1:] / 2, axis=1)]
    return medians
