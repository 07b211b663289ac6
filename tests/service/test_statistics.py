"""Differences of latencies and their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from service.statistics import Latencies, compare


def sample(median_s: float, units: int, each: int, seed: int, between: float = 0.0) -> Latencies:
    """`each` latencies of every unit; users differ by a factor with standard deviation `between`."""
    random = np.random.default_rng(seed)
    pairs = []
    for unit in range(units):
        factor = np.exp(between * random.standard_normal())
        pairs += [(f"u{unit}", float(median_s * factor * np.exp(0.1 * random.standard_normal()))) for _ in range(each)]
    return Latencies.of(pairs)


def test_a_real_difference_is_found_and_nothing_is_not() -> None:
    found = compare(sample(2.0, 50, 4, 1), sample(1.0, 50, 4, 2))
    for interval in found.values():
        assert 0.9 < interval.low < interval.value < interval.high < 1.1
    none = compare(sample(1.0, 50, 4, 3), sample(1.0, 50, 4, 4))
    for interval in none.values():
        assert interval.low < 0 < interval.high


def test_the_interval_covers_the_truth_as_often_as_it_says_although_users_differ() -> None:
    """Twenty requests of one user are not twenty users: resampling requests would cover about half as often."""
    covered = 0
    for trial in range(60):
        arm, reference = (sample(1.0, 25, 20, 2 * trial + side, between=0.5) for side in (100, 101))
        interval = compare(arm, reference)["mean"]
        covered += interval.low <= 0 <= interval.high
    assert covered / 60 >= 0.85


def test_the_same_samples_give_the_same_interval() -> None:
    arm, reference = sample(2.0, 10, 2, 1), sample(1.0, 10, 2, 2)
    assert compare(arm, reference) == compare(arm, reference)


def test_point_estimates_are_the_plain_ones() -> None:
    arm, reference = sample(2.0, 11, 3, 1), sample(1.0, 11, 3, 2)
    found = compare(arm, reference)
    assert found["mean"].value == pytest.approx(arm.seconds.mean() - reference.seconds.mean())
    assert found["median"].value == pytest.approx(np.median(arm.seconds) - np.median(reference.seconds))


def test_too_little_says_nothing() -> None:
    one, many = sample(1.0, 1, 5, 1), sample(1.0, 5, 1, 2)
    none = Latencies.of([])
    for pair in ((one, many), (many, one), (none, many), (many, none)):
        assert compare(*pair) == {}
    assert none.quantiles() == {}


def test_quantiles_are_in_order() -> None:
    assert Latencies.of([("u", float(value)) for value in range(1, 101)]).quantiles() == pytest.approx(
        {"p50": 50.5, "p90": 90.1, "p95": 95.05, "p99": 99.01}
    )
