"""Pixels to files: uint8 [C,H,W] to PNG, WebP or JPEG bytes. One input, one output: nothing depends on time or settings."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.pictures import channels_last

ImageFormat = Literal["png", "webp", "jpeg"]
FORMATS: tuple[ImageFormat, ...] = get_args(ImageFormat)
MEDIA_TYPES: dict[ImageFormat, str] = {name: f"image/{name}" for name in FORMATS}
LARGEST_SIDE: dict[ImageFormat, int] = {"png": 2**31 - 1, "webp": 16_383, "jpeg": 65_500}  # pixels; limits of the codecs

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_OPTIONS: dict[ImageFormat, dict[str, object]] = {
    "png": {"compress_level": 6},
    "webp": {"lossless": True},
    "jpeg": {"quality": 95, "subsampling": 0},
}


@dataclass(frozen=True)
class FileStyle:
    """How pixels become a file: the format, the size of a pixel, and 0 to 100 for a lossy format (None: the best there is)."""

    image_format: ImageFormat = "png"
    scale: int = 1
    quality: int | None = None

    @property
    def media_type(self) -> str:
        return MEDIA_TYPES[self.image_format]

    def encode(self, pixels: NDArray[np.uint8]) -> bytes:
        """The bytes of an image file: uint8 [C,H,W] in."""
        return encode(pixels, self.image_format, self.scale, self.quality)


def encode(pixels: NDArray[np.uint8], image_format: ImageFormat, scale: int = 1, quality: int | None = None) -> bytes:
    """The bytes of an image file.

    pixels: uint8 [C,H,W] with C = 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA). scale: each pixel becomes a square of
    scale x scale (nearest neighbour, so no value is invented). PNG is lossless, and so is WebP unless `quality` (0 to 100)
    is given; JPEG drops alpha and has quality 95 unless given.
    """
    pixels = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    image = Image.fromarray(channels_last(pixels), _MODES[pixels.shape[0]])
    if image_format == "jpeg" and image.mode.endswith("A"):
        image = image.convert(image.mode.removesuffix("A"))
    file = io.BytesIO()
    options = _OPTIONS[image_format]
    if quality is not None and image_format != "png":
        options = {"quality": quality, "subsampling": 0} if image_format == "jpeg" else {"quality": quality}
    image.save(file, format=image_format, **options)
    return file.getvalue()
