"""The pictures that a run leaves: its loss curve, and grids of samples."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from models.network import PredictionType
from models.plan import Plan
from training.sampling import grid, run_plan, to_uint8

_ROW = 10  # images in a row of a grid


def write_losses(run: Path, losses: list[tuple[int, float]]) -> None:
    """Write loss.json and loss.png: the curve as numbers and as a picture. losses: (training images seen, mean loss)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    (run / "loss.json").write_text(json.dumps(losses))
    images, values = zip(*losses, strict=True)
    window = max(1, len(values) // 50)
    smooth = np.convolve(values, np.ones(window) / window, mode="valid")
    figure, axes = pyplot.subplots(figsize=(7, 4))
    axes.plot(images, values, alpha=0.3, linewidth=0.8)
    axes.plot(images[window - 1 :], smooth, linewidth=1.5)
    axes.set(xlabel="training images seen", ylabel="loss", title=run.name)
    if min(values) > 0:
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(run / "loss.png", dpi=100)
    pyplot.close(figure)


def sample_writer(
    plan: Plan,
    prediction_type: PredictionType,
    *,
    shape: tuple[int, int, int],
    classes: int,
    clip: tuple[float, float] | None = (-1.0, 1.0),
) -> Callable[[nn.Module, Path], None]:
    """Return sample(network, path), which writes a grid of images: two of each class (or 20), always from the same noise."""
    pairs = [(0, index) for index in range(2 * min(classes, _ROW) or 2 * _ROW)]
    label = torch.tensor([index % classes for _, index in pairs]) if classes else None

    def sample(network: nn.Module, path: Path) -> None:
        network.eval()
        images = to_uint8(run_plan(network, plan, prediction_type, pairs, shape, label, clip=clip))
        network.train()
        sheet = grid(images, columns=_ROW)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sheet.squeeze()).save(path)

    return sample
