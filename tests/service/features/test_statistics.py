"""Differences of latencies and their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from service.features.statistics import LEAST_UNITS, Latencies, differences_between_arms


def sample(median_s: float, units: int, each: int, seed: int, between: float = 0.0) -> Latencies:
    """Draw `each` latencies of every unit; users differ by a factor with standard deviation `between`."""
    random = np.random.default_rng(seed)
    pairs = []
    for unit in range(units):
        factor = np.exp(between * random.standard_normal())
        pairs += [(f"u{unit}", float(median_s * factor * np.exp(0.1 * random.standard_normal()))) for _ in range(each)]
    return Latencies.of(pairs)


def test_a_real_difference_is_found_and_nothing_is_not() -> None:
    found = differences_between_arms(sample(2.0, 50, 4, 1), reference=sample(1.0, 50, 4, 2))
    for interval in found.values():
        assert interval.low is not None
        assert interval.high is not None
        assert 0.9 < interval.low < interval.value < interval.high < 1.1
    none = differences_between_arms(sample(1.0, 50, 4, 3), reference=sample(1.0, 50, 4, 4))
    for interval in none.values():
        assert interval.low is not None
        assert interval.high is not None
        assert interval.low < 0 < interval.high


def test_the_interval_covers_the_truth_as_often_as_it_says_although_users_differ() -> None:
    """Twenty requests of one user are not twenty users: resampling requests would cover about half as often."""
    covered = 0
    for trial in range(60):
        arm, reference = (sample(1.0, 25, 20, 2 * trial + side, between=0.5) for side in (100, 101))
        interval = differences_between_arms(arm, reference=reference)["mean"]
        assert interval.low is not None
        assert interval.high is not None
        covered += interval.low <= 0 <= interval.high
    assert covered / 60 >= 0.85


def test_the_same_samples_give_the_same_interval() -> None:
    arm, reference = sample(2.0, 10, 2, 1), sample(1.0, 10, 2, 2)
    assert differences_between_arms(arm, reference=reference) == differences_between_arms(arm, reference=reference)


def test_point_estimates_are_the_plain_ones() -> None:
    arm, reference = sample(2.0, 11, 3, 1), sample(1.0, 11, 3, 2)
    found = differences_between_arms(arm, reference=reference)
    assert found["mean"].value == pytest.approx(arm.seconds.mean() - reference.seconds.mean())
    assert found["median"].value == pytest.approx(np.median(arm.seconds) - np.median(reference.seconds))


@pytest.mark.parametrize("few", [1, 2, LEAST_UNITS - 1])
def test_few_units_have_a_difference_without_an_interval(few: int) -> None:
    """The number of their requests does not matter."""
    little, enough = sample(2.0, few, 20, 1), sample(1.0, LEAST_UNITS, 2, 2)
    for pair in ((little, enough), (enough, little)):
        found = differences_between_arms(pair[0], reference=pair[1])
        assert [(each.low, each.high) for each in found.values()] == [(None, None)] * 2
        assert found["mean"].value == pytest.approx(pair[0].seconds.mean() - pair[1].seconds.mean())
    assert all(
        each.low is not None for each in differences_between_arms(sample(2.0, LEAST_UNITS, 1, 3), reference=enough).values()
    )


def test_no_samples_say_nothing() -> None:
    none, many = Latencies.of([]), sample(1.0, 20, 1, 2)
    assert (
        differences_between_arms(none, reference=many)
        == differences_between_arms(many, reference=none)
        == differences_between_arms(none, reference=none)
        == {}
    )
    assert none.quantiles() == {}


def test_quantiles_are_in_order() -> None:
    assert Latencies.of([("u", float(value)) for value in range(1, 101)]).quantiles() == pytest.approx(
        {"p50": 50.5, "p90": 90.1, "p95": 95.05, "p99": 99.01}
    )
