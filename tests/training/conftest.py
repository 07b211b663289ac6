"""A tiny data set and tiny networks, so that real training runs take seconds on two cores."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.shared import made_once
from training.config import LoopConfig, TeacherConfig
from training.export import export
from training.teacher import train_teacher
from training.unet import UNetShape

TINY_UNET = UNetShape(channels=(8, 16), layers=1, attention=(False, True), head_dim=8, groups=4)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Use one thread. Tiny tensors gain nothing from more, and two runs must add numbers in the same order."""
    torch.set_num_threads(1)


def shapes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw 8x8 pictures that a network can learn: a horizontal bar, a vertical bar or a square, at random places."""
    random = np.random.default_rng(seed)
    images = np.zeros((count, 8, 8), dtype=np.uint8)
    labels = np.arange(count, dtype=np.uint8) % 3
    for image, label in zip(images, labels, strict=True):
        row, column = random.integers(1, 5, 2)
        height, width = [(2, 6), (6, 2), (3, 3)][label]
        image[row : row + height, column : column + width] = random.integers(150, 256)
    return images, labels


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write an IDX file of bytes, gzipped when its name ends in .gz."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wb") as file:
        file.write(header + array.tobytes())


@pytest.fixture(scope="session")
def idx_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 600 training and 150 test pictures of three classes in MNIST's file format."""

    def make(folder: Path) -> None:
        for prefix, count, seed in (("train", 600, 0), ("t10k", 150, 1)):
            images, labels = shapes(count, seed)
            write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
            write_idx(folder / f"{prefix}-labels-idx1-ubyte", labels)

    return made_once(tmp_path_factory, "shapes", make)


def tiny_loop(images: int, **changes: object) -> LoopConfig:
    """Return a loop configuration for tiny runs: float32, batches of 16, no picture until the end."""
    settings: dict[str, object] = {"batch": 16, "lr": 2e-3, "warmup_images": 64, "precision": "no"}
    settings |= {"checkpoint_images": 10**6, "sample_images": 10**6}
    return LoopConfig.model_validate({"images": images, **settings, **changes})


def tiny_teacher_config(idx_folder: Path, images: int, **changes: object) -> TeacherConfig:
    """Return a 64-step class-conditional v-predicting teacher of about 30,000 parameters."""
    loop = changes.pop("loop", None) or tiny_loop(images)
    return TeacherConfig.model_validate({"data": str(idx_folder), "steps": 64, "unet": TINY_UNET, "loop": loop, **changes})


@pytest.fixture(scope="session")
def teacher_run(idx_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run folder with a teacher trained on 6,400 tiny pictures."""
    return made_once(tmp_path_factory, "teacher", lambda run: train_teacher(tiny_teacher_config(idx_folder, 6400), run))


@pytest.fixture(scope="session")
def snapshot(idx_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an early snapshot of a teacher of the same shape."""
    config = tiny_teacher_config(idx_folder, 1, loop=tiny_loop(320, snapshot_images=160))
    run = made_once(tmp_path_factory, "weak", lambda run: train_teacher(config, run))
    return run / "snapshots" / "ema-000000160.safetensors"


@pytest.fixture(scope="session")
def teacher_zoo(teacher_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a zoo with that teacher as shapes/teacher, its weights stored as float32. Read-only by agreement."""

    def make(zoo: Path) -> None:
        export(str(teacher_run), zoo, "shapes", "teacher", half=False)

    return made_once(tmp_path_factory, "teacher-zoo", make)
