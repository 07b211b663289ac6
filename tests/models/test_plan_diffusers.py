"""Plans compared with diffusers' schedulers at every x of every walk.

Both sides call one smooth network whose predictions run past the clip range in places. Each case is tried with the
scheduler's own float32 tables ("stock") and with ours put in their place in float64 ("exact"), which leaves only the
sampler's arithmetic to compare.

Settings under which diffusers computes the same thing: DDIM re-derives eps from the clipped x0 with
use_clipped_model_output; DDPM's variance is fixed_small; DPM-Solver++ clips only by thresholding with sample_max_value 1
(its quantile is then clamped to 1); a sub-sequence is set_timesteps(timesteps=phi - 1), except for DDIM, whose steps
are evenly spaced: any other phi is a scheduler of its own, with the student's betas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

from models.plan import Plan, ddim, ddpm, dpmpp_2m
from models.schedule import alpha_bar_table
from models.subsequence import Int64, concentrated_phi, student_alpha_bar, student_betas, uniform_phi

T = 1000
THEIRS = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
PREDICTIONS = ["epsilon", "v_prediction"]
TABLES = ["stock", "exact"]
DIVISORS = [1, 2, 8, 50, 125]
OTHERS = [3, 7, 16, 48, 300]

Network = Callable[[np.ndarray, int], np.ndarray]

schedules = pytest.mark.parametrize("schedule", list(THEIRS))
predictions = pytest.mark.parametrize("prediction", PREDICTIONS)
tables = pytest.mark.parametrize("tables", TABLES)

# DPMSolverMultistepScheduler calls numpy.array on a tensor, and torch does not accept numpy 2's argument `copy` there yet.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")


def make_network(prediction: str, alpha_bar: np.ndarray) -> Network:
    """Predict by a smooth function of x and label: float64 [2, 1, 4, 4] -> the same. label counts teacher steps from zero."""
    pattern = np.linspace(-1.5, 1.5, 32).reshape(2, 1, 4, 4)

    def network(x: np.ndarray, label: int) -> np.ndarray:
        signal, noise = np.sqrt(alpha_bar[label + 1]), np.sqrt(1 - alpha_bar[label + 1])
        x0 = 1.3 * np.tanh(0.7 * x + pattern * np.cos(label / 150))
        return (x - signal * x0) / noise if prediction == "epsilon" else (signal * x - x0) / noise

    return network


def start() -> np.ndarray:
    return np.random.default_rng(7).standard_normal((2, 1, 4, 4))


def fresh(row: int) -> torch.Generator:
    """Return the generator from which diffusers draws a row's noise. Our walk draws the same numbers."""
    return torch.Generator().manual_seed(1000 + row)


def walk(plan: Plan, network: Network, prediction: str) -> list[np.ndarray]:
    """Return every x of a walk through a plan, by the definition in models.plan."""
    x, previous, visited = start(), np.zeros((2, 1, 4, 4)), []
    for row, (label, (signal, noise, a, b, c), s) in enumerate(zip(plan.label, plan.coefficients, plan.s, strict=True)):
        out = network(x, int(label))
        x0 = (x - noise * out) / signal if prediction == "epsilon" else signal * x - noise * out
        x0 = np.clip(x0, -1, 1)
        z = torch.randn(x.shape, generator=fresh(row), dtype=torch.float64).numpy()
        x, previous = a * x + b * x0 + c * previous + s * z, x0
        visited.append(x)
    return visited


def follow(scheduler: Any, network: Network, label_of: Int64, step: Callable[[int], dict[str, Any]]) -> list[np.ndarray]:
    """Return every x of a walk by a diffusers scheduler. label_of[i] is the network's label of its i-th time step."""
    x, visited = torch.from_numpy(start()), []
    for row, (t, label) in enumerate(zip(scheduler.timesteps, label_of, strict=True)):
        out = torch.from_numpy(network(x.numpy(), int(label)))
        x = scheduler.step(out, t, x, **step(row)).prev_sample
        visited.append(x.numpy())
    return visited


def put(scheduler: Any, alpha_bar: np.ndarray, tables: str) -> Any:
    """Return the scheduler with its own float32 tables, or with ours."""
    if tables == "exact":
        scheduler.alphas_cumprod = torch.from_numpy(alpha_bar[1:].copy())
    return scheduler


def compare(ours: list[np.ndarray], theirs: list[np.ndarray], atol: float) -> None:
    assert len(ours) == len(theirs)
    for row, (mine, reference) in enumerate(zip(ours, theirs, strict=True)):
        np.testing.assert_allclose(mine, reference, rtol=0, atol=atol, err_msg=f"row {row}")
    assert np.abs(ours[-1]).max() <= 1
    assert np.ptp(ours[-1]) > 0.5  # not a constant image, on which any two samplers agree


