"""Progressive distillation: folds, budget, resuming. And consistency students as model folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.catalogue import discover
from models.runtime.denoise import denoise, starting_noise
from models.runtime.onnx import OnnxBackend
from tests.training.conftest import tiny_loop
from training import checkpoint
from training.config import DistillConfig, FoldsConfig
from training.distill import distill
from training.errors import TrainingError
from training.export import export
from training.folds import folds, progressive
from training.objective_config import ConsistencyConfig, RolloutConfig
from training.torch_model import load_model


def _config(teacher_run: Path, idx_folder: Path, **changes: object) -> DistillConfig:
    settings: dict[str, object] = {"teacher": str(teacher_run), "data": str(idx_folder), "loop": tiny_loop(16)}
    return DistillConfig.model_validate({**settings, **changes})


def _folds(teacher_run: Path, idx_folder: Path, budget: int) -> FoldsConfig:
    """Return the configuration of the folds 64 -> 32 -> 16."""
    return FoldsConfig(teacher=str(teacher_run), data=str(idx_folder), to=16, budget=budget, loop=tiny_loop(16))


def test_folds_halve() -> None:
    assert folds(1024, 16) == [512, 256, 128, 64, 32, 16]
    for target in (1000, 48, 1024):
        with pytest.raises(TrainingError, match=f"never gives {target}"):
            folds(1024, target)


def test_every_fold_is_a_model_and_costs_its_share(teacher_run: Path, idx_folder: Path, tmp_path: Path) -> None:
    runs = progressive(_folds(teacher_run, idx_folder, 2 * 5 * 40), tmp_path / "folds")
    assert [run.name for run in runs] == ["student-0032", "student-0016"]
    made = [load_model(str(run)) for run in runs]
    assert [model.steps for model in made] == [32, 16]
    assert made[1].phi.tolist() == list(range(0, 65, 4))  # of the first teacher
    assert [model.provenance.evaluations for model in made] == [5 * 32, 2 * 5 * 32]  # 40 images are two batches of 16
    folder = export(str(runs[1]), tmp_path / "zoo", "shapes", "progressive-016")
    manifest = discover([tmp_path / "zoo"]).entries["shapes/progressive-016"].manifest
    assert (manifest.provenance.objective, manifest.provenance.evaluations) == ("progressive", 320)
    folds = [checkpoint.load_run(run / "checkpoint.safetensors")[1].progress.seconds for run in runs]
    assert manifest.provenance.seconds == pytest.approx(sum(folds))
    card = (folder / "README.md").read_text()
    assert "| network evaluations spent | 320 |" in card
    assert f"| training time | {sum(folds) / 60:.1f} minutes |" in card


def test_resume_keeps_finished_folds(teacher_run: Path, idx_folder: Path, tmp_path: Path) -> None:
    config = _folds(teacher_run, idx_folder, 2 * 5 * 32)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    progressive(config, whole)
    progressive(config, parts)
    first = (parts / "student-0032" / "checkpoint.safetensors").stat().st_mtime_ns
    (parts / "student-0016" / "checkpoint.safetensors").unlink()
    progressive(config, parts, resume=True)
    assert (parts / "student-0032" / "checkpoint.safetensors").stat().st_mtime_ns == first
    faster = config.model_copy(update={"loop": config.loop.model_copy(update={"lr": 0.5})})
    with pytest.raises(TrainingError, match=r"made with other settings: lr: .*, now 0\.5; repeat them"):
        progressive(faster, parts, resume=True)
    one, two = (
        checkpoint.load_run(run / "student-0016" / "checkpoint.safetensors")[1].progress.losses for run in (whole, parts)
    )
    assert one == two


def test_costs_add_up_when_a_student_is_distilled_further(teacher_run: Path, idx_folder: Path, tmp_path: Path) -> None:
    config = _config(teacher_run, idx_folder, steps=16, objective=RolloutConfig(k=2))
    distill(config, tmp_path / "first")
    distill(config.model_copy(update={"teacher": str(tmp_path / "first"), "steps": 4}), tmp_path / "second")
    made = [load_model(str(tmp_path / name)).provenance for name in ("first", "second")]
    assert [m.evaluations for m in made] == [5 * 16, 2 * 5 * 16]
    first, second = (m.seconds for m in made)
    assert first is not None
    assert second is not None
    assert second > first > 0


def test_a_budget_too_small_says_what_it_needs(teacher_run: Path, idx_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="2 folds of 16 need 160"):
        progressive(_folds(teacher_run, idx_folder, 100), tmp_path)


@pytest.fixture(scope="module")
def consistency_run(teacher_run: Path, idx_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run folder with a 16-step consistency student."""
    run = tmp_path_factory.mktemp("consistency") / "run"
    distill(_config(teacher_run, idx_folder, objective=ConsistencyConfig(), steps=16), run)
    return run


@pytest.mark.parametrize("evaluations", [1, 2, 4])
def test_consistency_students_are_served_by_their_own_sampler(consistency_run: Path, tmp_path: Path, evaluations: int) -> None:
    """Compare the plan of the exported folder with the algorithm written out: predict x0, add noise, repeat."""
    export(str(consistency_run), tmp_path / "zoo", "shapes", f"consistency-{evaluations:03d}", steps=evaluations)
    resolved = discover([tmp_path / "zoo"]).resolve(f"shapes/consistency-{evaluations:03d}")
    manifest, plan = resolved.entry.manifest, resolved.plan
    assert resolved.sampler == "consistency"
    assert manifest.labels == [16 // evaluations * i - 1 for i in range(1, evaluations + 1)]
    assert manifest.phi == [64 // evaluations * i for i in range(evaluations + 1)]
    assert np.array_equal(plan.coefficients[:, 2], np.zeros(evaluations))  # a: nothing of x is kept
    following = np.array(manifest.alpha_bar[::-1])[1:]
    assert np.allclose(plan.coefficients[:, 3], np.sqrt(following))
    assert np.allclose(plan.s, np.sqrt(1 - following))
    assert plan.deterministic == (evaluations == 1)
    keys = [(0, index) for index in range(4)]
    noise = starting_noise(keys, (1, 8, 8))
    images = denoise(OnnxBackend().load(resolved.entry), plan, noise, keys=keys, class_label=np.arange(4) % 3)
    assert np.abs(images).max() <= 1
    assert "diffusers" not in (resolved.entry.folder / "README.md").read_text()
