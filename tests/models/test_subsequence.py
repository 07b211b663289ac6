"""Sub-sequences: uniform for any T', explicit and concentrated ones, and the tables that a student takes from them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from diffusers import DDIMScheduler
from hypothesis import assume, given
from hypothesis import strategies as st

from models.schedule import SCHEDULES, alpha_bar_table
from models.subsequence import check_phi, concentrated_phi, labels, student_alpha_bar, student_betas, uniform_phi


@st.composite
def lengths(draw: st.DrawFn, most: int = 2000) -> tuple[int, int]:
    """Draw (T, T') with T' <= T. T' seldom divides T."""
    steps = draw(st.integers(1, most))
    return steps, draw(st.integers(1, steps))


@st.composite
def any_phi(draw: st.DrawFn, least: int = 50, most: int = 500) -> tuple[int, np.ndarray]:
    """Draw (T, phi) with any strictly increasing phi from 0 to T."""
    steps = draw(st.integers(least, most))
    inner = draw(st.sets(st.integers(1, steps - 1)))
    return steps, np.array([0, *sorted(inner), steps])


@given(lengths())
def test_uniform_is_round_of_t_times_the_ratio(pair: tuple[int, int]) -> None:
    steps, kept = pair
    exact = [round(Fraction(t * steps, kept)) for t in range(kept + 1)]
    phi = uniform_phi(steps, kept)
    assert phi.dtype == np.int64
    assert phi.tolist() == exact
    assert check_phi(phi, steps).tolist() == exact  # so 0 = phi_0 < ... < phi_T' = T


@given(lengths())
def test_uniform_gaps_differ_by_at_most_two(pair: tuple[int, int]) -> None:
    """The steps are spread evenly: a gap differs from T/T' by no more than the rounding of its two ends."""
    steps, kept = pair
    assert np.abs(np.diff(uniform_phi(steps, kept)) - steps / kept).max() <= 1


@pytest.mark.parametrize("kept", [1, 2, 3, 7, 16, 64, 300, 999, 1000])
def test_uniform_visits_the_steps_of_trailing_spacing(kept: int) -> None:
    """The labels phi_t - 1 are diffusers' "trailing" time steps, also when T' does not divide T."""
    scheduler = DDIMScheduler(1000, timestep_spacing="trailing")
    scheduler.set_timesteps(kept)
    assert labels(uniform_phi(1000, kept))[::-1].tolist() == scheduler.timesteps.tolist()


@pytest.mark.parametrize("kept", [0, -1, 11])
def test_uniform_refuses_impossible_lengths(kept: int) -> None:
    with pytest.raises(ValueError, match=f"between 1 and the teacher's 10, got {kept}"):
        uniform_phi(10, kept)


def test_explicit_lists_are_taken_as_they_are() -> None:
    phi = check_phi([0, 3, 4, 10], 10)
    assert phi.dtype == np.int64
    assert phi.tolist() == [0, 3, 4, 10]


@pytest.mark.parametrize(
    ("phi", "reason"),
    [
        ([], "at least two entries"),
        ([0], "at least two entries"),
        ([[0, 10]], "at least two entries"),
        ([1, 10], "must start at 0, got 1"),
        ([0, 4, 4, 10], "strictly increasing"),
        ([0, 6, 5, 10], "strictly increasing"),
        ([0, 5], "last step 10, got 5"),
        ([0, 11], "last step 10, got 11"),
        ([0, 2.5, 10], "whole numbers"),
    ],
)
def test_explicit_lists_are_checked(phi: list[int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_phi(phi, 10)


@given(
    lengths(),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0.01, 0.99),
)
def test_concentrated_keeps_its_promise_or_says_why_not(pair: tuple[int, int], start: float, end: float, share: float) -> None:
    """Every request gives a valid phi with the share inside the region, or a ValueError."""
    steps, kept = pair
    assume(start < end)
    try:
        phi = concentrated_phi(steps, kept, start=start, end=end, share=share)
    except ValueError as error:
        assert "do not fit" in str(error) or "no step is left" in str(error)  # noqa: PT017 - either outcome is right
        return
    assert check_phi(phi, steps) is not None
    assert len(phi) == kept + 1
    low, high = round(start * steps), round(end * steps)
    inside = np.count_nonzero((phi[1:] > low) & (phi[1:] <= high))
    assert inside >= share * kept - 1e-6


@given(st.integers(1, 400))
def test_half_of_the_steps_lie_in_the_noisiest_part(kept: int) -> None:
    """The documented example, for every T' that fits (T = 1000, half of the steps in the noisiest 40 %)."""
    phi = concentrated_phi(1000, kept, start=0.6, end=1.0)
    inside = phi[phi > 600]
    assert len(inside) == (kept + 1) // 2
    gaps = np.diff([600, *inside])
    assert gaps.max() - gaps.min() <= 1  # evenly spread


def test_concentrated_by_hand() -> None:
    """T = 100, six steps, half of them in (40, 60]: uniform inside, uniform on either side."""
    assert concentrated_phi(100, 6, start=0.4, end=0.6).tolist() == [0, 20, 40, 47, 53, 60, 100]


def test_concentrated_fills_a_region_to_the_last_step() -> None:
    """Rounding does not give the same step twice."""
    assert concentrated_phi(20, 16, start=0.5, end=0.9, share=0.5).tolist() == [0, 1, 3, 4, 6, 7, 9, *range(10, 19), 20]
    assert concentrated_phi(20, 16, start=0.6, end=1.0, share=0.5)[-8:].tolist() == list(range(13, 21))


def test_concentrated_on_everything_is_uniform() -> None:
    assert concentrated_phi(1000, 7, start=0, end=1).tolist() == uniform_phi(1000, 7).tolist()


@pytest.mark.parametrize(
    ("kept", "start", "end", "share", "reason"),
    [
        (10, 0.5, 0.55, 0.9, "9 steps do not fit in the 5 teacher steps from 50 to 55"),
        (10, 0.03, 1.0, 0.5, "5 steps do not fit in the 3 teacher steps outside 3 to 100"),
        (2, 0.1, 0.5, 0.9, "no step is left for the noisy end"),
        (10, 0.5, 0.5, 0.5, "0 <= start < end <= 1"),
        (10, -0.1, 0.5, 0.5, "0 <= start < end <= 1"),
        (10, 0.1, 1.5, 0.5, "0 <= start < end <= 1"),
        (10, 0.1, 0.5, 1.0, "0 < share < 1"),
        (10, 0.1, 0.5, float("nan"), "0 < share < 1"),
        (0, 0.1, 0.5, 0.5, "between 1 and the teacher's 100"),
        (101, 0.1, 0.5, 0.5, "between 1 and the teacher's 100"),
    ],
)
def test_concentrated_refuses_what_does_not_fit(kept: int, start: float, end: float, share: float, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        concentrated_phi(100, kept, start=start, end=end, share=share)


@given(any_phi(), st.sampled_from(SCHEDULES))
def test_student_betas_rebuild_the_teachers_levels(pair: tuple[int, np.ndarray], schedule: str) -> None:
    """prod_{s <= t} (1 - beta'_s) = alpha_bar[phi_t]: the student is an ordinary diffusion model on phi."""
    steps, phi = pair
    alpha_bar = alpha_bar_table(schedule, steps)
    betas = student_betas(alpha_bar, phi)
    assert np.all((betas > 0) & (betas < 1))
    # 1 - beta' has few digits left where beta' is close to 1: 16 less those of the largest fall in the schedule.
    np.testing.assert_allclose(np.cumprod(1 - betas), alpha_bar[phi[1:]], rtol=1e-6)
    np.testing.assert_array_equal(student_alpha_bar(alpha_bar, phi), alpha_bar[phi])


def test_a_teacher_is_its_own_student() -> None:
    alpha_bar = alpha_bar_table("cosine", 50)
    np.testing.assert_allclose(student_betas(alpha_bar, uniform_phi(50, 50)), 1 - alpha_bar[1:] / alpha_bar[:-1])


def test_a_phi_of_another_teacher_is_refused() -> None:
    with pytest.raises(ValueError, match="last step 50, got 40"):
        student_betas(alpha_bar_table("cosine", 50), uniform_phi(40, 4))


def test_labels_count_from_zero() -> None:
    assert labels(check_phi([0, 3, 4, 10], 10)).tolist() == [2, 3, 9]
