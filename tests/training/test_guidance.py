"""Guided teachers: the formula, and a student of a guided teacher."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from models.network import predict
from tests.training.conftest import tiny_loop
from tests.training.reference import run_plan
from training import checkpoint
from training.config import DistillConfig
from training.distill import distill
from training.errors import CheckpointError, TrainingError
from training.guidance import guided_model, load_guided
from training.objective_config import RolloutConfig
from training.torch_model import TorchModel, load_model


@pytest.fixture(scope="module")
def teacher(teacher_run: Path) -> TorchModel:
    return load_model(str(teacher_run))


def _inputs(teacher: TorchModel) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, *teacher.shape, generator=generator), torch.arange(6) * 10, torch.arange(6) % 3


def test_classifier_free_extrapolates_from_the_null_label(teacher: TorchModel) -> None:
    x, t, label = _inputs(teacher)
    with torch.no_grad():
        guided = predict(guided_model(teacher, 2.5).network, x, timestep=t, class_label=label)
        strong = predict(teacher.network, x, timestep=t, class_label=label)
        weak = predict(teacher.network, x, timestep=t, class_label=torch.full_like(label, 3))
    assert torch.allclose(guided, weak + 2.5 * (strong - weak), atol=1e-5)


def test_autoguidance_extrapolates_from_the_weak_network(teacher: TorchModel, snapshot: Path) -> None:
    x, t, label = _inputs(teacher)
    weak_model = load_model(str(snapshot))
    model = guided_model(teacher, 2.0, weak_model)
    with torch.no_grad():
        guided = predict(model.network, x, timestep=t, class_label=label)
        strong, weak = (predict(m.network, x, timestep=t, class_label=label) for m in (teacher, weak_model))
    assert torch.allclose(guided, 2 * strong - weak, atol=1e-5)
    assert (model.evaluations, model.guidance) == (2, "autoguidance, scale 2, weak network of 160 images")


def test_scale_one_is_no_guidance_and_others_change_the_images(teacher: TorchModel) -> None:
    pairs, label = [(0, i) for i in range(4)], torch.arange(4) % 3
    plan = teacher.subsampled(8).plan()
    images = {
        scale: run_plan(guided_model(teacher, scale).network, plan, "v_prediction", pairs, teacher.shape, label)
        for scale in (1.0, 3.0)
    }
    plain = run_plan(teacher.network, plan, "v_prediction", pairs, teacher.shape, label)
    assert torch.allclose(images[1.0], plain, atol=1e-5)
    assert (images[3.0] - plain).abs().max() > 0.05


def test_a_guided_student_comes_closer_to_the_guided_teacher(
    teacher: TorchModel, teacher_run: Path, idx_folder: Path, snapshot: Path, tmp_path: Path
) -> None:
    """The student takes half of the teacher's evaluations a step. Its provenance names the guidance."""
    settings = {
        "teacher": str(teacher_run),
        "data": str(idx_folder),
        "steps": 8,
        "objective": RolloutConfig(k=2),
        "guidance": 2.0,
        "guide": str(snapshot),
    }
    distill(DistillConfig.model_validate({**settings, "loop": tiny_loop(1600, anneal=True)}), tmp_path)
    student = load_model(str(tmp_path))
    assert student.evaluations == 1
    assert student.provenance.guidance == "autoguidance, scale 2, weak network of 160 images"
    guided = load_guided(str(teacher_run), scale=2.0, guide=str(snapshot))
    pairs, label = [(7, i) for i in range(24)], torch.arange(24) % 3
    reference = run_plan(guided.network, guided.plan(), "v_prediction", pairs, teacher.shape, label)
    ours = run_plan(student.network, student.plan(), "v_prediction", pairs, teacher.shape, label)
    plain = run_plan(teacher.network, teacher.subsampled(8).plan(), "v_prediction", pairs, teacher.shape, label)
    assert (ours - reference).square().mean() < 0.8 * (plain - reference).square().mean()


def test_a_bare_snapshot_takes_what_it_is_from_its_run(snapshot: Path, tmp_path: Path) -> None:
    """Snapshots of earlier versions hold weights alone."""
    parts, _ = checkpoint.load(snapshot)
    bare = tmp_path / "run" / "snapshots" / snapshot.name
    checkpoint.save(bare, parts, {})
    with pytest.raises(CheckpointError, match=r"there is no checkpoint at .*run/checkpoint\.safetensors"):
        load_model(str(bare))
    shutil.copy(snapshot.parents[1] / "checkpoint.safetensors", tmp_path / "run")
    ours, whole = load_model(str(bare)), load_model(str(snapshot))
    assert ours.provenance.images == whole.provenance.images == 160
    assert torch.equal(ours.network.conv_in.weight, whole.network.conv_in.weight)


def test_guidance_that_cannot_be(teacher: TorchModel, teacher_run: Path, snapshot: Path) -> None:
    unconditional = TorchModel(**{**vars(teacher), "null_label": None})
    with pytest.raises(TrainingError, match=r"needs a teacher trained with a null label; .* --guide"):
        guided_model(unconditional, 2.0)
    with pytest.raises(TrainingError, match="scale is nan; it must be a finite number"):
        guided_model(teacher, float("nan"))
    with pytest.raises(TrainingError, match="a weaker teacher of the same kind"):
        guided_model(teacher, 2.0, teacher.subsampled(8))
    with pytest.raises(TrainingError, match="--guide needs --guidance"):
        load_guided(str(teacher_run), scale=None, guide=str(snapshot))
