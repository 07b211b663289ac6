"""The shipped models: all of them load, have the right facts, and keep their quality bars."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UNet2DModel

from models.catalogue import Catalogue, default_zoo, discover
from models.pictures import to_uint8
from models.runtime.denoise import denoise, starting_noise
from service.features.generation import by_quality
from training.data import FASHION_MNIST_CLASSES
from training.evaluation.family import Family
from training.evaluation.images import NoiseStarts
from training.torch_model import load_model, save_pipeline

STEPS = {"teacher": 1024, "student-004": 4, "student-008": 8, "student-016": 16, "student-032": 32, "student-064": 64,
         "student-128": 128, "student-008-guided": 8, "student-016-guided": 16}  # fmt: skip


@pytest.fixture(scope="module")
def zoo() -> Catalogue:
    return discover([default_zoo()])


def test_every_folder_is_trusted_and_complete(zoo: Catalogue) -> None:
    assert zoo.refusals == ()
    assert {entry.manifest.name: entry.manifest.steps for entry in zoo.entries.values()} == STEPS
    for entry in zoo.entries.values():
        manifest = entry.manifest
        assert tuple(manifest.classes) == FASHION_MNIST_CLASSES
        assert (manifest.image.chw, manifest.dtype, manifest.null_label) == ((1, 28, 28), "float16", 10)
        assert manifest.phi[-1] == 1024
        assert (entry.folder / "README.md").is_file()


def test_sizes(zoo: Catalogue) -> None:
    sizes = [entry.graph.stat().st_size for entry in zoo.entries.values()]
    assert max(sizes) <= 7_000_000
    assert sum(sizes) <= 50_000_000


def test_students_come_from_the_shipped_teacher(zoo: Catalogue) -> None:
    teacher = zoo.entries["fashion-mnist/teacher"].manifest
    for entry in zoo.entries.values():
        if entry.manifest.kind == "student":
            assert entry.manifest.provenance.teacher_sha256 == teacher.sha256
            assert entry.manifest.provenance.objective == "rollout"
            assert np.allclose(entry.manifest.alpha_bar, [teacher.alpha_bar[t] for t in entry.manifest.phi])


def test_measured_quality_is_recorded(zoo: Catalogue) -> None:
    for entry in zoo.entries.values():
        own = entry.manifest.quality[entry.manifest.plan_name]
        error = (0.85 * 0.15 / own.images) ** 0.5  # of a share of so many images
        assert own.metrics["class_agreement"] >= 0.85 - 2 * error  # the judge accepts 92 % of the real test images
        assert entry.manifest.ranking is not None
        assert entry.manifest.ranking.metric in own.metrics


def test_auto_chooses_among_all_models(zoo: Catalogue) -> None:
    ranked = [model.id for model in by_quality(zoo, "fashion-mnist")]
    assert set(zoo.entries) <= set(ranked)
    assert ranked[0] == "fashion-mnist/student-016-guided"


# diffusers 0.42 builds its sigmas by np.array(tensor), which numpy 2 warns of
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "sampler_of_diffusers", "exactly"),
    [("student-016", DDIMScheduler, {"use_clipped_model_output": True}), ("student-032", DPMSolverMultistepScheduler, {})],
)
def test_stock_diffusers_agrees_with_what_is_served(
    name: str, sampler_of_diffusers: type, exactly: dict[str, bool], zoo: Catalogue, tmp_path: Path
) -> None:
    """Check that from the same x_T at least 99.9 % of the exported pipeline's 8-bit pixels are within one level."""
    entry = zoo.entries[f"fashion-mnist/{name}"]
    save_pipeline(load_model(str(entry.folder)), tmp_path)
    unet = UNet2DModel.from_pretrained(tmp_path, subfolder="unet")
    scheduler = sampler_of_diffusers.from_pretrained(tmp_path, subfolder="scheduler")  # type: ignore[attr-defined]
    scheduler.set_timesteps(entry.manifest.steps)
    keys, label = [(11, i) for i in range(20)], np.arange(20) % 10
    x, given = torch.from_numpy(starting_noise(keys, (1, 28, 28))), torch.from_numpy(label)
    with torch.inference_mode():
        for t in scheduler.timesteps:
            prediction = unet(x, t, class_labels=given).sample
            x = scheduler.step(prediction, t, x, **exactly).prev_sample
    candidate = Family(default_zoo(), "fashion-mnist").candidate(name)
    start = NoiseStarts(11).at(candidate, range(20))
    assert start.label is not None
    assert np.array_equal(start.label, label)
    served = to_uint8(denoise(candidate.load(), candidate.plan, start.x, keys=start.keys, class_label=start.label))
    difference = np.abs(served.astype(int) - to_uint8(x.numpy()).astype(int))
    assert (difference <= 1).mean() >= 0.999
    assert served.std() > 50  # pictures, not grey


def test_students_beat_the_solvers_they_compete_with(zoo: Catalogue) -> None:
    """Compare the recorded agreement with the teacher's 1024 steps: mean PSNR in dB over hundreds of seeds."""
    solvers = zoo.entries["fashion-mnist/teacher"].manifest.quality
    for steps in (4, 8, 16, 32, 64, 128):
        manifest = zoo.entries[f"fashion-mnist/student-{steps:03d}"].manifest
        student = manifest.quality[manifest.plan_name].metrics["psnr_db"]
        ddim, dpmpp = (solvers[f"{name}-{steps:03d}"].metrics["psnr_db"] for name in ("ddim", "dpmpp"))
        assert student >= ddim + 5
        assert student >= dpmpp + {32: 3, 64: 0, 128: -1}.get(steps, 4)
