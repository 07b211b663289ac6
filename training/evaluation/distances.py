"""Distances between two sets of features, ours [N,D] and the reference's [M,D].

KID   kernel distance, unbiased at any N: what rankings rest on (Binkowski et al. 2018, arXiv 1801.01401)
FD    Fréchet distance between Gaussians, called FID over Inception-v3 features (Heusel et al. 2017, arXiv 1706.08500);
      biased upwards by an amount that falls as 1/N, and at N = 2,000 over 1280 features mostly bias
P, R  improved precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991)
"""

from __future__ import annotations

import math

import numpy as np
import torch

from models.schedule import Float64
from training.evaluation.samplers import Float32

SUBSETS = 10  # disjoint subsets that a KID interval rests on
NEIGHBOURS = 3
_T_975 = 2.2622  # two-sided 95 % quantile of Student's t with SUBSETS - 1 degrees of freedom
_BLOCK = 1000  # rows of a distance matrix in memory at once


def kid_subsets(ours: Float32, reference: Float32) -> Float64:
    """Unbiased KID of each of SUBSETS disjoint pairs of subsets: float64 [SUBSETS].

    Subset i of ours is compared with subset i of the reference, kernel (x.y/D + 1)^3. The estimates are independent, so
    their mean has an honest interval; between two models with the same seeds they are paired.
    Raises ValueError for fewer than two images a subset.
    """
    if min(len(ours), len(reference)) < 2 * SUBSETS:
        raise ValueError(f"KID needs at least {2 * SUBSETS} images on either side, got {len(ours)} and {len(reference)}")
    pairs = zip(np.array_split(ours, SUBSETS), np.array_split(reference, SUBSETS), strict=True)
    return np.array([_unbiased_mmd(a.astype(np.float64), b.astype(np.float64)) for a, b in pairs])


def _unbiased_mmd(x: Float64, y: Float64) -> float:
    """Squared MMD between x [n,D] and y [m,D] with the cubic kernel: mean of k over pairs of distinct points, minus the cross.

    torchmetrics has it for n = m only.
    """
    size = x.shape[1]

    def within(points: Float64) -> float:
        kernel = (points @ points.T / size + 1) ** 3
        return float((kernel.sum() - np.trace(kernel)) / (len(points) * (len(points) - 1)))

    return within(x) + within(y) - 2 * float(((x @ y.T / size + 1) ** 3).mean())


def interval(estimates: Float64) -> tuple[float, float, float]:
    """Mean of SUBSETS independent estimates and its 95 % interval: (mean, low, high)."""
    mean = float(estimates.mean())
    half = _T_975 * float(estimates.std(ddof=1)) / math.sqrt(len(estimates))
    return mean, mean - half, mean + half


def gaussian(features: Float32) -> tuple[Float64, Float64]:
    """Mean [D] and covariance [D,D] of features, float64."""
    wide = features.astype(np.float64)
    return wide.mean(axis=0), np.cov(wide, rowvar=False)


def frechet(ours: Float32, reference: Float32) -> float:
    """|mu - mu'|^2 + tr(C + C' - 2 (C C')^(1/2)).

    The last trace is that of (C'^(1/2) C C'^(1/2))^(1/2), whose eigenvalues are real where rounding leaves none below 0.
    """
    (mean_a, cov_a), (mean_b, cov_b) = gaussian(ours), gaussian(reference)
    values, vectors = np.linalg.eigh(cov_b)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_a @ root), 0)).sum()
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def precision_recall(ours: Float32, reference: Float32, k: int = NEIGHBOURS) -> tuple[float, float]:
    """Share of ours within the reference's manifold, and of the reference within ours (eq. 1-2).

    A manifold is the union of balls around its points that reach to their k-th nearest neighbour. Compare sets of the
    same size: both numbers depend on it.
    """
    return _covered(ours, reference, _radii(reference, k)), _covered(reference, ours, _radii(ours, k))


def _radii(points: Float32, k: int) -> torch.Tensor:
    """Distance of each point to its k-th nearest other: float32 [N]."""
    every = torch.from_numpy(points)
    # The nearest is the point itself.
    return torch.cat([torch.cdist(part, every).kthvalue(k + 1, dim=1).values for part in torch.split(every, _BLOCK)])


def _covered(points: Float32, centres: Float32, radii: torch.Tensor) -> float:
    """Share of points inside any ball."""
    balls = torch.from_numpy(centres)
    inside = [(torch.cdist(part, balls) <= radii).any(dim=1) for part in torch.split(torch.from_numpy(points), _BLOCK)]
    return float(torch.cat(inside).float().mean())
