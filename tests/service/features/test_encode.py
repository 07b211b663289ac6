"""Encoding of pixels as files."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from service.features.encode import FORMATS, ImageFormat, encode


def random_pixels(channels: int, height: int = 6, width: int = 9) -> np.ndarray:
    return np.random.default_rng(channels).integers(0, 256, (channels, height, width), dtype=np.uint8)


def decoded(file: bytes, mode: str) -> np.ndarray:
    pixels = np.asarray(Image.open(io.BytesIO(file)).convert(mode))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


@pytest.mark.parametrize("image_format", ["png", "webp"])
@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_png_and_webp_keep_every_visible_pixel(image_format: ImageFormat, channels: int, mode: str) -> None:
    pixels = random_pixels(channels)
    if channels == 4:
        pixels[3] |= 1  # WebP may drop the colour of what cannot be seen
    assert np.array_equal(decoded(encode(pixels, image_format), mode), pixels)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_jpeg_is_close_and_has_no_alpha(channels: int) -> None:
    smooth = np.broadcast_to(np.linspace(0, 255, 16, dtype=np.uint8), (channels, 16, 16))
    colours = 1 if channels < 3 else 3
    found = decoded(encode(smooth, "jpeg"), "L" if colours == 1 else "RGB")
    assert found.shape == (colours, 16, 16)
    assert np.abs(found.astype(int) - smooth[:colours]).max() <= 8


@pytest.mark.parametrize("image_format", FORMATS)
def test_same_pixels_same_bytes(image_format: ImageFormat) -> None:
    pixels = random_pixels(3)
    assert encode(pixels, image_format) == encode(pixels.copy(), image_format)


def test_scale_makes_squares_of_pixels() -> None:
    pixels = random_pixels(1, 2, 3)
    assert np.array_equal(decoded(encode(pixels, "png", 4), "L"), pixels.repeat(4, 1).repeat(4, 2))
