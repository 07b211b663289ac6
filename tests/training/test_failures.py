"""Failures of a real machine: bad images, a full disk, a killed process. Each gives one sentence and loses no work."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.training.conftest import tiny_loop, tiny_teacher_config
from tests.training.test_cli import TINY
from training import checkpoint
from training.batches import BatchOrder, batches
from training.cli import app
from training.data import open_source
from training.errors import DataError, TrainingError
from training.teacher import train_teacher
from training.torch_model import load_model

CHECKPOINT = "checkpoint.safetensors"


def here(*arguments: str | Path) -> None:
    """Run sfddm-train in this process."""
    CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def start(*arguments: str | Path, limit: int | None = None) -> subprocess.Popen[str]:
    """Start sfddm-train as a process. limit: the most bytes that a file may have, to imitate a full disk."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}

    def full_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))  # type: ignore[arg-type]

    return subprocess.Popen(
        [sys.executable, "-m", "training.cli", *map(str, arguments)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=None if limit is None else full_disk,
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_is_named(tmp_path: Path, workers: int) -> None:
    for index in range(3):
        Image.new("L", (8, 8)).save(tmp_path / f"{index}.png")
    broken = tmp_path / "2.png"
    broken.write_bytes(broken.read_bytes()[:40])
    stream = batches(open_source(str(tmp_path)), BatchOrder(3, 3, seed=0), workers=workers)
    with pytest.raises(DataError) as caught:
        next(stream)
    assert str(caught.value).startswith(f"{broken} is not a readable image")
    assert "\n" not in str(caught.value)


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no images"):
        open_source(str(tmp_path))


def test_a_label_outside_the_classes_is_refused(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {"image": [Image.new("L", (8, 8))] * 2, "label": [0, -1]}  # -1 is how unlabelled splits are stored
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(DataError, match="has the label -1, outside its 2 classes"):
        open_source(f"hf:{tmp_path / 'set'}")


def test_a_full_disk_is_one_sentence_and_keeps_the_last_checkpoint(idx_folder: Path, tmp_path: Path) -> None:
    """The kernel refuses to let a file grow beyond 100 kB; a checkpoint of this network takes some 500."""
    run = tmp_path / "run"
    arguments = ("teacher", "--out", run, "--data", idx_folder, "--batch", "16", "--steps", "64", *TINY)
    here(*arguments, "--images", "32")
    kept = (run / CHECKPOINT).read_bytes()
    full = start(*arguments, "--images", "64", "--resume", limit=100_000)
    _, message = full.communicate(timeout=300)
    assert full.returncode == 1
    lines = [line for line in message.splitlines() if line.startswith("sfddm-train: ")]
    assert len(lines) == 1
    assert f"cannot write {run / CHECKPOINT}: " in lines[0]
    assert "free some space or choose another folder, then go on with --resume" in lines[0]
    assert "Traceback" not in message
    assert (run / CHECKPOINT).read_bytes() == kept
    assert len(kept) > 100_000
    assert not list(run.glob(".*.tmp"))  # nothing half-written


def test_a_disk_without_room_for_a_checkpoint_is_found_before_training(
    idx_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=300_000))
    with pytest.raises(TrainingError, match=r"run has 0\.3 MiB free and a checkpoint takes 0\.\d; free some space or choose"):
        train_teacher(tiny_teacher_config(idx_folder, 16), tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


def test_a_killed_run_goes_on_to_the_same_losses(idx_folder: Path, tmp_path: Path) -> None:
    """Every update writes a checkpoint. SIGKILL comes while one is being written, then --resume continues."""
    arguments = ("--data", idx_folder, "--batch", "16", "--steps", "64", *TINY)
    run = tmp_path / "killed"
    process = start("teacher", "--out", run, *arguments, "--images", "10000000", "--checkpoint-images", "16")
    deadline = time.monotonic() + 300
    while not ((run / CHECKPOINT).exists() and any(run.glob(f".{CHECKPOINT}.*.tmp"))):
        assert process.poll() is None
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = checkpoint.load_run(run / CHECKPOINT)[1].progress.step  # the checkpoint is whole, whenever the signal came
    length = ("--images", str(16 * (done + 30)))
    here("teacher", "--out", run, *arguments, *length, "--resume")
    here("teacher", "--out", tmp_path / "whole", *arguments, *length)
    assert json.loads((run / "loss.json").read_text()) == json.loads((tmp_path / "whole" / "loss.json").read_text())
    assert [p.name for p in run.iterdir() if p.suffix == ".tmp"] == []


def test_a_teacher_can_start_from_a_model(teacher_run: Path, idx_folder: Path, tmp_path: Path) -> None:
    train_teacher(tiny_teacher_config(idx_folder, 16, init=str(teacher_run), loop=tiny_loop(16, lr=1e-9)), tmp_path)
    ours, theirs = (load_model(str(run)).network.conv_in.weight for run in (tmp_path, teacher_run))
    assert np.allclose(ours.detach(), theirs.detach(), atol=1e-6)


def test_weights_of_another_shape_are_refused(teacher_run: Path, idx_folder: Path, tmp_path: Path) -> None:
    shape = {"channels": (8, 8), "layers": 1, "attention": (False, False), "head_dim": 8, "groups": 4}
    with pytest.raises(TrainingError, match=r"the weights of .* do not fit this network .* …\); give its --widths"):
        train_teacher(tiny_teacher_config(idx_folder, 16, init=str(teacher_run), unet=shape), tmp_path)
