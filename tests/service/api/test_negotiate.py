"""The choice between offers by a malformed Accept header. tests/service/api/test_images.py has the well-formed ones."""

from __future__ import annotations

import pytest

from service.api.negotiate import choose

OFFERED = ["application/json", "image/png", "image/webp"]


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("IMAGE/PNG; Q=0.5", "image/png"),
        ("image/webp;q=.7, application/json;q=.6", "image/webp"),
        ("image/png;q=7", "image/png"),
        ("image/png;level=1, application/json;q=0.5", "image/png"),
        ("image/png;q=high", None),
        ("image/png;q=nan", None),
        ("image/png;q=nan, application/json;q=0.1", "application/json"),
        ("image/png;q=-1, image/webp;q=0.1", "image/webp"),
        ("image, , png;, image/webp", "image/webp"),
        ("*/*;q=0", None),
        (" ", "application/json"),
    ],
)
def test_what_can_be_read_of_a_header_decides(accept: str, chosen: str | None) -> None:
    assert choose(accept, OFFERED) == chosen
