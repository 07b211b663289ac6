"""Samplers: served graphs and torch make the same images; anything that predicts is a sampler."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from models.network import predict
from training.errors import TrainingError
from training.evaluation.images import NoiseStarts
from training.evaluation.samplers import Family, Sampler, denoise, fingerprint, prediction_sampler, torch_sampler
from training.export import export
from training.sampling import run_plan, to_uint8
from training.torch_model import load_model


def images(sampler: Sampler, count: int = 6) -> np.ndarray:
    start = NoiseStarts(3).at(sampler, range(count))
    return to_uint8(denoise(sampler.load(), sampler.plan, start.x, start.pairs, start.label))


def test_torch_sampler_is_the_reference_sampling(teacher_run: Path) -> None:
    model = load_model(str(teacher_run))
    sampler = torch_sampler(str(teacher_run))
    pairs, label = [(3, i) for i in range(6)], torch.arange(6) % 3
    reference = to_uint8(run_plan(model.network, model.plan(), model.prediction_type, pairs, model.shape, label))
    assert np.abs(images(sampler).astype(int) - reference).max() <= 1
    assert (sampler.method, sampler.evaluations) == ("teacher", 64)


@pytest.mark.parametrize("variant", ["ddim-004", "dpmpp-004", "ddpm-004"])
def test_served_and_torch_images_agree(teacher_run: Path, tmp_path: Path, variant: str) -> None:
    export(str(teacher_run), tmp_path, "shapes", "teacher", half=False)
    served = Family(tmp_path, "shapes").sampler(f"teacher@{variant}")
    ours = torch_sampler(f"{teacher_run}@{variant}")
    assert (served.method, served.evaluations) == (ours.method, ours.evaluations)
    assert np.array_equal(served.phi, ours.phi)
    assert np.abs(images(served).astype(int) - images(ours)).max() <= 1


@pytest.mark.parametrize("count", [1, 2])
def test_one_and_two_evaluations_work(tiny_zoo: Path, count: int) -> None:
    sampler = Family(tiny_zoo, "tiny").sampler(f"teacher@dpmpp-{count}")
    assert sampler.evaluations == count
    assert images(sampler).shape == (6, 1, 8, 8)


def test_a_guided_teacher_is_a_sampler_at_two_evaluations_a_step(teacher_run: Path) -> None:
    """Guidance of scale 1 is the model itself; another scale makes other images at the same cost."""
    model = load_model(str(teacher_run))

    def guided(scale: float) -> Sampler:
        def prediction(x: torch.Tensor, t: torch.Tensor, label: torch.Tensor | None) -> torch.Tensor:
            assert label is not None
            with_class = predict(model.network, x, t, label)
            without = predict(model.network, x, t, torch.full_like(label, 3))
            return without + scale * (with_class - without)

        return prediction_sampler("guided", model, prediction, f"{fingerprint(model)}-{scale}", variant="ddim-008", per_step=2)

    plain = torch_sampler(f"{teacher_run}@ddim-008")
    assert guided(1.0).evaluations == 2 * plain.evaluations
    assert np.abs(images(guided(1.0)).astype(int) - images(plain)).max() <= 1
    assert np.abs(images(guided(4.0)).astype(int) - images(plain)).max() > 5
    assert guided(4.0).key != guided(1.0).key


def test_every_model_and_solver_of_a_family(tiny_zoo: Path) -> None:
    family = Family(tiny_zoo, "tiny")
    assert family.all(["ddim"], []) == ["teacher", "student-004", "student-008", "teacher@ddim-004", "teacher@ddim-008"]
    assert family.all(["ddpm"], [1])[3:] == ["teacher@ddpm-001"]
    student = family.sampler("tiny/student-004")
    assert (student.method, student.facts["k"], student.facts["teacher_steps"]) == ("student", 4, 32)
    assert student.phi.tolist() == [0, 8, 16, 24, 32]


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [("student-009", "student-004"), ("runs/nowhere", "nor a path"), ("teacher@ddim-0", "ddim-0")],
)
def test_unknown_models_are_named(tiny_zoo: Path, spec: str, sentence: str) -> None:
    with pytest.raises((TrainingError, LookupError), match=sentence):
        Family(tiny_zoo, "tiny").sampler(spec)


def test_torch_variants_are_checked(teacher_run: Path) -> None:
    with pytest.raises(TrainingError, match="1 to 64 steps"):
        torch_sampler(f"{teacher_run}@ddim-065")
