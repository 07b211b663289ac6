"""Distances compared with those of torchmetrics from the same features, and with their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from training.evaluation.distances import SUBSETS, frechet, kid_subsets, mean_interval, precision_recall

pytestmark = pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save all:UserWarning")
DIMENSIONS = 12


class Given(nn.Module):
    """Pass features on where torchmetrics expects a network."""

    num_features = DIMENSIONS

    def forward(self, features: Tensor) -> Tensor:
        return features


def features(count: int, seed: int, shift: float = 0.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    mixed = random.standard_normal((count, DIMENSIONS)) @ np.random.default_rng(99).standard_normal((DIMENSIONS, DIMENSIONS))
    return (mixed + shift).astype(np.float32)


def test_kid_of_each_subset_is_torchmetrics_own() -> None:
    ours, real = features(60, 0, shift=0.5), features(60, 1)
    found = kid_subsets(ours, real)
    for a, b, value in zip(np.array_split(ours, SUBSETS), np.array_split(real, SUBSETS), found, strict=True):
        metric = KernelInceptionDistance(feature=Given(), subsets=1, subset_size=len(a))
        metric.update(torch.from_numpy(b), real=True)
        metric.update(torch.from_numpy(a), real=False)
        assert value == pytest.approx(float(metric.compute()[0]), rel=1e-4)


def test_kid_is_unbiased_for_sets_of_unequal_size() -> None:
    """Over many draws from one distribution the mean estimate is zero, also where one side is small."""
    estimates = np.concatenate([kid_subsets(features(30, 10 + seed), features(200, 1000 + seed)) for seed in range(100)])
    error = estimates.std() / np.sqrt(len(estimates))
    assert abs(estimates.mean()) < 3 * error
    assert abs(estimates.mean()) < 0.05 * kid_subsets(features(400, 4, shift=1.0), features(400, 5)).mean()


def test_kid_is_unbiased_where_every_class_has_its_share() -> None:
    """Our classes take turns, the real ones are random, as in `evaluate`. Treating ours as random makes KID far too low."""
    means = 4 * np.random.default_rng(7).standard_normal((5, DIMENSIONS))

    def images(labels: np.ndarray, seed: int) -> np.ndarray:
        return (means[labels] + np.random.default_rng(seed).standard_normal((len(labels), DIMENSIONS))).astype(np.float32)

    in_turn, as_drawn = [], []
    for seed in range(60):
        ours = images(np.arange(103) % 5, 10 + seed)  # 10 or 11 a subset: not every class has as many
        real = images(np.random.default_rng(900 + seed).integers(0, 5, 400), 1000 + seed)
        in_turn.append(kid_subsets(ours, real, classes=5).mean())
        as_drawn.append(kid_subsets(ours, real).mean())
    error = np.std(in_turn) / np.sqrt(len(in_turn))
    assert abs(np.mean(in_turn)) < 3 * error
    assert np.mean(as_drawn) < -10 * error


def test_frechet_is_torchmetrics_own() -> None:
    ours, real = features(300, 2, shift=0.7), features(400, 3)
    metric = FrechetInceptionDistance(feature=Given())
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(ours), real=False)
    assert frechet(ours, real) == pytest.approx(float(metric.compute()), rel=1e-3)
    assert frechet(real, real) == pytest.approx(0, abs=1e-6)


def test_frechet_of_few_images_is_mostly_bias() -> None:
    """The samples are of one distribution, and one sample has fewer points than features."""
    random = np.random.default_rng(0)
    few, many, again = (random.standard_normal((n, 40)).astype(np.float32) for n in (30, 3000, 3000))
    assert frechet(few, many) > 10 * frechet(again, many)


def test_kid_interval_excludes_zero_for_other_distributions() -> None:
    mean, low, high = mean_interval(kid_subsets(features(400, 4, shift=1.0), features(400, 5)))
    assert 0 < low < mean < high


def test_interval_is_students_t() -> None:
    """Ten values with mean 5.5 and deviation 3.0277: half width 2.2622 * 3.0277 / sqrt(10)."""
    mean, low, high = mean_interval(np.arange(1.0, 11.0))
    assert (mean, high - mean, mean - low) == pytest.approx((5.5, 2.1659, 2.1659), abs=1e-4)


def test_kid_refuses_too_few_images() -> None:
    with pytest.raises(ValueError, match="at least 20 images"):
        kid_subsets(features(19, 0), features(100, 1))
    with pytest.raises(ValueError, match="at least 60 images"):
        kid_subsets(features(59, 0), features(100, 1), classes=3)


def test_precision_recall_follow_the_definition() -> None:
    """Compare with Kynkaanniemi et al. 2019, eq. 1-2, one pair of points at a time."""
    ours, real = features(25, 6, shift=1.5), features(30, 7)

    def inside(points: np.ndarray, centres: np.ndarray) -> float:
        hits = 0
        for point in points:
            for centre in centres:
                radius = sorted(np.linalg.norm(centres - centre, axis=1))[3]  # [0] is the centre itself
                if np.linalg.norm(point - centre) <= radius:
                    hits += 1
                    break
        return hits / len(points)

    assert precision_recall(ours=ours, reference=real) == pytest.approx((inside(ours, real), inside(real, ours)))


def test_a_collapsed_model_is_precise_and_recalls_little() -> None:
    random = np.random.default_rng(8)
    real = np.concatenate([random.standard_normal((50, 4)), 100 + random.standard_normal((50, 4))]).astype(np.float32)
    collapsed = (0.1 * random.standard_normal((100, 4))).astype(np.float32)
    precision, recall = precision_recall(ours=collapsed, reference=real)
    assert precision == 1
    assert recall < 0.2
