"""The rollout objective and its identities, on the tiny teacher."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel

from models.image_metrics import psnr
from models.network import predict, student_from_teacher
from models.pictures import to_uint8
from models.plan import ddim, relabel
from models.subsequence import student_alpha_bar, uniform_phi
from tests.training.conftest import tiny_loop
from tests.training.reference import run_plan, starting_noise
from training.config import DistillConfig
from training.distill import distill, make_objective, make_student
from training.errors import TrainingError
from training.loop import step_generator
from training.objective_config import RolloutConfig
from training.torch_model import TorchModel, load_model


@pytest.fixture(scope="module")
def teacher(teacher_run: Path) -> TorchModel:
    return load_model(str(teacher_run))


def _config(teacher_run: Path, idx_folder: Path, **changes: object) -> DistillConfig:
    settings: dict[str, object] = {"teacher": str(teacher_run), "data": str(idx_folder), "steps": 8, "loop": tiny_loop(16)}
    return DistillConfig.model_validate({**settings, **changes})


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon"])
def test_k1_is_the_papers_loss(teacher: TorchModel, teacher_run: Path, idx_folder: Path, kind: str) -> None:
    """Where clipping is inactive, the loss is || eps_teacher(x, phi_t) - eps_student(x, t) ||^2 times its weight."""
    free = TorchModel(**{**vars(teacher), "clip": None, "prediction_type": kind})
    config = _config(teacher_run, idx_folder, objective=RolloutConfig(k=1, max_weight=1.0))
    phi = uniform_phi(64, 8)
    student = student_from_teacher(free.network, phi[1:] - 1)
    with torch.no_grad():
        student.conv_out.bias += 0.1
    x0, label = torch.rand(16, 1, 8, 8) * 2 - 1, torch.arange(16) % 3
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    student.register_forward_hook(lambda _, args, out: seen.append((args[0], args[1])))
    loss = make_objective(config, free, student, phi).loss(student, x0, label, step_generator(0, 0), slice(None))
    x, t = seen[0]
    with torch.no_grad():
        theirs = predict(free.network, x, timestep=torch.from_numpy(phi)[t + 1] - 1, class_label=label)
        difference = theirs - predict(student, x, timestep=t, class_label=label)
    assert loss.item() == pytest.approx(float(difference.square().mean()), rel=2e-3 if kind == "epsilon" else 1e-4)


@pytest.mark.parametrize("steps", [8, 7, 20])
def test_an_untrained_student_is_strided_ddim(teacher: TorchModel, steps: int) -> None:
    phi = uniform_phi(64, steps)
    student = student_from_teacher(teacher.network, teacher.labels[phi[1:] - 1])
    pairs, label = [(0, i) for i in range(6)], torch.arange(6) % 3
    labels = np.arange(steps)
    own = relabel(ddim(student_alpha_bar(teacher.alpha_bar, phi), uniform_phi(steps, steps)), labels)
    ours = run_plan(student.eval(), own, "v_prediction", pairs, teacher.shape, label)
    theirs = run_plan(teacher.network, ddim(teacher.alpha_bar, phi), "v_prediction", pairs, teacher.shape, label)
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_student_embedding_survives_save_pretrained(teacher: TorchModel, tmp_path: Path) -> None:
    student = student_from_teacher(teacher.network, np.array([3, 20, 63]))
    student.save_pretrained(tmp_path)
    again = UNet2DModel.from_pretrained(tmp_path)
    x, label = starting_noise([(0, 0), (0, 1)], teacher.shape), torch.tensor([0, 1])
    for step, kept in enumerate((3, 20, 63)):
        with torch.no_grad():
            ours = predict(again.eval(), x, timestep=torch.full((2,), step), class_label=label)
            theirs = predict(teacher.network, x, timestep=torch.full((2,), kept), class_label=label)
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_distillation_improves_on_the_untrained_student(
    teacher: TorchModel, teacher_run: Path, idx_folder: Path, tmp_path: Path
) -> None:
    """A 4-step student gets closer to the teacher's 64-step images than strided DDIM, which it equals before training."""
    config = _config(teacher_run, idx_folder, steps=4, loop=tiny_loop(3200, lr=1e-3))
    distill(config, tmp_path)
    student = load_model(str(tmp_path))
    assert (student.kind, student.steps, student.phi.tolist()) == ("student", 4, [0, 16, 32, 48, 64])
    pairs, label = [(5, i) for i in range(60)], torch.arange(60) % 3
    reference = to_uint8(run_plan(teacher.network, teacher.plan(), "v_prediction", pairs, teacher.shape, label).numpy())
    ours = to_uint8(run_plan(student.network, student.plan(), "v_prediction", pairs, teacher.shape, label).numpy())
    plan = ddim(teacher.alpha_bar, uniform_phi(64, 4))
    strided = to_uint8(run_plan(teacher.network, plan, "v_prediction", pairs, teacher.shape, label).numpy())
    assert psnr(ours, reference).mean() > psnr(strided, reference).mean() + 0.5


def test_a_narrower_student_from_scratch(teacher: TorchModel, teacher_run: Path, idx_folder: Path, tmp_path: Path) -> None:
    shape = {"channels": (8, 8), "layers": 1, "attention": (False, False), "head_dim": 8, "groups": 4}
    distill(_config(teacher_run, idx_folder, unet=shape), tmp_path)
    student = load_model(str(tmp_path)).network
    assert sum(p.numel() for p in student.parameters()) < sum(p.numel() for p in teacher.network.parameters())


def test_scratch_starts_elsewhere_than_the_teacher(teacher: TorchModel, teacher_run: Path, idx_folder: Path) -> None:
    phi = uniform_phi(64, 8)
    fresh = make_student(_config(teacher_run, idx_folder, init="scratch"), teacher, phi)
    assert not torch.equal(fresh.conv_in.weight, teacher.network.conv_in.weight)
    assert fresh.config.num_train_timesteps == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 65}, "between 1 and the teacher's 64"),
        ({"steps": None}, "either the student's number of steps or its phi"),
        ({"steps": None, "phi": (0, 5, 5, 64)}, "strictly increasing"),
        ({"steps": None, "phi": (0, 5, 60)}, "end at the teacher's last step 64"),
    ],
)
def test_impossible_sub_sequences(
    teacher_run: Path, idx_folder: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        distill(_config(teacher_run, idx_folder, **changes), tmp_path)


def test_a_class_that_the_teacher_does_not_have_is_refused(teacher_run: Path, tmp_path: Path) -> None:
    """A single extra class is refused too: it would be trained as the null label."""
    from PIL import Image

    for name in "abcd":
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "data" / name / "1.png")
    config = DistillConfig(teacher=str(teacher_run), data=str(tmp_path / "data"), steps=4)
    with pytest.raises(TrainingError, match=r"has 4 classes, the teacher only 3; give the --data it was trained on"):
        distill(config, tmp_path / "run")


def test_data_must_have_labels_for_a_conditional_teacher(teacher_run: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    config = DistillConfig(teacher=str(teacher_run), data=str(tmp_path), steps=4)
    with pytest.raises(TrainingError, match=r"class-conditional but .* has no labels"):
        distill(config, tmp_path / "run")
