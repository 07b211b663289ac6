"""The pictures that a run writes: its loss curve, and grids of samples."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import nn

from models.network import PredictionType
from models.pictures import to_uint8
from models.plan import Plan
from models.runtime.denoise import denoise, starting_noise
from training.sampling import TorchNetwork, save_sheet

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
    keys = [(0, index) for index in range(2 * min(classes, _ROW) or 2 * _ROW)]
    noise = starting_noise(keys, shape)
    label = np.arange(len(keys), dtype=np.int64) % classes if classes else None

    def sample(network: nn.Module, path: Path) -> None:
        network.eval()
        images = denoise(TorchNetwork(network, prediction_type, clip), plan, noise, keys=keys, class_label=label)
        network.train()
        save_sheet(to_uint8(images), path, columns=_ROW)

    return sample
