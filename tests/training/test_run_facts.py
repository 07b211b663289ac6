"""Run facts of every version: headers as earlier code wrote them (old_runs/, of commit 919f4fb) load and go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.training.conftest import tiny_loop, tiny_teacher_config
from training import checkpoint
from training.config import DistillConfig
from training.distill import distill
from training.errors import CheckpointError
from training.objective_config import RolloutConfig
from training.run_facts import Cost, FirstTeacher, RunFacts
from training.teacher import train_teacher
from training.torch_model import load_model

OLD_RUNS = Path(__file__).parent / "old_runs"
UNET = {"channels": (4, 8), "layers": 1, "attention": (False, True), "head_dim": 4, "groups": 2}


def old_header(name: str, *, data: Path | str = "DATA", teacher: Path | str = "TEACHER") -> dict[str, Any]:
    """Return the stored header of a run, changed to this data set and this teacher."""
    text = (OLD_RUNS / f"{name}.json").read_text()
    for placeholder, value in (("DATA", str(data)), ("TEACHER", str(teacher)), ("shapes", Path(data).name)):
        text = text.replace(json.dumps(placeholder), json.dumps(value))
    header: dict[str, Any] = json.loads(text)
    return header


def older(header: dict[str, Any]) -> dict[str, Any]:
    """Return the header as the first versions wrote it, without the fields that came later."""
    for name in ("sampler", "seconds", "recent"):
        header.pop(name, None)
    header["provenance"].pop("cost")
    for name in ("sampler", "norm"):
        header["provenance"]["settings"].pop(name)
    header["loop"].pop("accumulate")
    return header


@pytest.fixture(scope="module")
def runs(idx_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the runs `teacher` and `rollout`: the networks of the stored headers, trained for two updates."""
    root = tmp_path_factory.mktemp("runs")
    train_teacher(
        tiny_teacher_config(idx_folder, 1, steps=16, unet=UNET, loop=tiny_loop(32, snapshot_images=16)), root / "teacher"
    )
    distill(_student(idx_folder, root / "teacher", RolloutConfig(), 32), root / "rollout")
    return root


def _student(data: Path, teacher: Path, objective: RolloutConfig, images: int) -> DistillConfig:
    return DistillConfig(teacher=str(teacher), data=str(data), steps=4, objective=objective, loop=tiny_loop(images))


def put(header: dict[str, Any], weights: Path, run: Path) -> Path:
    """Write a checkpoint with the tensors of the run `weights` and another header."""
    parts, _ = checkpoint.load(weights / checkpoint.CHECKPOINT)
    checkpoint.save(run / checkpoint.CHECKPOINT, parts, header)
    return run


def test_a_teacher_of_an_earlier_version_loads_and_goes_on(runs: Path, idx_folder: Path, tmp_path: Path) -> None:
    run = put(old_header("teacher", data=idx_folder), runs / "teacher", tmp_path / "teacher")
    model = load_model(str(run))
    assert (model.kind, model.steps, model.classes, model.null_label) == ("teacher", 16, ("class-0", "class-1", "class-2"), 3)
    assert (model.provenance.images, model.provenance.seconds, model.provenance.evaluations) == (400, 2.961, None)
    train_teacher(tiny_teacher_config(idx_folder, 1, steps=16, unet=UNET, loop=tiny_loop(416)), run, resume=True)
    _, facts = checkpoint.load_run(run / checkpoint.CHECKPOINT)
    assert facts.progress.losses[:2] == [(320, 0.805562), (400, 0.648905)]
    assert facts.images == 416
    assert facts.progress.seconds is not None
    assert facts.progress.seconds > 2.961


def test_a_student_of_an_earlier_version_loads_and_goes_on(runs: Path, idx_folder: Path, tmp_path: Path) -> None:
    header = old_header("rollout", data=idx_folder, teacher=runs / "teacher")
    header["provenance"]["teacher"]["images"] = 32  # as many as this teacher has seen
    run = put(header, runs / "rollout", tmp_path / "rollout")
    model = load_model(str(run))
    assert (model.sampler, model.phi.tolist()) == ("dpmpp", [0, 4, 8, 12, 16])
    assert (model.provenance.k, model.provenance.evaluations) == (2, 7 * 336)
    objective = RolloutConfig(k=2, solver="dpmpp", sampler="dpmpp", norm="l2")
    distill(_student(idx_folder, runs / "teacher", objective, 352), run, resume=True)
    assert checkpoint.load_run(run / checkpoint.CHECKPOINT)[1].progress.losses[0] == (320, 0.087344)
    with pytest.raises(CheckpointError, match=r"another configuration: k: 2, now 3;"):
        distill(_student(idx_folder, runs / "teacher", objective.model_copy(update={"k": 3}), 368), run, resume=True)


def test_what_the_first_versions_did_not_record_is_what_they_did(runs: Path, idx_folder: Path, tmp_path: Path) -> None:
    """They had no sampler (DDIM), no norm (squared), and no cost, seconds or recent losses (unknown)."""
    header = older(old_header("rollout", data=idx_folder, teacher=runs / "teacher"))
    header["provenance"]["teacher"]["images"] = 32
    run = put(header, runs / "rollout", tmp_path / "rollout")
    made = load_model(str(run)).provenance
    assert (made.cost, made.evaluations, made.seconds) == (None, None, None)
    assert "sampler" not in made.settings  # the record itself stays as it is, because its manifest must not change
    assert made.loop is not None
    assert "accumulate" not in made.loop.model_dump(exclude_unset=True)
    with pytest.raises(CheckpointError, match=r"another configuration: norm: squared, now l2;"):
        distill(_student(idx_folder, runs / "teacher", RolloutConfig(k=2, solver="dpmpp", norm="l2"), 352), run, resume=True)
    distill(_student(idx_folder, runs / "teacher", RolloutConfig(k=2, solver="dpmpp"), 352), run, resume=True)
    assert load_model(str(run)).provenance.seconds is None


def test_costs_of_the_folds_before_are_kept() -> None:
    facts = RunFacts.of_header(old_header("progressive"))
    assert facts.provenance.cost == Cost(per_image=5, before=160, seconds_before=0.375)
    assert facts.provenance.teacher == FirstTeacher(images=400, data="DATA")
    made = facts.model_provenance()
    assert (made.evaluations, made.seconds) == (160 + 5 * 32, 0.375 + 0.548)


def test_facts_survive_their_json() -> None:
    facts = RunFacts.of_header(old_header("rollout"))
    header = json.loads(json.dumps(facts.model_dump(mode="json")))
    assert header["version"] == 1
    assert RunFacts.of_header(header) == facts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version: must be 1, got 2"),
        ({"surprise": 1}, "surprise: is unknown"),
        ({"loop": None}, "loop: must be"),
    ],
)
def test_facts_of_another_version_are_refused(runs: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    header = {**RunFacts.of_header(old_header("teacher")).model_dump(mode="json"), **change}
    run = put(header, runs / "teacher", tmp_path / "run")
    with pytest.raises(CheckpointError, match=f"is no checkpoint of this version of sfddm-train: {message}"):
        load_model(str(run))
    put({"step": 3}, runs / "teacher", run)
    with pytest.raises(CheckpointError, match="it does not say its provenance"):
        load_model(str(run))
