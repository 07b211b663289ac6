"""Pixels: rounding, Pillow's layout, and many images on one sheet."""

from __future__ import annotations

import numpy as np
import pytest

from models.pictures import channels_last, contact_sheet, to_uint8


def test_pixels_are_rounded_and_clipped() -> None:
    x = np.array([-2, -1, -0.999, 0.0, 0.5, 1, 2], dtype=np.float32)
    assert to_uint8(x).tolist() == [0, 0, 0, 128, 191, 255, 255]


def test_every_level_survives_the_round_trip() -> None:
    levels = np.arange(256, dtype=np.uint8)
    assert np.array_equal(to_uint8((levels / 127.5 - 1).astype(np.float32)), levels)


def test_channels_are_last_and_one_channel_has_no_axis() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(3, 2, 4)
    assert channels_last(pixels).shape == (2, 4, 3)
    assert np.array_equal(channels_last(pixels)[..., 1], pixels[1])
    assert np.array_equal(channels_last(pixels[:1]), pixels[0])


def test_a_contact_sheet_places_images_row_by_row_with_white_between() -> None:
    images = [np.full((3, 4, 5), value, dtype=np.uint8) for value in (10, 20, 30)]
    sheet = contact_sheet(images, gap=1)
    assert sheet.shape == (3, 9, 11)
    assert (sheet[:, :4, :5] == 10).all()
    assert (sheet[:, :4, 6:] == 20).all()
    assert (sheet[:, 5:, :5] == 30).all()
    assert (sheet[:, 4] == 255).all()
    assert (sheet[:, 5:, 6:] == 255).all()
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])


def test_columns_and_a_border() -> None:
    sheet = contact_sheet([np.zeros((1, 2, 3), dtype=np.uint8)] * 3, columns=3, gap=2, border=1)
    assert sheet.shape == (1, 4, 3 * 3 + 2 * 2 + 2)
    assert (sheet[0, 1:3, 1:4] == 0).all()
    assert (sheet[0, [0, -1]] == 255).all()
    assert (sheet[0, :, [0, -1]] == 255).all()
