"""Agreement of two sets of images made from the same noise, image by image: the paper's semantic consistency."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from models.image_metrics import UInt8, mse, psnr, rmse, ssim
from models.runtime.base import Float32
from models.schedule import Float64


def pixel_agreement(pairs: Iterable[tuple[UInt8, UInt8]]) -> tuple[dict[str, float], Float64]:
    """Compare pairs of image sets, chunk by chunk: (metrics over all images, PSNR of each image [N]).

    Metrics: mean and tenth percentile of PSNR in dB, mean SSIM, and the RMSE over all pixels in 8-bit levels.
    """
    parts = [(psnr(images, reference), ssim(images, reference), mse(images, reference)) for images, reference in pairs]
    decibels, similarity, error = (np.concatenate(column) for column in zip(*parts, strict=True))
    metrics = {
        "psnr_db": float(decibels.mean()),
        "psnr_p10_db": float(np.quantile(decibels, 0.1)),
        "ssim": float(similarity.mean()),
        "rmse": rmse(error),
    }
    return metrics, decibels


def feature_agreement(ours: Float32, reference: Float32) -> dict[str, float]:
    """Compare the features [N,D] of image pairs.

    cosine     mean cosine similarity of the pairs
    same_noise share of our images whose nearest reference image, by that cosine, is the one from the same noise;
               by chance 1/N, or C/N where image i is of class i mod C
    """
    a, b = (f / np.linalg.norm(f, axis=1, keepdims=True) for f in (ours, reference))
    similarity = a @ b.T
    return {
        "cosine": float(np.diagonal(similarity).mean(dtype=np.float64)),
        "same_noise": float((similarity.argmax(axis=1) == np.arange(len(a))).mean()),
    }
