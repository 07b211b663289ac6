"""The estimated cost of a step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.costs import StepCosts


def test_linear_between_buckets() -> None:
    costs = StepCosts({1: 1.0, 4: 2.5, 8: 4.0})
    assert [costs.seconds(rows) for rows in (1, 2, 4, 6, 8)] == [1.0, 1.5, 2.5, 3.25, 4.0]
    assert [costs.room(rows) for rows in (1, 6, 8)] == [0, 0, 0]


def test_a_device_that_fills_up_batches_takes_the_time_of_the_full_one() -> None:
    costs = StepCosts({4: 2.5, 8: 4.0}, padded=lambda rows: 4 if rows <= 4 else 8)
    assert [costs.seconds(rows) for rows in (1, 4, 5, 8)] == [2.5, 2.5, 4.0, 4.0]
    assert [costs.room(rows) for rows in (1, 4, 5, 8)] == [3, 0, 3, 0]


def test_buckets_are_the_measured_sizes() -> None:
    costs = StepCosts({1: 1.0, 4: 2.5, 8: 4.0})
    assert [costs.bucket(rows) for rows in (1, 2, 4, 5, 8, 9)] == [1, 4, 4, 8, 8, 8]
    assert costs.largest == 8
    assert costs.buckets == (1, 4, 8)
    assert costs.curve == {1: 1.0, 4: 2.5, 8: 4.0}


@given(st.floats(0.1, 10))
def test_estimates_follow_the_machine(slowdown: float) -> None:
    costs = StepCosts({1: 1.0, 8: 4.0})
    for _ in range(200):
        costs.observe(8, 4.0 * slowdown)
    assert costs.seconds(1) == pytest.approx(slowdown, rel=1e-3)


def test_one_stalled_step_hardly_counts() -> None:
    costs = StepCosts({1: 1.0})
    costs.observe(1, 3600.0)
    assert 1 < costs.seconds(1) < 1.2


def test_a_bucket_that_was_measured_wrongly_is_corrected() -> None:
    """Its steps differ from their estimate while those of other buckets do not. The new curve is reported."""
    told: list[dict[int, float]] = []
    truth = {1: 1.0, 4: 3.0, 8: 6.0}
    costs = StepCosts(truth | {4: 6.0}, corrected=lambda curve: told.append(dict(curve)))
    for _ in range(2000):
        for rows, seconds in truth.items():
            costs.observe(rows, seconds)
    assert costs.seconds(4) / costs.seconds(1) == pytest.approx(3, rel=0.3)
    assert costs.seconds(8) / costs.seconds(4) == pytest.approx(2, rel=0.3)
    assert told[-1] == costs.curve
    before = len(told)
    for number in range(4000):  # busy and idle again, all sizes alike
        for rows, seconds in truth.items():
            costs.observe(rows, seconds * (3 if number % 200 < 100 else 1))
    assert len(told) == before


def test_a_corrected_curve_never_falls() -> None:
    costs = StepCosts({1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0})
    for _ in range(2000):
        costs.observe(2, 1.0)
        costs.observe(4, 3.0)
    seconds = list(costs.curve.values())
    assert seconds == sorted(seconds)
    assert 3 / 1.6 < costs.curve[4] / costs.curve[2] < 3 * 1.6, "each is within 1.25 of what it takes"


@pytest.mark.parametrize("curve", [{}, {0: 1.0}, {1: 0.0}])
def test_refuses_a_curve_without_meaning(curve: dict[int, float]) -> None:
    with pytest.raises(ValueError, match="cost curve"):
        StepCosts(curve)
