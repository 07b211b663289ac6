"""A whole measurement of a real, tiny family: its results, their cost and their references."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from training.checkpoint import CHECKPOINT
from training.errors import TrainingError
from training.evaluation.family import Family
from training.evaluation.measure import Measurement
from training.evaluation.result import Measurements, Result
from training.evaluation.timing import time_per_image


@pytest.fixture(scope="module")
def family(teacher_zoo: Path) -> Family:
    return Family(teacher_zoo, "shapes")


def measured(family: Family, data: Path, cache: Path, *models: str, reference: str = "teacher") -> list[Result]:
    plan = Measurements(images=12, teacher_images=6, seeds=4, models=models, reference=reference, data_images=0, timing=False)
    return Measurement(family, plan, cache, str(data)).run().results


def test_guided_teachers_stand_in_the_table_at_their_cost(family: Family, idx_folder: Path, tmp_path: Path) -> None:
    """One run can hold several scales and the plain teacher's solvers. Any of them can be the reference."""
    models = ("teacher@ddim-008", "guided:2@ddim-004", "guided:3@ddim-004", "guided:2")
    rows = {row.model: row for row in measured(family, idx_folder, tmp_path, *models, reference="guided:2")}
    few, more, all_steps = (rows[f"shapes/{name}"] for name in models[1:])
    assert (few.evaluations, few.method, few.images, few.seeds) == (8, "DDIM, guided", 12, 4)
    assert (all_steps.evaluations, all_steps.method, all_steps.images) == (128, "teacher, guided", 6)
    assert (few.reference, all_steps.reference) == ("shapes/guided:2", "")
    assert "psnr_db" not in all_steps.metrics
    assert few.metrics["psnr_db"] > more.metrics["psnr_db"]  # another scale gives other images
    assert few.facts.known["guidance"] == "classifier-free, scale 2"


def test_a_part_is_measured_as_the_whole_is(family: Family, idx_folder: Path, tmp_path: Path) -> None:
    """The classes of a part follow from its image numbers. A part has no agreement with the reference."""

    def measured(count: int, first: int = 0) -> Result:
        wanted = Measurements(
            images=count,
            seeds=count,
            models=("teacher@ddim-004",),
            reference="teacher@ddim-008",
            data_images=0,
            timing=False,
            first_index=first,
        )
        return Measurement(family, wanted, tmp_path, str(idx_folder)).run().results[0]

    whole, one, two = measured(100), measured(50), measured(50, 50)
    assert (two.first_index, two.images, two.seeds, two.reference, two.psnr) == (50, 50, 0, "", [])
    assert whole.psnr[:50] == one.psnr
    right = [round(part.images * part.metrics["class_agreement"]) for part in (one, two, whole)]
    assert right[0] + right[1] == right[2]
    with pytest.raises(TrainingError, match="--first-index takes a multiple of 50"):
        measured(50, 20)


def test_two_guides_of_one_name_are_not_one_row(
    family: Family, teacher_run: Path, snapshot: Path, idx_folder: Path, tmp_path: Path
) -> None:
    models = []
    for folder, source in (("a", snapshot), ("b", teacher_run / CHECKPOINT)):
        (tmp_path / folder).mkdir()
        shutil.copy(source, tmp_path / folder / "guide.safetensors")
        models.append(f"guided:2:{tmp_path / folder / 'guide.safetensors'}@ddim-004")
    for names, reference in ((models, "teacher"), (models[:1], models[1])):
        with pytest.raises(TrainingError, match="two models would both be called shapes/guided:2:guide@ddim-004; rename"):
            measured(family, idx_folder, tmp_path, *names, reference=reference)


def test_a_model_named_twice_is_one_row(family: Family, idx_folder: Path, tmp_path: Path) -> None:
    rows = measured(family, idx_folder, tmp_path, "teacher@ddim-004", "shapes/teacher@ddim-004", reference="teacher@ddim-008")
    assert [row.model for row in rows] == ["shapes/teacher@ddim-004"]


def test_time_of_an_image_is_that_of_its_steps() -> None:
    """The best batch has the shortest time per image."""
    times = time_per_image({1: 0.010, 4: 0.016, 8: 0.040}, 5)
    assert times == pytest.approx({"ms_alone": 50.0, "ms_batched": 20.0, "best_batch": 4.0})
