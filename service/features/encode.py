"""Encode pixels, uint8 [C,H,W], as PNG, WebP or JPEG files. The same pixels and style always give the same bytes."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.manifest import ImageShape
from models.pictures import channels_last, contact_sheet
from service.engine.request import Finished
from service.features.errors import InvalidRequestError

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
    """The format of an image file.

    scale: each pixel becomes scale x scale pixels. quality: 0 to 100 for a lossy format; None: see `encode`.
    """

    image_format: ImageFormat = "png"
    scale: int = 1
    quality: int | None = None

    @property
    def media_type(self) -> str:
        return MEDIA_TYPES[self.image_format]

    def encode(self, pixels: NDArray[np.uint8]) -> bytes:
        """Encode uint8 [C,H,W] as the bytes of an image file."""
        return encode(pixels, self.image_format, self.scale, self.quality)


def encode(pixels: NDArray[np.uint8], image_format: ImageFormat, scale: int = 1, quality: int | None = None) -> bytes:
    """Encode pixels as the bytes of an image file.

    pixels: uint8 [C,H,W] with C = 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA). scale: each pixel becomes a square of
    scale x scale pixels of the same value. PNG is lossless, and so is WebP unless `quality` (0 to 100) is given. JPEG drops
    alpha and has quality 95 unless given.
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


async def encode_all(images: Sequence[Finished], style: FileStyle) -> list[bytes]:
    """Encode images in a thread, so that the event loop goes on."""
    return await asyncio.to_thread(lambda: [style.encode(image.pixels) for image in images])


def check_strip(image: ImageShape, frames: int, style: FileStyle) -> None:
    """Raise InvalidRequestError for a strip of so many frames that is wider than its format can hold."""
    width, widest = image.width * style.scale * frames, LARGEST_SIDE[style.image_format]
    if width > widest:
        raise InvalidRequestError(
            f"frames: a strip of {width} pixels is wider than the {widest} that {style.image_format} can hold; accept "
            "image/png, or ask for fewer frames or a smaller size.",
            "frames",
        )


async def encode_strip(images: Sequence[Finished], style: FileStyle) -> bytes:
    """Encode images of one shape as one file, side by side from left to right."""
    strip = contact_sheet([image.pixels for image in images], columns=len(images), gap=0)
    return await asyncio.to_thread(style.encode, strip)
