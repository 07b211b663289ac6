"""The teacher's walk, and the clean image that leads to its end in one step. Tested on the tiny teacher."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from numpy.typing import NDArray

from models.network import noised, predict
from models.plan import ddim
from models.schedule import alpha_bar_table
from models.subsequence import uniform_phi
from training.torch_model import TorchModel, load_model
from training.walk import Walk, multistep_gain, walk_table, walk_weights


@pytest.fixture(scope="module")
def teacher(teacher_run: Path) -> TorchModel:
    return load_model(str(teacher_run))


def _batch(teacher: TorchModel, phi: NDArray[np.int64], count: int = 24) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (x at phi_t, t, label) for pictures noised to random student steps."""
    generator = torch.Generator().manual_seed(3)
    t = torch.arange(count) % (len(phi) - 1) + 1
    level = torch.from_numpy(teacher.alpha_bar[phi])[t].float()[:, None, None, None]
    x0 = torch.rand(count, *teacher.shape, generator=generator) * 2 - 1
    x = noised(x0, eps=torch.randn(x0.shape, generator=generator), signal=level.sqrt(), noise=(1 - level).sqrt())
    return x, t, torch.arange(count) % len(teacher.classes)


@pytest.mark.parametrize(("steps", "k"), [(8, 1), (8, 4), (7, 3), (64, 4), (40, 2)])
def test_walk_goes_from_phi_t_to_the_step_before(steps: int, k: int) -> None:
    phi = uniform_phi(64, steps)
    table = walk_table(phi, k)
    assert np.array_equal(table[:, 0], phi[1:])
    assert np.array_equal(table[:, -1], phi[:-1])
    moves = -np.diff(table, axis=1)
    assert np.all(moves >= 0)
    assert np.array_equal((moves > 0).sum(axis=1), np.minimum(k, np.diff(phi)))


def test_weights_are_a_mean_and_end_on_the_last_prediction() -> None:
    alpha_bar, phi = alpha_bar_table("cosine", 64), uniform_phi(64, 8)
    weights = walk_weights(alpha_bar, walk_table(phi, 4))
    assert np.allclose(weights.sum(axis=1), 1)
    assert np.all(weights >= 0)
    assert np.array_equal(weights[0], [0, 0, 0, 1])
    tau = walk_table(phi, 4)[4]
    r = np.sqrt(alpha_bar[tau] / (1 - alpha_bar[tau]))
    assert np.allclose(weights[4], np.diff(r) / (r[-1] - r[0]))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_one_student_step_lands_where_the_walk_does(teacher: TorchModel, k: int) -> None:
    """Compare x_{phi_{t-1}} = a x + b x0* with diffusers' own DDIM steps of the teacher."""
    phi = uniform_phi(64, 8)
    x, t, label = _batch(teacher, phi)
    target, _ = Walk(teacher, phi, k)(x, t=t, label=label)
    scheduler = DDIMScheduler(
        num_train_timesteps=64,
        trained_betas=(1 - teacher.alpha_bar[1:] / teacher.alpha_bar[:-1]).tolist(),
        prediction_type="v_prediction",
        clip_sample=True,
    )
    plan = ddim(teacher.alpha_bar, phi)
    for i in range(len(x)):
        walk = walk_table(phi, k)[int(t[i]) - 1]
        state = x[i : i + 1]
        for here, following in itertools.pairwise(walk):
            with torch.no_grad():
                prediction = predict(teacher.network, state, timestep=torch.tensor([here - 1]), class_label=label[i : i + 1])
            # diffusers derives the destination from the number of inference steps; give it the exact stride.
            scheduler.num_inference_steps = 1
            scheduler.config.num_train_timesteps = int(here - following)
            state = scheduler.step(prediction, int(here) - 1, state, use_clipped_model_output=True).prev_sample
        _, _, a, b, _ = plan.coefficients[len(phi) - 1 - int(t[i])]
        landed = a * x[i : i + 1] + b * target[i : i + 1]
        assert torch.allclose(landed.float(), state, atol=2e-5)


