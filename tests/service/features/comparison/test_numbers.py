"""The numbers of a comparison: speed-ups and their intervals, device seconds, complete rounds."""

from __future__ import annotations

import numpy as np
import pytest

from service.features.comparison.numbers import LEAST_ROUNDS, complete_rounds, device_s, speed_up
from service.features.statistics import ConfidenceInterval


def test_speed_up_is_the_ratio_of_medians_and_its_interval_holds_it() -> None:
    random = np.random.default_rng(0)
    reference, model = random.lognormal(1, 0.1, 40), random.lognormal(0, 0.1, 40)
    found = speed_up(reference_s=reference, model_s=model, seed=1)
    assert found.value == pytest.approx(np.median(reference) / np.median(model))
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high
    assert speed_up(reference_s=reference, model_s=model, seed=1) == found


def test_too_few_rounds_have_no_interval() -> None:
    assert speed_up(reference_s=[4.0], model_s=[2.0], seed=0) == ConfidenceInterval(2, None, None)
    assert speed_up(reference_s=[4.0] * 5, model_s=[2.0] * 5, seed=0) == ConfidenceInterval(2, None, None)
    assert speed_up(reference_s=[4.0] * 6, model_s=[2.0] * 6, seed=0) == ConfidenceInterval(2, 2, 2)


def test_the_device_seconds_of_a_request_by_its_batches() -> None:
    step_ms = {1: 2.0, 4: 5.0}
    assert device_s(step_ms, steps=10, images=1) == pytest.approx(0.02)
    assert device_s(step_ms, steps=10, images=3) == pytest.approx(0.05)
    assert device_s(step_ms, steps=10, images=9) == pytest.approx(0.12)
    assert device_s({}, steps=10, images=9) == 0


@pytest.mark.parametrize("rounds", [LEAST_ROUNDS, 30])
def test_the_interval_covers_the_truth_as_often_as_it_says(rounds: int) -> None:
    """Rounds share a slow-down that both models feel; the true ratio is e."""
    random = np.random.default_rng(3)
    hits = 0
    for trial in range(100):
        slow = random.lognormal(0, 0.5, rounds)
        times = [slow * random.lognormal(mean, 0.05, rounds) for mean in (1, 0)]
        found = speed_up(reference_s=times[0], model_s=times[1], seed=trial)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= np.e <= found.high
    assert hits >= 87


def test_a_cut_round_does_not_count() -> None:
    assert complete_rounds([None] * 7, 3) == 2  # type: ignore[list-item]
