"""PSNR and SSIM against torchmetrics, and at their limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from models import image_metrics


def pairs(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    reference = random.integers(0, 256, shape)
    noise = random.normal(0, 1, shape) * np.array([0, 5, 40, 200]).reshape(4, 1, 1, 1)
    return np.clip(reference + noise, 0, 255).astype(np.uint8), reference.astype(np.uint8)


@pytest.mark.parametrize("shape", [(4, 1, 28, 28), (4, 3, 32, 40)])
def test_they_are_torchmetrics_own(shape: tuple[int, ...]) -> None:
    images, reference = pairs(shape)
    ours, theirs = (torch.from_numpy(values).double() for values in (images, reference))
    error = np.array([float(((a - b) ** 2).mean()) for a, b in zip(ours, theirs, strict=True)])
    np.testing.assert_allclose(image_metrics.mse(images, reference), error)
    np.testing.assert_allclose(image_metrics.psnr(images, reference), 10 * np.log10(255**2 / np.maximum(error, 1 / 12)))
    similarity = structural_similarity_index_measure(ours.float(), theirs.float(), data_range=255.0, reduction="none")
    np.testing.assert_allclose(image_metrics.ssim(images, reference), similarity, atol=1e-4)


def test_identical_images_agree_entirely_however_small() -> None:
    for side in (1, 2, 8, 11, 12):
        images = np.random.default_rng(side).integers(0, 256, (2, 1, side, side), dtype=np.uint8)
        assert image_metrics.psnr(images, images) == pytest.approx(58.92, abs=0.01)
        assert image_metrics.ssim(images, images) == pytest.approx(1)


def test_black_against_white_is_the_worst() -> None:
    black = np.zeros((1, 1, 16, 16), dtype=np.uint8)
    assert image_metrics.psnr(black, black + 255)[0] == 0
    assert image_metrics.ssim(black, black + 255)[0] < 0.001
