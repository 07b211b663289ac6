"""Several processes and gradient accumulation: the same losses as one process with the same global batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tests.training.conftest import tiny_loop, tiny_teacher_config
from tests.training.test_cli import TINY
from training import checkpoint
from training.cli import app
from training.errors import TrainingError
from training.teacher import train_teacher


def _launch(processes: int, *arguments: str | Path) -> None:
    """Run sfddm-train under torchrun, on CPUs: gloo joins the processes."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "ACCELERATE_USE_CPU": "1",
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += ["-m", "training.cli", *map(str, arguments)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr


def _distance(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    """Return || one - two || / || one || over all weights. It is not zero: Adam scales rounding errors up to full steps."""
    first, second = (torch.cat([t.flatten() for t in named.values()]) for named in (one, two))
    return float((first - second).norm() / first.norm())


@pytest.mark.parametrize("what", ["teacher", "distill"])
def test_two_processes_are_one(what: str, teacher_run: Path, idx_folder: Path, tmp_path: Path) -> None:
    """Losses and weights are the same, except for the order in which numbers are added."""
    common = ("--data", idx_folder, "--batch", "16", "--images", "640", "--precision", "no")
    arguments: tuple[str | Path, ...] = ("teacher", *common, "--steps", "64", *TINY[:-2])
    if what == "distill":
        arguments = ("distill", *common, "--teacher", teacher_run, "--steps", "8", "--k", "2")
    CliRunner().invoke(app, [*map(str, arguments), "--out", str(tmp_path / "one")], catch_exceptions=False)
    _launch(2, *arguments, "--out", tmp_path / "two")
    losses = [json.loads((tmp_path / run / "loss.json").read_text()) for run in ("one", "two")]
    weights = [checkpoint.load(tmp_path / run / "checkpoint.safetensors")[0]["ema"] for run in ("one", "two")]
    assert len(losses[0]) == 2
    assert [images for images, _ in losses[0]] == [images for images, _ in losses[1]]
    assert [loss for _, loss in losses[0]] == pytest.approx([loss for _, loss in losses[1]], rel=1e-4)
    assert _distance(*weights) < 0.01


def test_accumulation_changes_nothing(idx_folder: Path, tmp_path: Path) -> None:
    results = []
    for parts in (1, 4):
        run = tmp_path / str(parts)
        train_teacher(tiny_teacher_config(idx_folder, 1, loop=tiny_loop(640, accumulate=parts)), run)
        tensors, facts = checkpoint.load_run(run / "checkpoint.safetensors")
        results.append((tensors["ema"], [loss for _, loss in facts.progress.losses]))
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-4)
    assert _distance(results[0][0], results[1][0]) < 0.01


def test_a_batch_that_cannot_be_shared(idx_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"batch size 16 must be a multiple of the 1 processes times --accumulate 3"):
        train_teacher(tiny_teacher_config(idx_folder, 1, loop=tiny_loop(16, accumulate=3)), tmp_path)
