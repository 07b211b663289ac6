"""Metrics of agreement between images and references from the same noise: squared error, PSNR and SSIM of each image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]
Float64 = NDArray[np.float64]

# Two images with equal pixels still differ by the 8-bit rounding error, whose variance is 1/12. PSNR is capped there: 58.9 dB.
_QUANTISATION = 1 / 12
_SIGMA, _WINDOW = 1.5, 11
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def mse(images: UInt8, reference: UInt8) -> Float64:
    """Return the mean squared error of each image in 8-bit levels: uint8 [N,C,H,W] twice -> float64 [N]."""
    error = (images.astype(np.float64) - reference.astype(np.float64)) ** 2
    return np.asarray(error.mean(axis=(1, 2, 3)), dtype=np.float64)


def rmse(errors: Float64) -> float:
    """Return the root mean squared error over all pixels of images, in 8-bit levels, from their `mse` [N]."""
    return float(np.sqrt(errors.mean()))


def psnr(images: UInt8, reference: UInt8) -> Float64:
    """Return 10 log10(255^2 / max(MSE, 1/12)) in dB of each image: uint8 [N,C,H,W] twice -> float64 [N], at most 58.9."""
    return np.asarray(10 * np.log10(255**2 / np.maximum(mse(images, reference), _QUANTISATION)), dtype=np.float64)


def ssim(images: UInt8, reference: UInt8) -> Float64:
    """Return the structural similarity of each image (Wang et al. 2004): Gaussian window of 11, sigma 1.5, reflected edges.

    (2 mu_x mu_y + C1)(2 sigma_xy + C2) / ((mu_x^2 + mu_y^2 + C1)(sigma_x^2 + sigma_y^2 + C2)), averaged over pixels and
    channels. uint8 [N,C,H,W] twice -> float64 [N].
    """
    x, y = images.astype(np.float64), reference.astype(np.float64)
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x, variance_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    likeness = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    scale = (mean_x**2 + mean_y**2 + _C1) * (variance_x + variance_y + _C2)
    return np.asarray((likeness / scale).mean(axis=(1, 2, 3)), dtype=np.float64)


def _blur(x: Float64) -> Float64:
    """Return the Gaussian mean around every pixel: [N,C,H,W] -> [N,C,H,W]."""
    margin = _WINDOW // 2
    kernel = np.exp(-(np.arange(-margin, margin + 1) ** 2) / (2 * _SIGMA**2))
    x = np.pad(x, ((0, 0), (0, 0), (margin, margin), (margin, margin)), mode="reflect")
    for axis in (2, 3):
        x = np.lib.stride_tricks.sliding_window_view(x, _WINDOW, axis=axis) @ (kernel / kernel.sum())
    return x
