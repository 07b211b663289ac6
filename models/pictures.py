"""Images as 8-bit pixels, and many of them on one sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.image_metrics import UInt8

_WHITE = 255


def to_uint8(images: NDArray[np.float32]) -> UInt8:
    """Round images in [-1, 1] to 8 bits: round((x + 1) 127.5), clipped. uint8 of the same shape."""
    levels: NDArray[np.float32] = np.rint((images + 1) * np.float32(127.5))
    return np.clip(levels, 0, 255).astype(np.uint8)


def channels_last(pixels: UInt8) -> UInt8:
    """Return pixels [C,H,W] in Pillow's layout: [H,W,C], or [H,W] for one channel."""
    return pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))


def contact_sheet(images: Sequence[UInt8] | UInt8, *, columns: int | None = None, gap: int = 2, border: int = 0) -> UInt8:
    """Place images of one shape, uint8 [C,H,W], row by row on a white sheet: uint8 [C,H',W'].

    columns: images in a row; None makes the sheet nearly square. gap, border: white pixels between images and around all.
    Raises ValueError when there is no image.
    """
    if not len(images):
        raise ValueError("a grid needs at least one image")
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    channels, height, width = images[0].shape
    size = (rows * (height + gap) - gap + 2 * border, columns * (width + gap) - gap + 2 * border)
    sheet = np.full((channels, *size), _WHITE, dtype=np.uint8)
    for place, image in enumerate(images):
        top, left = border + (place // columns) * (height + gap), border + (place % columns) * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    return sheet
