from __future__ import annotations

import numpy as np
import pytest

from models.image_metrics import psnr, ssim
from training.evaluation.agreement import feature_agreement, pixel_agreement


def _image(value: int) -> np.ndarray:
    return np.full((2, 1, 16, 16), value, dtype=np.uint8)


def test_psnr_of_a_known_error() -> None:
    """An error of 5 levels everywhere is 10 log10(255^2 / 25) = 34.15 dB."""
    assert psnr(_image(100), _image(105)) == pytest.approx([34.15, 34.15], abs=0.01)


def test_psnr_of_equal_images_stops_at_the_quantisation_error() -> None:
    assert psnr(_image(9), _image(9)) == pytest.approx(10 * np.log10(255**2 * 12))


def test_rmse_is_in_levels_and_does_not_wrap() -> None:
    assert pixel_agreement([(_image(250), _image(4))])[0]["rmse"] == 246


def test_ssim_is_one_for_equal_and_low_for_unrelated_images() -> None:
    random = np.random.default_rng(0)
    a, b = (random.integers(0, 256, (3, 1, 16, 16)).astype(np.uint8) for _ in range(2))
    assert ssim(a, a) == pytest.approx(1.0)
    assert np.all(ssim(a, b) < 0.3)


def test_chunks_add_up_to_the_whole() -> None:
    random = np.random.default_rng(1)
    a, b = (random.integers(0, 256, (6, 1, 16, 16)).astype(np.uint8) for _ in range(2))
    whole, each = pixel_agreement([(a, b)])
    parts, again = pixel_agreement([(a[:4], b[:4]), (a[4:], b[4:])])
    assert parts == pytest.approx(whole)
    assert np.array_equal(again, each)
    assert np.array_equal(each, psnr(a, b))
    assert whole["rmse"] == pytest.approx(np.sqrt(((a.astype(float) - b) ** 2).mean()))


def test_same_noise_counts_pairs_that_find_each_other() -> None:
    """Of three unit vectors the first two equal their partners, the third equals the first one's partner."""
    reference = np.eye(3, dtype=np.float32)
    agreement = feature_agreement(reference[[0, 1, 0]] * 5, reference)
    assert agreement == pytest.approx({"cosine": 2 / 3, "same_noise": 2 / 3})
