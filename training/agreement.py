"""How closely two sets of images made from the same noise agree: PSNR and SSIM, image by image."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.image import structural_similarity_index_measure

from models.schedule import Float64

UInt8 = NDArray[np.uint8]
# Two images that quantise alike differ by up to the 8-bit rounding error, whose variance is 1/12: PSNR stops at 58.9 dB.
_QUANTISATION = 1 / 12


def psnr(images: UInt8, reference: UInt8) -> Float64:
    """10 log10(255^2 / max(MSE, 1/12)) in dB of each image: uint8 [N,C,H,W] twice -> float64 [N], at most 58.9."""
    error = (images.astype(np.float64) - reference.astype(np.float64)) ** 2
    return np.asarray(10 * np.log10(255**2 / np.maximum(error.mean(axis=(1, 2, 3)), _QUANTISATION)), dtype=np.float64)


def rmse(images: UInt8, reference: UInt8) -> float:
    """Root mean square difference over all pixels, in 8-bit levels."""
    return float(np.sqrt(((images.astype(np.float64) - reference.astype(np.float64)) ** 2).mean()))


def ssim(images: UInt8, reference: UInt8) -> Float64:
    """Structural similarity of each image (Wang et al. 2004: Gaussian window, sigma 1.5): float64 [N]."""
    values = structural_similarity_index_measure(
        torch.from_numpy(images).float(), torch.from_numpy(reference).float(), data_range=255.0, reduction="none"
    )
    assert isinstance(values, torch.Tensor)
    return np.asarray(values.double().numpy(), dtype=np.float64)
