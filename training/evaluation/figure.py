"""The picture that says it all: one row a model, one column a noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from training.evaluation.images import ImageCache, Starts
from training.evaluation.samplers import Sampler

_PAD, _FONT = 4, 15


def draw(cache: ImageCache, samplers: Sequence[Sampler], starts: Starts, columns: int, path: Path) -> None:
    """The first images of every sampler from the same starting points, the most evaluations on top."""
    ordered = sorted(samplers, key=lambda sampler: (sampler.evaluations, sampler.id), reverse=True)
    labelled_rows([(s.id.partition("/")[2] or s.id, cache.first(s, starts, columns)) for s in ordered], path)


def labelled_rows(rows: Sequence[tuple[str, NDArray[np.uint8]]], path: Path, *, scale: int = 2) -> None:
    """Write a PNG with a labelled row of images for each (text, uint8 [N,C,H,W]); pixels are enlarged `scale` times."""
    font = ImageFont.load_default(size=_FONT)
    margin = int(max(font.getlength(text) for text, _ in rows)) + 3 * _PAD
    count, _, height, width = rows[0][1].shape
    side_y, side_x = height * scale + _PAD, width * scale + _PAD
    sheet = Image.new("RGB", (margin + count * side_x + _PAD, len(rows) * side_y + _PAD), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (text, images) in enumerate(rows):
        top = _PAD + i * side_y
        draw.text((margin - 2 * _PAD, top + side_y / 2), text, fill="black", font=font, anchor="rm")
        for j, image in enumerate(images):
            tile = Image.fromarray(image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0))
            tile = tile.resize((width * scale, height * scale), Image.Resampling.NEAREST)
            sheet.paste(tile, (margin + j * side_x, top))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)
