"""Loss weights, the clip-aware error, and the objectives besides the rollout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models.network import PredictionType, predict, prediction_from_x0, x0_from_prediction
from models.plan import SAMPLERS
from models.schedule import alpha_bar_table
from models.subsequence import uniform_phi
from tests.training.conftest import tiny_loop
from training.config import DistillConfig
from training.distill import distill, make_objective, make_student
from training.errors import TrainingError
from training.loop import step_generator
from training.noising import NoisedBatch, Noising
from training.objective_config import ConsistencyConfig, ProgressiveConfig, ReleasedConfig, RolloutConfig, objective_config
from training.objectives.base import loss_weight, reachable_error
from training.run_facts import Cost
from training.torch_model import TorchModel, load_model
from training.walk import Walk

PHI = uniform_phi(64, 8)


@pytest.fixture(scope="module")
def teacher(teacher_run: Path) -> TorchModel:
    return load_model(str(teacher_run))


def _config(teacher_run: Path, idx_folder: Path, **changes: object) -> DistillConfig:
    settings: dict[str, object] = {"teacher": str(teacher_run), "data": str(idx_folder), "steps": 8, "loop": tiny_loop(16)}
    return DistillConfig.model_validate({**settings, **changes})


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    ("weight", "of_snr"), [("snr", lambda snr: snr), ("truncated-snr", lambda snr: np.maximum(snr, 1)), ("simple", None)]
)
def test_weights_are_the_same_in_x0_whatever_is_predicted(kind: PredictionType, weight: str, of_snr: object) -> None:
    """Compare the loss with w(SNR) ||x0 - x0*||^2, for two predictions that differ by 0.01 in x0."""
    kept = alpha_bar_table("linear", 64)[PHI[1:]]
    snr = kept / (1 - kept)
    x = torch.randn(len(kept), 1, 2, 2, dtype=torch.float64)
    signal, noise = (torch.from_numpy(f)[:, None, None, None] for f in (np.sqrt(kept), np.sqrt(1 - kept)))
    low, high = (prediction_from_x0(torch.full_like(x, v), x=x, signal=signal, noise=noise, kind=kind) for v in (0.5, 0.51))
    error = (high - low).square().mean(dim=(1, 2, 3)).numpy() * loss_weight(kept, kind, weight, 1e9)  # type: ignore[arg-type]
    expected = of_snr(snr) if callable(of_snr) else snr + (kind == "v_prediction")
    assert np.allclose(error, expected * 0.01**2)


def test_epsilon_weights_are_capped() -> None:
    kept = alpha_bar_table("cosine", 64)[PHI[1:]]
    assert loss_weight(kept, "epsilon", "auto", 1000.0).max() == 1000
    assert loss_weight(kept, "epsilon", "auto", 1000.0).min() == 1
    assert np.all(loss_weight(kept, "v_prediction", "auto", 1000.0) == 1)


def test_what_clipping_makes_right_is_no_error() -> None:
    level = torch.full((1, 1, 1, 1), 0.5).sqrt()
    x = torch.zeros(1, 1, 1, 6)
    x0 = torch.tensor([-1.3, -1.3, -0.7, 1.2, 1.2, 0.4]).reshape(x.shape)  # the student's
    wanted = torch.tensor([-1.0, -0.9, -1.0, 1.0, -1.0, 0.4]).reshape(x.shape)
    batch = NoisedBatch(x=x, t=torch.ones(1, dtype=torch.int64), signal=level, noise=level, label=None)
    student, target = (prediction_from_x0(image, x=x, signal=level, noise=level, kind="v_prediction") for image in (x0, wanted))
    given: dict[str, Any] = {"prediction": student, "target": target, "x0_target": wanted, "batch": batch}
    error = reachable_error(**given, kind="v_prediction", clip=(-1.0, 1.0))
    assert torch.equal(error != 0, torch.tensor([False, True, True, False, True, False]).reshape(x.shape))
    assert torch.equal(reachable_error(**given, kind="v_prediction", clip=None), student - target)


@pytest.mark.parametrize(("sampler", "norm"), [("ddim", "squared"), ("ddim", "l2"), ("dpmpp", "squared")])
def test_rollout_asks_for_the_prediction_that_lands_where_the_walk_does(
    sampler: str, norm: str, teacher: TorchModel, teacher_run: Path, idx_folder: Path
) -> None:
    """Compare with the steps of the plan that the service runs. A multistep student first takes the two steps before t."""
    config = _config(
        teacher_run, idx_folder, objective={"objective": "rollout", "sampler": sampler, "norm": norm, "solver": "dpmpp", "k": 3}
    )
    student = make_student(config, teacher, PHI)
    with torch.no_grad():
        student.conv_out.bias += 0.2
    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    student.register_forward_hook(lambda _, given, made: seen.append((given[0], given[1], made[0])))
    x0, label = torch.rand(16, 1, 8, 8) * 2 - 1, torch.arange(16) % 3
    loss = make_objective(config, teacher, student, PHI).loss(student, x0, label, step_generator(0, 0), slice(None))
    batch = Noising(teacher, PHI, batch=16, flip=False)(x0, label, step_generator(0, 0), slice(None))

    def coefficients(make: str, t: torch.Tensor) -> torch.Tensor:
        """Return signal, noise, a, b, c of student steps t: [5, B, 1, 1, 1]."""
        table = SAMPLERS[make](teacher.alpha_bar, PHI).coefficients[::-1].copy()
        return torch.from_numpy(table[t - 1]).float().T[:, :, None, None, None]

    x, previous = batch.x, torch.zeros_like(batch.x)
    *before, (at, number, made) = seen
    for i, (from_x, from_number, from_made) in enumerate(before):
        signal, noise, a, b, c = coefficients("ddim" if i == 0 else sampler, from_number + 1)
        above = x0_from_prediction(from_made, x=from_x, signal=signal, noise=noise, kind=teacher.prediction_type, clip=(-1, 1))
        comes = (batch.t + len(before) - i <= 8)[:, None, None, None]
        x = torch.where(comes, a * from_x + b * above + c * previous, from_x)
        previous = torch.where(comes, above, previous)
        if i + 1 < len(before):
            assert torch.allclose(before[i + 1][0], x, atol=1e-5)
        assert 0 < comes.sum() < len(x)
    assert len(before) == (2 if sampler == "dpmpp" else 0)
    assert torch.equal(number, batch.t - 1)
    assert torch.allclose(at, x, atol=1e-5)
    signal, noise, a, b, c = coefficients(sampler, batch.t)
    assert bool(c.any()) == (sampler == "dpmpp")
    _, landed = Walk(teacher, PHI, 3, "dpmpp")(x, t=batch.t, label=label)
    wanted = (landed - a * x - c * previous) / b
    wanted = torch.where(wanted.abs() > 1 - 1e-5, wanted.sign(), wanted)  # values within rounding of a bound are on it
    target = prediction_from_x0(wanted, x=x, signal=signal, noise=noise, kind=teacher.prediction_type)
    batch = NoisedBatch(x=x, t=batch.t, signal=signal, noise=noise, label=label)
    error = reachable_error(
        prediction=made.detach(), target=target, x0_target=wanted, batch=batch, kind=teacher.prediction_type, clip=(-1, 1)
    )
    each = error.square().mean(dim=(1, 2, 3))
    assert loss.item() == pytest.approx(float(each.mean() if norm == "squared" else each.sqrt().mean()), rel=1e-3)
    loss.backward()
    assert student.conv_out.weight.grad is not None


def test_only_a_rollout_has_its_options() -> None:
    assert objective_config("released", {}) == ReleasedConfig()
    assert objective_config("rollout", {"k": 7}) == RolloutConfig(k=7)
    for option, value in (("sampler", "dpmpp"), ("norm", "l2"), ("k", 7), ("k", RolloutConfig().k)):
        with pytest.raises(TrainingError, match=f"--{option} needs --objective rollout"):
            objective_config("released", {option: value})
    with pytest.raises(TrainingError, match="--objective must be rollout, released, consistency, got 'other'"):
        objective_config("other", {})


def test_released_is_l1_on_prediction_and_last_features(teacher: TorchModel, teacher_run: Path, idx_folder: Path) -> None:
    config = _config(teacher_run, idx_folder, objective=ReleasedConfig())
    student = make_student(config, teacher, PHI)
    loss = make_objective(config, teacher, student, PHI).loss
    x0, label = torch.rand(16, 1, 8, 8) * 2 - 1, torch.arange(16) % 3
    assert loss(student, x0, label, step_generator(0, 0), slice(None)).item() == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        student.conv_out.bias += 0.1  # moves every prediction, and no feature
    assert loss(student, x0, label, step_generator(0, 0), slice(None)).item() == pytest.approx(0.1, abs=1e-5)
    with torch.no_grad():
        student.conv_out.bias -= 0.1
        student.conv_in.bias += 0.3
    batch = Noising(teacher, PHI, batch=16, flip=False)(x0, label, step_generator(0, 0), slice(None))
    seen: list[torch.Tensor] = []
    hooks = [
        network.conv_norm_out.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        for network in (student, teacher.network)
    ]
    with torch.no_grad():
        ours = predict(student, batch.x, timestep=batch.t - 1, class_label=batch.label)
        theirs = predict(teacher.network, batch.x, timestep=torch.from_numpy(PHI)[batch.t] - 1, class_label=batch.label)
    for hook in hooks:
        hook.remove()
    expected = (ours - theirs).abs().mean() + (seen[0] - seen[1]).abs().mean()
    assert loss(student, x0, label, step_generator(0, 0), slice(None)).item() == pytest.approx(float(expected), rel=1e-5)


def test_released_refuses_another_width(teacher_run: Path, idx_folder: Path, tmp_path: Path) -> None:
    shape = {"channels": (4, 8), "layers": 1, "attention": (False, False), "head_dim": 8, "groups": 4}
    with pytest.raises(
        TrainingError, match=r"4 channels wide in the student and 8 in the teacher; keep the teacher's first width"
    ):
        distill(_config(teacher_run, idx_folder, objective=ReleasedConfig(), unet=shape), tmp_path)


def test_consistency_target_is_the_student_one_teacher_step_on(
    teacher: TorchModel, teacher_run: Path, idx_folder: Path
) -> None:
    config = _config(teacher_run, idx_folder, objective=ConsistencyConfig())
    student = make_student(config, teacher, PHI)
    x0, label = torch.rand(16, 1, 8, 8) * 2 - 1, torch.arange(16) % 3
    batch = Noising(teacher, PHI, batch=16, flip=False)(x0, label, step_generator(0, 0), slice(None))
    alpha_bar = torch.from_numpy(teacher.alpha_bar[PHI]).float()

    def clean(network: nn.Module, x: torch.Tensor, t: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
        level = alpha_bar[t][:, None, None, None]
        prediction = predict(network, x, timestep=number, class_label=label)
        return x0_from_prediction(
            prediction, x=x, signal=level.sqrt(), noise=(1 - level).sqrt(), kind=teacher.prediction_type, clip=None
        )

    with torch.no_grad():
        t, before = batch.t, batch.t - 1
        step = clean(teacher.network, batch.x, t, torch.from_numpy(PHI)[t] - 1).clamp(-1, 1)
        here, there = alpha_bar[t][:, None, None, None], alpha_bar[before][:, None, None, None]
        landed = there.sqrt() * step + (1 - there).sqrt() * (batch.x - here.sqrt() * step) / (1 - here).sqrt()
        target = clean(student, landed, before, (before - 1).clamp(min=0)).clamp(-1, 1)
        target[before == 0] = landed[before == 0].clamp(-1, 1)
        expected = (clean(student, batch.x, t, t - 1) - target).square().mean()
    assert (before == 0).any()
    loss = make_objective(config, teacher, student, PHI).loss(student, x0, label, step_generator(0, 0), slice(None))
    assert loss.item() == pytest.approx(float(expected), rel=1e-4)
    loss.backward()
    assert student.conv_out.weight.grad is not None


def test_consistency_needs_v(teacher: TorchModel, teacher_run: Path, idx_folder: Path) -> None:
    wrong = TorchModel(**{**vars(teacher), "prediction_type": "epsilon"})
    with pytest.raises(TrainingError, match="needs a teacher that predicts v"):
        make_objective(_config(teacher_run, idx_folder, objective=ConsistencyConfig()), wrong, wrong.network, PHI)


@pytest.mark.parametrize(
    ("changes", "evaluations"),
    [
        ({"objective": RolloutConfig(k=4)}, 7),
        ({"objective": RolloutConfig(k=1)}, 4),
        ({"objective": ReleasedConfig()}, 4),
        ({"objective": ConsistencyConfig()}, 5),
        ({"objective": ProgressiveConfig()}, 5),
        ({"objective": RolloutConfig(k=4), "guidance": 2.0}, 11),
    ],
)
def test_cost_is_recorded(
    teacher_run: Path, idx_folder: Path, tmp_path: Path, changes: dict[str, object], evaluations: int
) -> None:
    distill(_config(teacher_run, idx_folder, **changes), tmp_path)
    made = load_model(str(tmp_path)).provenance
    assert made.evaluations == evaluations * 16
    assert made.cost == Cost(per_image=evaluations, before=0)
