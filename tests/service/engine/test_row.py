"""The arithmetic of a row outside the step graph."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.request import preview_steps
from service.engine.row import pixels


def test_pixels_are_rounded_and_clipped() -> None:
    x = np.array([-2, -1, -0.999, 0.0, 0.5, 1, 2], dtype=np.float32)
    assert pixels(x).tolist() == [0, 0, 0, 128, 191, 255, 255]


def test_every_level_survives_the_round_trip() -> None:
    levels = np.arange(256, dtype=np.uint8)
    assert np.array_equal(pixels((levels / 127.5 - 1).astype(np.float32)), levels)


@pytest.mark.parametrize(
    ("steps", "previews", "due"),
    [(8, 0, ()), (8, 1, (4,)), (8, 3, (2, 4, 6)), (4, 3, (1, 2, 3)), (4, 9, (1, 2, 3)), (1, 2, ()), (1024, 3, (256, 512, 768))],
)
def test_previews_are_evenly_spaced(steps: int, previews: int, due: tuple[int, ...]) -> None:
    assert preview_steps(steps, previews) == due


@given(st.integers(1, 2000), st.integers(0, 50))
def test_previews_come_one_by_one_before_the_end(steps: int, previews: int) -> None:
    due = preview_steps(steps, previews)
    assert len(due) == min(previews, steps - 1)
    assert list(due) == sorted(set(due))
    assert all(0 < step < steps for step in due)