def test_k1_with_clipping_rederives_from_the_clipped_x0(teacher: TorchModel) -> None:
    phi = uniform_phi(64, 8)
    x, t, label = _batch(teacher, phi)
    x = x * 3  # pushes predictions outside [-1, 1]
    level = torch.from_numpy(teacher.alpha_bar[phi])[t].float()[:, None, None, None]
    with torch.no_grad():
        v = predict(teacher.network, x, timestep=torch.from_numpy(phi)[t] - 1, class_label=label)
    x0 = level.sqrt() * x - (1 - level).sqrt() * v
    assert (x0.abs() > 1).any()
    assert torch.allclose(Walk(teacher, phi, 1)(x, t=t, label=label)[0], x0.clamp(-1, 1), atol=1e-5)


# diffusers 0.42 builds its sigmas by np.array(tensor), which numpy 2 warns of
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
@pytest.mark.parametrize("k", [2, 3, 4])
def test_multistep_walk_is_dpm_solver(teacher: TorchModel, k: int) -> None:
    """A walk ends where diffusers' DPM-Solver++(2M) does over the same sub-steps, first order at the start of each walk."""
    phi = uniform_phi(64, 8)
    x, t, label = _batch(teacher, phi)
    target, landed = Walk(teacher, phi, k, "dpmpp")(x, t=t, label=label)
    plan = ddim(teacher.alpha_bar, phi)
    for i in range(len(x)):
        walk = walk_table(phi, k)[int(t[i]) - 1]
        scheduler = DPMSolverMultistepScheduler(
            num_train_timesteps=64,
            trained_betas=(1 - teacher.alpha_bar[1:] / teacher.alpha_bar[:-1]).tolist(),
            prediction_type="v_prediction",
            thresholding=True,
            sample_max_value=1.0,
            lower_order_final=False,
            final_sigmas_type="zero",
        )
        scheduler.set_timesteps(k)
        # The walk's own levels in diffusers' sigmas, noise/signal; the last is zero where the walk ends on the image.
        level = teacher.alpha_bar[walk]
        scheduler.sigmas = torch.from_numpy(np.sqrt((1 - level) / level)).float()
        scheduler.timesteps = torch.from_numpy(walk[:-1] - 1)
        scheduler.register_to_config(final_sigmas_type="zero" if walk[-1] == 0 else "sigma_min")  # first order where zero
        state = x[i : i + 1]
        for step in scheduler.timesteps:
            with torch.no_grad():
                prediction = predict(teacher.network, state, timestep=step[None], class_label=label[i : i + 1])
            state = scheduler.step(prediction, step, state).prev_sample
        assert torch.allclose(landed[i : i + 1], state, atol=5e-5)
        _, _, a, b, _ = plan.coefficients[len(phi) - 1 - int(t[i])]
        jump = (a * x[i : i + 1] + b * target[i : i + 1]).float()
        inside = (target[i].abs() < 1).all()
        assert not inside or torch.allclose(jump, state, atol=5e-5)


def test_the_first_sub_step_and_the_one_onto_the_image_are_first_order() -> None:
    alpha_bar, phi = alpha_bar_table("cosine", 64), uniform_phi(64, 8)
    gain = multistep_gain(alpha_bar, walk_table(phi, 4))
    assert np.all(gain[:, 0] == 0)
    assert gain[0, -1] == 0
    assert np.all(gain[1:, 1:] > 0)
    assert np.isfinite(gain).all()
    short = multistep_gain(alpha_bar, walk_table(uniform_phi(64, 32), 4))  # two sub-steps stay at phi_t, then two move
    assert np.all(short[1:, :3] == 0)
    assert np.all(short[1:, 3] > 0)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp"])
def test_no_clean_image_leaves_the_range(teacher: TorchModel, solver: str) -> None:
    """x0* stays in the range also at the noisiest step, where the signal is almost zero."""
    phi = uniform_phi(64, 8)
    x, t, label = _batch(teacher, phi)
    target, _ = Walk(teacher, phi, 4, solver)(x * 2, t=t, label=label)  # type: ignore[arg-type]
    assert target.abs().max() <= 1
    assert torch.isfinite(target).all()
