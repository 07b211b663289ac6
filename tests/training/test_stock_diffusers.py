"""examples/stock_diffusers.py samples a pipeline folder with diffusers alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from models.catalogue import default_zoo
from tests.e2e.conftest import PATIENCE_S, ROOT
from training.torch_model import load_model, save_pipeline


def test_a_shipped_student_is_sampled_with_diffusers_alone(tmp_path: Path) -> None:
    pipeline = tmp_path / "student-004"
    save_pipeline(load_model(str(default_zoo() / "fashion-mnist" / "student-004")), pipeline)
    command = [sys.executable, str(ROOT / "examples" / "stock_diffusers.py"), str(pipeline)]
    example = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert example.returncode == 0, example.stderr
    classes = json.loads((pipeline / "classes.json").read_text())
    assert example.stdout.splitlines() == [
        "DDIMScheduler, 4 steps",
        f"student.png: 40 images of {', '.join(classes)}",
    ]
    sheet = np.asarray(Image.open(tmp_path / "student.png"))
    assert sheet.shape == (10 * 28, 4 * 28)
    images = sheet.reshape(10, 28, 4, 28).transpose(0, 2, 1, 3).reshape(40, 28 * 28)
    assert len(np.unique(images, axis=0)) == 40
    # Bright clothes on black, as in the data: noise, or steps in a wrong order, would leave no image dark in its corners.
    assert (images.max(axis=1) > 150).all()
    assert np.median(images[:, [0, 27, -28, -1]]) < 10