def tolerance(tables: str, schedule: str, prediction: str, *, exact: float) -> float:
    """Return `exact` with our tables, else the error that diffusers' float32 betas cause over a walk.

    That is 3e-4 but for a cosine alpha_bar_T of 2e-9, which is some percent wrong and divides in x0 = (x - noise eps)/signal.
    """
    if tables == "exact":
        return exact
    return 1e-2 if (schedule, prediction) == ("cosine", "epsilon") else 3e-4


def student_cases() -> Iterator[tuple[str, str, str, int | None]]:
    """List the (schedule, prediction, tables, T') to compare.

    Left out: few eps-predicting steps of the cosine schedule on float32 betas. 1 - beta'_T' is some 1e-8 there, which
    rounds to 0 or to twice that, and no x0 is left to compare.
    """
    for schedule, prediction, kind, kept in product(THEIRS, PREDICTIONS, TABLES, [*OTHERS, None]):
        if not ((schedule, prediction, kind) == ("cosine", "epsilon", "stock") and kept in (3, 7)):
            yield schedule, prediction, kind, kept


@schedules
@predictions
@tables
@pytest.mark.parametrize("kept", [*DIVISORS, T])
def test_ddim_on_a_divisor(schedule: str, prediction: str, tables: str, kept: int) -> None:
    """Return the teacher's scheduler with trailing spacing."""
    alpha_bar, phi = alpha_bar_table(schedule, T), uniform_phi(T, kept)
    network = make_network(prediction, alpha_bar)
    scheduler = DDIMScheduler(T, beta_schedule=THEIRS[schedule], prediction_type=prediction, timestep_spacing="trailing")
    put(scheduler, alpha_bar, tables).set_timesteps(kept)
    theirs = follow(scheduler, network, scheduler.timesteps.numpy(), lambda _: {"use_clipped_model_output": True})
    compare(walk(ddim(alpha_bar, phi), network, prediction), theirs, tolerance(tables, schedule, prediction, exact=1e-12))


@pytest.mark.parametrize(("schedule", "prediction", "tables", "kept"), list(student_cases()))
def test_ddim_on_any_phi(schedule: str, prediction: str, tables: str, kept: int | None) -> None:
    """Build the student as stock diffusers runs it: T' steps with the student's betas. None: a concentrated phi."""
    alpha_bar = alpha_bar_table(schedule, T)
    phi = uniform_phi(T, kept) if kept else concentrated_phi(T, 20, start=0.6, end=1.0)
    kept = len(phi) - 1
    network = make_network(prediction, alpha_bar)
    scheduler = DDIMScheduler(kept, trained_betas=student_betas(alpha_bar, phi), prediction_type=prediction)
    put(scheduler, student_alpha_bar(alpha_bar, phi), tables).set_timesteps(kept)
    theirs = follow(scheduler, network, phi[:0:-1] - 1, lambda _: {"use_clipped_model_output": True})
    compare(walk(ddim(alpha_bar, phi), network, prediction), theirs, tolerance(tables, schedule, prediction, exact=1e-12))


@schedules
@predictions
@tables
@pytest.mark.parametrize("kept", [*DIVISORS, *OTHERS, T])
def test_ddpm(schedule: str, prediction: str, tables: str, kept: int) -> None:
    alpha_bar, phi = alpha_bar_table(schedule, T), uniform_phi(T, kept)
    network = make_network(prediction, alpha_bar)
    scheduler = DDPMScheduler(
        T, beta_schedule=THEIRS[schedule], prediction_type=prediction, variance_type="fixed_small", clip_sample=True
    )
    put(scheduler, alpha_bar, tables).set_timesteps(timesteps=(phi[:0:-1] - 1).tolist())
    theirs = follow(scheduler, network, phi[:0:-1] - 1, lambda row: {"generator": fresh(row)})
    compare(walk(ddpm(alpha_bar, phi), network, prediction), theirs, tolerance(tables, schedule, prediction, exact=1e-9))


@schedules
@predictions
@tables
@pytest.mark.parametrize("kept", [*DIVISORS, *OTHERS, T])
def test_dpmpp_2m(schedule: str, prediction: str, tables: str, kept: int) -> None:
    alpha_bar, phi = alpha_bar_table(schedule, T), uniform_phi(T, kept)
    network = make_network(prediction, alpha_bar)
    scheduler = DPMSolverMultistepScheduler(
        T,
        beta_schedule=THEIRS[schedule],
        prediction_type=prediction,
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
        thresholding=True,
        sample_max_value=1.0,
    )
    put(scheduler, alpha_bar, tables).set_timesteps(timesteps=(phi[:0:-1] - 1).tolist())
    theirs = follow(scheduler, network, phi[:0:-1] - 1, lambda _: {})
    compare(walk(dpmpp_2m(alpha_bar, phi), network, prediction), theirs, tolerance(tables, schedule, prediction, exact=1e-4))
