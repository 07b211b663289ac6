"""Distances between two sets of features, ours [N,D] and the reference's [M,D].

KID   kernel distance, unbiased at any N; models are ranked by it (Binkowski et al. 2018, arXiv 1801.01401)
FD    Fréchet distance between Gaussians, called FID over Inception-v3 features (Heusel et al. 2017, arXiv 1706.08500);
      biased upwards by an amount that falls as 1/N, and at N = 2,000 over 1280 features mostly bias
P, R  improved precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from models.runtime.base import Float32
from models.schedule import Float64

SUBSETS = 10  # disjoint subsets from whose estimates the interval of a KID is computed
NEIGHBOURS = 3
_T_975 = 2.2622  # two-sided 95 % quantile of Student's t with SUBSETS - 1 degrees of freedom
_BLOCK = 1000  # rows of a distance matrix in memory at once


def least_images(classes: int) -> int:
    """Return the least number of images for a KID: two of each class in every subset."""
    return 2 * SUBSETS * max(classes, 1)


def kid_subsets(ours: Float32, reference: Float32, classes: int = 0) -> Float64:
    """Return the unbiased KID of each of SUBSETS disjoint pairs of subsets: float64 [SUBSETS].

    Subset i of ours is compared with subset i of the reference, kernel (x.y/D + 1)^3. The estimates are independent, so
    their mean has a valid confidence interval. Estimates of two models with the same seeds are paired.
    classes: the class of our image i is i mod classes, not drawn at random; 0: all images are drawn at random.
    Raises ValueError for fewer images than `least_images`.
    """
    least = least_images(classes)
    if len(ours) < least or len(reference) < 2 * SUBSETS:
        raise ValueError(f"KID needs at least {least} images and {2 * SUBSETS} real ones, got {len(ours)} and {len(reference)}")
    labels = np.arange(len(ours)) % max(classes, 1)
    parts = (np.array_split(rows, SUBSETS) for rows in (ours, labels, reference))
    return np.array([
        _unbiased_mmd(a.astype(np.float64), label, b.astype(np.float64)) for a, label, b in zip(*parts, strict=True)
    ])  # fmt: skip


def _unbiased_mmd(x: Float64, label: NDArray[np.int64], y: Float64) -> float:
    """Return the squared MMD of x [n,D] and y [m,D] with the cubic kernel k: E k(x,x') + E k(y,y') - 2 E k(x,y).

    y is drawn at random: E k(y,y') is the mean over pairs of distinct points. x is not: it holds a fixed number of points of
    each class, so that too few of its pairs are of one class. E k(x,x') is therefore a mean of means. The inner mean is over
    the pairs of distinct points of two classes, the outer one is over all pairs of classes, each with the same weight. With
    one class this is the usual estimator.
    """
    size = x.shape[1]

    def kernel(a: Float64, b: Float64) -> Float64:
        return np.asarray((a @ b.T / size + 1) ** 3, dtype=np.float64)

    counts = np.bincount(label)
    weight = (1 / (counts[counts > 0].size * counts))[label]  # of each point; the weights sum to one
    pair = np.outer(weight, weight)
    same = label[:, None] == label[None, :]
    np.fill_diagonal(same, False)
    pair[same] *= (counts / np.maximum(counts - 1, 1))[label][np.nonzero(same)[0]]
    np.fill_diagonal(pair, 0)
    own = kernel(y, y)
    among = float((own.sum() - np.trace(own)) / (len(y) * (len(y) - 1)))
    return float((pair * kernel(x, x)).sum()) + among - 2 * float((weight[:, None] * kernel(x, y)).sum()) / len(y)


class MeanInterval(NamedTuple):
    """A mean and its 95 % confidence interval."""

    mean: float
    low: float
    high: float


def mean_interval(estimates: Float64) -> MeanInterval:
    """Return the mean of SUBSETS independent estimates with its 95 % interval."""
    mean = float(estimates.mean())
    half = _T_975 * float(estimates.std(ddof=1)) / math.sqrt(len(estimates))
    return MeanInterval(mean, mean - half, mean + half)


def gaussian(features: Float32) -> tuple[Float64, Float64]:
    """Return the mean [D] and covariance [D,D] of features, float64."""
    wide = features.astype(np.float64)
    return wide.mean(axis=0), np.cov(wide, rowvar=False)


def frechet(ours: Float32, reference: Float32) -> float:
    """Return the Fréchet distance |mu - mu'|^2 + tr(C + C' - 2 (C C')^(1/2)).

    The trace of the root is computed as the trace of (C'^(1/2) C C'^(1/2))^(1/2), a symmetric matrix with real eigenvalues.
    """
    (mean_a, cov_a), (mean_b, cov_b) = gaussian(ours), gaussian(reference)
    values, vectors = np.linalg.eigh(cov_b)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_a @ root), 0)).sum()
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def precision_recall(*, ours: Float32, reference: Float32, k: int = NEIGHBOURS) -> tuple[float, float]:
    """Return the share of ours within the reference's manifold, and of the reference within ours (eq. 1-2).

    A manifold is the union of balls around its points, each as large as the distance to the k-th nearest neighbour. Both
    numbers depend on the size of the sets, so compare sets of the same size.
    """
    return _covered(ours, reference, _radii(reference, k)), _covered(reference, ours, _radii(ours, k))


def _radii(points: Float32, k: int) -> torch.Tensor:
    """Return the distance of each point to its k-th nearest other: float32 [N]."""
    every = torch.from_numpy(points)
    # The nearest is the point itself.
    return torch.cat([torch.cdist(part, every).kthvalue(k + 1, dim=1).values for part in torch.split(every, _BLOCK)])


def _covered(points: Float32, centres: Float32, radii: torch.Tensor) -> float:
    """Return the share of points inside any ball."""
    balls = torch.from_numpy(centres)
    inside = [(torch.cdist(part, balls) <= radii).any(dim=1) for part in torch.split(torch.from_numpy(points), _BLOCK)]
    return float(torch.cat(inside).float().mean())
