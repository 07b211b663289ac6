"""A picture of all models: one row of images for each model, one column for each noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from models.image_metrics import UInt8
from models.pictures import channels_last, contact_sheet
from training.evaluation.candidates import Candidate
from training.evaluation.images import ImageCache, Starts

_PAD, _FONT = 4, 15  # pixels


def draw(cache: ImageCache, candidates: Sequence[Candidate], starts: Starts, columns: int, path: Path) -> None:
    """Draw the first images of every candidate from the same starting points. Most evaluations come first."""
    ordered = sorted(candidates, key=lambda candidate: (candidate.evaluations, candidate.id), reverse=True)
    labelled_rows([(s.id.partition("/")[2] or s.id, cache.first(s, starts, columns)) for s in ordered], path)


def labelled_rows(rows: Sequence[tuple[str, UInt8]], path: Path, *, scale: int = 2) -> None:
    """Write a PNG with a labelled row of images for each (text, uint8 [N,C,H,W]); pixels are enlarged `scale` times."""
    font = ImageFont.load_default(size=_FONT)
    margin = int(max(font.getlength(text) for text, _ in rows)) + 2 * _PAD
    images = np.concatenate([images for _, images in rows]).repeat(scale, axis=2).repeat(scale, axis=3)
    sheet = channels_last(contact_sheet(images, columns=len(rows[0][1]), gap=_PAD, border=_PAD))
    figure = Image.new("RGB", (margin + sheet.shape[1] + _PAD, sheet.shape[0]), "white")
    figure.paste(Image.fromarray(sheet), (margin, 0))
    pen = ImageDraw.Draw(figure)
    side_y = images.shape[2] + _PAD
    for i, (text, _) in enumerate(rows):
        pen.text((margin - _PAD, _PAD + (i + 0.5) * side_y), text, fill="black", font=font, anchor="rm")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.save(path, optimize=True)
