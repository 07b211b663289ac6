"""Candidates: served graphs and torch make the same images, and a guided teacher costs two evaluations a step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from models.network import predict
from models.pictures import to_uint8
from models.runtime.denoise import denoise
from tests.training.reference import run_plan
from training.errors import TrainingError
from training.evaluation.candidates import Candidate, torch_candidate
from training.evaluation.family import Family
from training.evaluation.images import NoiseStarts
from training.torch_model import load_model


def images(candidate: Candidate, count: int = 6) -> np.ndarray:
    start = NoiseStarts(3).at(candidate, range(count))
    return to_uint8(denoise(candidate.load(), candidate.plan, start.x, keys=start.keys, class_label=start.label))


def test_torch_candidate_is_the_reference_sampling(teacher_run: Path) -> None:
    model = load_model(str(teacher_run))
    candidate = torch_candidate(str(teacher_run))
    pairs, label = [(3, i) for i in range(6)], torch.arange(6) % 3
    reference = to_uint8(run_plan(model.network, model.plan(), model.prediction_type, pairs, model.shape, label).numpy())
    assert np.abs(images(candidate).astype(int) - reference).max() <= 1
    assert (candidate.method, candidate.evaluations) == ("teacher", 64)


@pytest.mark.parametrize("variant", ["ddim-004", "dpmpp-004", "ddpm-004"])
def test_served_and_torch_images_agree(teacher_run: Path, teacher_zoo: Path, variant: str) -> None:
    served = Family(teacher_zoo, "shapes").candidate(f"teacher@{variant}")
    ours = torch_candidate(f"{teacher_run}@{variant}")
    assert (served.method, served.evaluations) == (ours.method, ours.evaluations)
    assert np.array_equal(served.phi, ours.phi)
    assert np.abs(images(served).astype(int) - images(ours)).max() <= 1


@pytest.mark.parametrize("count", [1, 2])
def test_one_and_two_evaluations_work(tiny_zoo: Path, count: int) -> None:
    candidate = Family(tiny_zoo, "tiny").candidate(f"teacher@dpmpp-{count}")
    assert candidate.evaluations == count
    assert images(candidate).shape == (6, 1, 8, 8)


@pytest.fixture
def shapes(teacher_zoo: Path) -> Family:
    """Return a family whose teacher can be guided: it has a null label, and its network can be rebuilt from its folder."""
    return Family(teacher_zoo, "shapes")


def test_a_classifier_free_teacher_costs_two_evaluations_a_step(shapes: Family) -> None:
    """Compare with the formula. The cache key includes the scale, and scale 1 is the teacher itself."""
    plain, guided = shapes.candidate("teacher@ddim-008"), shapes.candidate("guided:4@ddim-008")
    assert (guided.id, guided.method, guided.evaluations) == ("shapes/guided:4@ddim-008", "DDIM, guided", 16)
    assert guided.facts.known["guidance"] == "classifier-free, scale 4"
    assert np.abs(images(shapes.candidate("guided:1@ddim-008")).astype(int) - images(plain)).max() <= 1
    assert np.abs(images(guided).astype(int) - images(plain)).max() > 5
    assert len({shapes.candidate(f"guided:{scale}@ddim-008").key for scale in ("4", "4.0", "1", "1.5")}) == 3
    model = load_model(str(shapes.teacher.folder))
    start = NoiseStarts(3).at(guided, range(6))
    (signal, noise), zero = guided.plan.coefficients[0, :2], np.zeros_like(start.x)
    assert start.label is not None
    t = np.repeat(guided.plan.label[:1], 6)
    x, label = torch.from_numpy(start.x), torch.from_numpy(start.label)
    with torch.no_grad():
        strong = predict(model.network, x, timestep=torch.from_numpy(t), class_label=label)
        weak = predict(model.network, x, timestep=torch.from_numpy(t), class_label=torch.full_like(label, 3))
    x0 = (signal * x - noise * (weak + 4 * (strong - weak))).clamp(-1, 1)
    table = np.repeat(guided.plan.coefficients[:1].astype(np.float32), 6, axis=0)
    made = guided.load().step(x=start.x, x0_prev=zero, timestep=t, class_label=start.label, coefficients=table)[1]
    np.testing.assert_allclose(made, x0, atol=1e-4)


def test_autoguidance_takes_a_snapshot(shapes: Family, snapshot: Path) -> None:
    with pytest.raises(TrainingError, match=r"there is no checkpoint at nowhere\.safetensors"):
        shapes.candidate("guided:2:nowhere.safetensors")
    spec = f"guided:2:{snapshot}"
    every, few = shapes.candidate(spec), shapes.candidate(f"shapes/{spec}@dpmpp-004")
    assert (every.id, every.method, every.evaluations) == ("shapes/guided:2:ema-000000160", "teacher, guided", 128)
    assert (few.method, few.evaluations) == ("DPM-Solver++(2M), guided", 8)
    assert few.facts.known["guidance"] == "autoguidance, scale 2, weak network of 160 images"
    other = shapes.candidate(f"guided:2:{snapshot.with_name('ema-000000320.safetensors')}@dpmpp-004")
    assert np.abs(images(few).astype(int) - images(other)).max() > 5
    classifier_free = shapes.candidate("guided:2@dpmpp-004")
    assert len({few.weights, other.weights, classifier_free.weights}) == 3  # both networks are in the key


def test_every_model_and_solver_of_a_family(tiny_zoo: Path) -> None:
    family = Family(tiny_zoo, "tiny")
    assert family.all(["ddim"], []) == ["teacher", "student-004", "student-008", "teacher@ddim-004", "teacher@ddim-008"]
    assert family.all(["ddpm"], [1])[3:] == ["teacher@ddpm-001"]
    student = family.candidate("tiny/student-004")
    assert (student.method, student.facts.known["k"], student.facts.teacher_steps) == ("student", 4, 32)
    assert student.phi.tolist() == [0, 8, 16, 24, 32]


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("student-009", "student-004"),
        ("runs/nowhere", "nor a path"),
        ("teacher@ddim-0", "ddim-0"),
        ("guided:", "write guided:SCALE"),
        ("guided:much@ddim-004", "write guided:SCALE"),
        ("guided:nan", "write guided:SCALE"),
    ],
)
def test_unknown_models_are_named(tiny_zoo: Path, spec: str, sentence: str) -> None:
    with pytest.raises((TrainingError, LookupError), match=sentence):
        Family(tiny_zoo, "tiny").candidate(spec)


def test_a_teacher_that_cannot_be_guided_says_so(tiny_zoo: Path) -> None:
    with pytest.raises(TrainingError, match=r"does not carry the network's configuration"):
        Family(tiny_zoo, "tiny").candidate("guided:2")


def test_torch_variants_are_checked(teacher_run: Path) -> None:
    with pytest.raises(TrainingError, match="1 to 64 steps"):
        torch_candidate(f"{teacher_run}@ddim-065")
