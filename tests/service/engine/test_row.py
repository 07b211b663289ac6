"""The steps of a row after which a preview is due."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.request import preview_steps


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
