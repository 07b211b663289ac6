"""How closely two sets of images made from the same noise agree, image by image: the paper's semantic consistency."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.image import structural_similarity_index_measure

from models.schedule import Float64
from training.evaluation.samplers import Float32

UInt8 = NDArray[np.uint8]
# Two images that quantise alike differ by up to the 8-bit rounding error, whose variance is 1/12: PSNR stops at 58.9 dB.
_QUANTISATION = 1 / 12


def psnr(images: UInt8, reference: UInt8) -> Float64:
    """10 log10(255^2 / max(MSE, 1/12)) in dB of each image: uint8 [N,C,H,W] twice -> float64 [N], at most 58.9."""
    return np.asarray(10 * np.log10(255**2 / np.maximum(_mse(images, reference), _QUANTISATION)), dtype=np.float64)


def _mse(images: UInt8, reference: UInt8) -> Float64:
    error = (images.astype(np.float64) - reference.astype(np.float64)) ** 2
    return np.asarray(error.mean(axis=(1, 2, 3)), dtype=np.float64)


def ssim(images: UInt8, reference: UInt8) -> Float64:
    """Structural similarity of each image (Wang et al. 2004: Gaussian window, sigma 1.5): float64 [N]."""
    values = structural_similarity_index_measure(
        torch.from_numpy(images).float(), torch.from_numpy(reference).float(), data_range=255.0, reduction="none"
    )
    assert isinstance(values, torch.Tensor)
    return np.asarray(values.double().numpy(), dtype=np.float64)


def pixel_agreement(pairs: Iterable[tuple[UInt8, UInt8]]) -> tuple[dict[str, float], Float64]:
    """Mean and tenth percentile of PSNR, mean SSIM, the RMSE over all pixels in 8-bit levels; and each PSNR [N]. By chunks."""
    parts = [(psnr(a, b), ssim(a, b), _mse(a, b)) for a, b in pairs]
    decibels, similarity, error = (np.concatenate(column) for column in zip(*parts, strict=True))
    metrics = {
        "psnr_db": float(decibels.mean()),
        "psnr_p10_db": float(np.quantile(decibels, 0.1)),
        "ssim": float(similarity.mean()),
        "rmse": float(np.sqrt(error.mean())),
    }
    return metrics, decibels


def feature_agreement(ours: Float32, reference: Float32) -> dict[str, float]:
    """Agreement of features [N,D] of image pairs.

    cosine     mean cosine similarity of the pairs
    same_noise share of ours whose nearest reference image, by that cosine, is the one from the same noise;
               by chance 1/N, or C/N where images i are of class i mod C
    """
    a, b = (f / np.linalg.norm(f, axis=1, keepdims=True) for f in (ours, reference))
    similarity = a @ b.T
    return {
        "cosine": float(np.diagonal(similarity).mean(dtype=np.float64)),
        "same_noise": float((similarity.argmax(axis=1) == np.arange(len(a))).mean()),
    }
