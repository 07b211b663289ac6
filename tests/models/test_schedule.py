"""Schedules compared with diffusers' betas and closed forms, and the rules that every table keeps."""

from __future__ import annotations

import numpy as np
import pytest
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from models.schedule import (
    SCHEDULES,
    alpha_bar_from_betas,
    alpha_bar_table,
    cosine_betas,
    linear_betas,
    sigmoid_betas,
)

LENGTHS = (64, 250, 1000, 1024)
FLOAT32 = 2e-6  # a few roundings of diffusers' float32 tables


def scaled(schedule: str, steps: int) -> np.ndarray:
    """Return the betas of diffusers, with end points rescaled by 1000/T as ours are."""
    scale = 1000 / steps
    scheduler = DDPMScheduler(steps, beta_start=1e-4 * scale, beta_end=0.02 * scale, beta_schedule=schedule)
    return scheduler.betas.numpy()


@pytest.mark.parametrize("steps", LENGTHS)
def test_linear_matches_diffusers(steps: int) -> None:
    np.testing.assert_allclose(linear_betas(steps), scaled("linear", steps), rtol=FLOAT32)


@pytest.mark.parametrize("steps", LENGTHS)
def test_cosine_matches_diffusers(steps: int) -> None:
    np.testing.assert_allclose(cosine_betas(steps), scaled("squaredcos_cap_v2", steps), rtol=FLOAT32)


@pytest.mark.parametrize("steps", LENGTHS)
def test_sigmoid_matches_diffusers(steps: int) -> None:
    np.testing.assert_allclose(sigmoid_betas(steps), scaled("sigmoid", steps), rtol=FLOAT32, atol=1e-9)


@pytest.mark.parametrize(("name", "theirs"), [("linear", "linear"), ("sigmoid", "sigmoid")])
def test_thousand_steps_are_the_original(name: str, theirs: str) -> None:
    """At T = 1000 the scale is 1: the stock scheduler, with no end points given, is the same schedule."""
    stock = DDPMScheduler(1000, beta_schedule=theirs).alphas_cumprod.numpy()
    np.testing.assert_allclose(alpha_bar_table(name, 1000)[1:], stock, rtol=1e-4)


@pytest.mark.parametrize("steps", LENGTHS)
def test_cosine_alpha_bar_has_its_closed_form(steps: int) -> None:
    """alpha_bar_t = f(t)/f(0) up to the last step, where beta is capped."""
    f = np.cos((np.arange(steps) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    table = alpha_bar_table("cosine", steps)
    np.testing.assert_allclose(table[:-1], f / f[0], rtol=1e-11)
    assert table[-1] / table[-2] == pytest.approx(1 - 0.999, rel=1e-9)


@given(name=st.sampled_from(SCHEDULES), steps=st.integers(1, 3000))
def test_every_table_is_a_schedule(name: str, steps: int) -> None:
    table = alpha_bar_table(name, steps)
    assert table.dtype == np.float64
    assert table.shape == (steps + 1,)
    assert table[0] == 1
    assert table[-1] > 0
    assert np.all(np.diff(table) < 0)


@pytest.mark.parametrize("name", ["linear", "sigmoid"])
@pytest.mark.parametrize("steps", [100, 1000, 1024, 20_000])
def test_rescaling_keeps_the_noisy_end(name: str, steps: int) -> None:
    assert 1.5e-5 < alpha_bar_table(name, steps)[-1] < 5e-5


@given(st.lists(st.floats(1e-6, 0.99), min_size=1, max_size=50))
def test_alpha_bar_gives_the_betas_back(betas: list[float]) -> None:
    table = alpha_bar_from_betas(np.array(betas))
    np.testing.assert_allclose(1 - table[1:] / table[:-1], betas, rtol=1e-9)


@pytest.mark.parametrize("betas", [[], [0.0], [0.1, 1.0], [-0.1], [float("nan")], [[0.1, 0.2]]])
def test_betas_outside_their_range_are_refused(betas: list[float]) -> None:
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        alpha_bar_from_betas(np.array(betas))


def test_betas_that_leave_no_signal_are_refused() -> None:
    with pytest.raises(ValueError, match="leave no signal"):
        alpha_bar_from_betas(np.full(200, 0.999))


def test_unknown_schedule_names_the_choices() -> None:
    with pytest.raises(ValueError, match="'quadratic'; choose one of linear, cosine, sigmoid"):
        alpha_bar_table("quadratic", 10)


def test_no_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        alpha_bar_table("linear", 0)
