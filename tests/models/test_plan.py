"""Properties that every sampler's plan must have: identities of its table, and convergence where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.plan import COEFFICIENTS, SAMPLERS, Plan, ddim, dpmpp_2m, relabel
from models.schedule import SCHEDULES, alpha_bar_table
from models.subsequence import check_phi, labels, uniform_phi


@st.composite
def plans(draw: st.DrawFn, samplers: tuple[str, ...] = tuple(SAMPLERS)) -> tuple[np.ndarray, np.ndarray, Plan]:
    """Draw (alpha_bar, phi, plan) of any sampler on any phi of any schedule."""
    steps = draw(st.integers(50, 400))
    phi = check_phi(np.array([0, *sorted(draw(st.sets(st.integers(1, steps - 1), max_size=40))), steps]), steps)
    alpha_bar = alpha_bar_table(draw(st.sampled_from(SCHEDULES)), steps)
    return alpha_bar, phi, SAMPLERS[draw(st.sampled_from(samplers))](alpha_bar, phi)


@given(plans())
def test_steps_run_from_noise_to_image(made: tuple[np.ndarray, np.ndarray, Plan]) -> None:
    alpha_bar, phi, plan = made
    assert len(plan) == len(phi) - 1
    assert plan.label.tolist() == labels(phi)[::-1].tolist()
    assert plan.coefficients.shape == (len(plan), len(COEFFICIENTS))
    assert plan.coefficients.dtype == plan.s.dtype == np.float64
    assert np.isfinite(plan.coefficients).all()
    assert np.all(plan.s >= 0)
    signal, noise = plan.coefficients[:, 0], plan.coefficients[:, 1]
    np.testing.assert_array_equal(signal, np.sqrt(alpha_bar[phi[:0:-1]]))
    np.testing.assert_allclose(signal**2 + noise**2, 1, rtol=1e-14)


@given(plans())
def test_last_step_is_exactly_the_predicted_image(made: tuple[np.ndarray, np.ndarray, Plan]) -> None:
    plan = made[2]
    assert plan.coefficients[-1, 2:].tolist() == [0.0, 1.0, 0.0]
    assert plan.s[-1] == 0


@given(plans())
def test_first_step_needs_no_history(made: tuple[np.ndarray, np.ndarray, Plan]) -> None:
    assert made[2].coefficients[0, 4] == 0


@given(plans(("ddim", "dpmpp")), st.integers(0, 2**32 - 1))
def test_true_x0_leads_along_the_forward_process(made: tuple[np.ndarray, np.ndarray, Plan], seed: int) -> None:
    """Given the true x0 at every step, a deterministic plan visits sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps."""
    alpha_bar, phi, plan = made
    x0, eps = np.random.default_rng(seed).standard_normal((2, 5))
    level = alpha_bar[phi[::-1]]
    x, previous = np.sqrt(level[0]) * x0 + np.sqrt(1 - level[0]) * eps, np.zeros_like(x0)
    for step, (_, _, a, b, c) in enumerate(plan.coefficients):
        x, previous = a * x + b * x0 + c * previous, x0
        np.testing.assert_allclose(x, np.sqrt(level[step + 1]) * x0 + np.sqrt(1 - level[step + 1]) * eps, rtol=0, atol=1e-11)


@given(plans())
def test_marginals_are_those_of_the_forward_process(made: tuple[np.ndarray, np.ndarray, Plan]) -> None:
    """q(x_next | x0) has mean signal' x0 and variance 1 - alpha_bar', for ancestral sampling too."""
    alpha_bar, phi, plan = made
    following = alpha_bar[phi[-2::-1]]
    signal, noise, a, b, c = plan.coefficients.T
    np.testing.assert_allclose(a * signal + b + c, np.sqrt(following), rtol=0, atol=1e-11)
    np.testing.assert_allclose(a**2 * noise**2 + plan.s**2, 1 - following, rtol=1e-9, atol=1e-13)


@given(plans())
def test_only_ancestral_sampling_draws_noise(made: tuple[np.ndarray, np.ndarray, Plan]) -> None:
    alpha_bar, phi, _ = made
    assert SAMPLERS["ddim"](alpha_bar, phi).deterministic
    assert SAMPLERS["dpmpp"](alpha_bar, phi).deterministic
    assert SAMPLERS["ddpm"](alpha_bar, phi).deterministic == (len(phi) == 2)  # the last step never adds noise


@given(plans(("ddpm",)))
def test_ancestral_noise_is_the_posterior_variance(made: tuple[np.ndarray, np.ndarray, Plan]) -> None:
    """s^2 = (1 - alpha_bar')/(1 - alpha_bar) beta (Ho et al. 2020, eq. 7)."""
    alpha_bar, phi, plan = made
    here, following = alpha_bar[phi[:0:-1]], alpha_bar[phi[-2::-1]]
    np.testing.assert_allclose(plan.s**2, (1 - following) / (1 - here) * (1 - here / following), rtol=1e-12)


def gaussian_error(plan: Plan, variance: float, alpha_bar: np.ndarray) -> float:
    """Return the error of a plan on x0 ~ N(0, variance), where the best prediction is linear in x and the flow is known.

    The probability-flow ODE keeps x / sqrt(v), v = alpha_bar variance + 1 - alpha_bar.
    """
    x, previous = 1.0, 0.0
    for signal, noise, a, b, c in plan.coefficients:
        x0 = signal * variance / (signal**2 * variance + noise**2) * x
        x, previous = a * x + b * x0 + c * previous, x0
    return abs(x - np.sqrt(variance / (alpha_bar[-1] * variance + 1 - alpha_bar[-1])))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_both_deterministic_samplers_converge_on_the_flow(schedule: str) -> None:
    alpha_bar = alpha_bar_table(schedule, 4096)
    for sampler in (ddim, dpmpp_2m):
        errors = [gaussian_error(sampler(alpha_bar, uniform_phi(4096, n)), 0.25, alpha_bar) for n in (16, 64, 256, 4096)]
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < 1e-3


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_second_order_beats_first_order(schedule: str) -> None:
    alpha_bar = alpha_bar_table(schedule, 4096)
    phi = uniform_phi(4096, 32)
    second, first = (gaussian_error(sampler(alpha_bar, phi), 0.25, alpha_bar) for sampler in (dpmpp_2m, ddim))
    assert second < first / 5


def test_relabel_changes_labels_only() -> None:
    plan = dpmpp_2m(alpha_bar_table("cosine", 100), uniform_phi(100, 4))
    other = relabel(plan, np.array([10, 11, 12, 13]))
    assert other.label.tolist() == [13, 12, 11, 10]
    assert other.coefficients is plan.coefficients
    assert other.s is plan.s


@pytest.mark.parametrize("count", [3, 5])
def test_relabel_wants_one_label_a_step(count: int) -> None:
    plan = ddim(alpha_bar_table("cosine", 100), uniform_phi(100, 4))
    with pytest.raises(ValueError, match=f"plan of 4 rows needs as many labels, got {count}"):
        relabel(plan, np.arange(count))
