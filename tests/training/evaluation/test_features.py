from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.cbook import get_sample_data
from PIL import Image

from models.image_metrics import UInt8
from models.runtime.base import Float32
from training.data import ImageSource, to_square
from training.evaluation.distances import frechet, kid_subsets, mean_interval
from training.evaluation.family import Family
from training.evaluation.features import EfficientNetLite0, find_inception, image_features, source_features
from training.evaluation.images import CHUNK, ImageCache, NoiseStarts


class Mean:
    """Two cheap features: mean and deviation of the pixels."""

    name, key, resize = "mean", "mean", "none"

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, images: UInt8) -> Float32:
        self.seen += len(images)
        return np.stack([images.mean(axis=(1, 2, 3)), images.std(axis=(1, 2, 3))], axis=1).astype(np.float32)


def source(count: int, seed: int) -> ImageSource:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 1, 8, 8)).astype(np.uint8)
    return ImageSource("noise", (1, 8, 8), lambda i: pixels[i], None, (), count)


def test_grey_is_three_equal_channels_and_rows_are_independent() -> None:
    extract = EfficientNetLite0()
    grey = np.random.default_rng(0).integers(0, 256, (3, 1, 12, 12)).astype(np.uint8)
    features = extract(grey)
    assert features.shape == (3, 1280)
    np.testing.assert_allclose(extract(grey.repeat(3, axis=1)), features, atol=1e-5)
    np.testing.assert_allclose(extract(grey[1:2])[0], features[1], atol=1e-3)


def test_pixels_are_scaled_as_the_network_was_trained() -> None:
    """On a photograph the variances after the first convolution are those that its batch norm learnt from ImageNet.

    (v - 127)/128 gives them; scaling by ImageNet's mean and deviation gives five times as much, by 1/255 a fifth.
    """
    with Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)) as photograph:
        pixels = to_square(photograph, 128, 3)
    extract, seen = EfficientNetLite0(), []
    norm = extract._network._bn0
    norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    extract(pixels[None])
    ratio = seen[0].var(dim=(0, 2, 3)) / norm.running_var
    assert 0.5 < float(ratio.median()) < 2


def test_imagenet_features_tell_pictures_from_noise() -> None:
    """Bars at random places are nearer to other bars than noise is, in KID and in the Frechet distance."""
    extract, random = EfficientNetLite0(), np.random.default_rng(1)
    bars = np.zeros((40, 1, 8, 8), dtype=np.uint8)
    for image in bars:
        image[0, random.integers(8)] = random.integers(150, 256)
    noise = random.integers(0, 256, (20, 1, 8, 8)).astype(np.uint8)
    near, real, far = extract(bars[:20]), extract(bars[20:]), extract(noise)
    assert mean_interval(kid_subsets(near, real))[0] < mean_interval(kid_subsets(far, real))[0]
    assert frechet(near, real) < frechet(far, real)


def test_image_features_are_kept_and_completed(tiny_zoo: Path, tmp_path: Path) -> None:
    candidate, cache, starts, extract = (
        Family(tiny_zoo, "tiny").candidate("student-004"),
        ImageCache(tmp_path),
        NoiseStarts(0),
        Mean(),
    )
    first = image_features(cache, candidate, starts, CHUNK + 2, extract)
    assert extract.seen == CHUNK + 2
    np.testing.assert_allclose(first, Mean()(cache.first(candidate, starts, CHUNK + 2)), rtol=1e-6)
    more = image_features(cache, candidate, starts, CHUNK + 5, extract)
    assert extract.seen == CHUNK + 2 + 5  # only the last chunk was too short, and is computed again
    np.testing.assert_allclose(more[: CHUNK + 2], first, rtol=1e-6)


def test_reference_features_are_drawn_once_and_belong_to_their_images(tmp_path: Path) -> None:
    extract = Mean()
    reference = source_features(source(300, 0), "train", 120, extract, tmp_path)
    assert reference.text == "120 of the 300 train images of noise"
    assert len(np.unique(reference.features, axis=0)) == 120  # without replacement
    again = source_features(source(300, 0), "train", 120, extract, tmp_path)
    assert extract.seen == 120
    np.testing.assert_array_equal(again.features, reference.features)
    other = source_features(source(300, 1), "train", 120, extract, tmp_path)  # another data set of the same name
    assert not np.array_equal(other.features, reference.features)


def test_without_inceptions_weights_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    found = find_inception()
    assert isinstance(found, str)
    assert found.startswith("FID is left out: ")
    assert "\n" not in found
