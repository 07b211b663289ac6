"""The files that the sfddm command writes."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.cli.failures import CommandError
from service.features.encode import FORMATS, ImageFormat, encode, grid
from service.schema.images import ImageBody


@dataclass(frozen=True)
class Picture:
    """An image to save: uint8 [C,H,W], and the seed and index that its file is named after."""

    seed: int
    index: int
    pixels: NDArray[np.uint8]


class OutputError(CommandError):
    """A file that cannot be written; the message says why."""


def pixels_of(image: ImageBody) -> NDArray[np.uint8]:
    """Return the pixels of an image that a server sent inline: uint8 [C,H,W]."""
    assert image.b64_json is not None
    opened = Image.open(io.BytesIO(base64.b64decode(image.b64_json)))
    array = np.asarray(opened, dtype=np.uint8)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def save_images(model: str, pictures: Sequence[Picture], out: Path, scale: int) -> list[Path]:
    """Write one file per image into the folder `out`, or one file `out`: the image, or a grid of several.

    Returns the files written. Raises OutputError.
    """
    if out.is_dir():
        name = model.replace("/", "-")
        return [write(out / f"{name}-{p.seed}-{p.index}.png", encode(p.pixels, "png", scale)) for p in pictures]
    sheet = pictures[0].pixels if len(pictures) == 1 else grid([picture.pixels for picture in pictures])
    return [write(out, encode(sheet, _format_of(out), scale))]


def write(path: Path, content: bytes) -> Path:
    """Write a file and return its path. Raises OutputError."""
    try:
        path.write_bytes(content)
    except OSError as error:
        raise OutputError(f"Cannot write {path}: {(error.strerror or str(error)).lower()}.") from error
    return path


def check_images(out: Path) -> None:
    """Raise OutputError unless save_images can write to `out`. Call it before any computing."""
    if not out.is_dir():
        _format_of(out)
        check_file(out)


def check_file(path: Path) -> None:
    """Raise OutputError when the folder of the file does not exist. Call it before any computing."""
    if not path.parent.is_dir():
        raise OutputError(f"Cannot write {path}: the folder {path.parent} does not exist.")


def _format_of(path: Path) -> ImageFormat:
    """Return the format that a file name asks for. Raises OutputError for others."""
    suffix = path.suffix.lower().removeprefix(".").replace("jpg", "jpeg")
    for name in FORMATS:
        if suffix == name:
            return name
    raise OutputError(f"Cannot write {path}: the name must end in .png, .webp or .jpg, or be an existing folder.")
