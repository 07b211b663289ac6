"""The numbers of a comparison as text, in the table and in the report."""

from __future__ import annotations

import pytest

from service.cli.comparison_html import html
from service.cli.comparison_table import cells
from service.schema.comparisons import ComparisonResponse, Interval, ModelResult, Spread
from service.schema.images import TimingBody


def comparison(speed: Interval) -> ComparisonResponse:
    spread = Spread(median=0.1, p95=0.1)
    results = [
        ModelResult(
            model=name,
            kind="student",
            steps=4,
            images=[],
            queue_s=spread,
            compute_s=spread,
            total_s=spread,
            samples=[TimingBody(queue_s=0, compute_s=0.1, total_s=0.1, estimated_s=0.1, mean_batch=1)],
            speed_up=None if name == "a/reference" else speed,
            agreement=None,
            quality=None,
        )
        for name in ("a/reference", "a/other")
    ]
    return ComparisonResponse(
        created=0,
        mode="concurrent",
        reference="a/reference",
        seed=1,
        n=1,
        repeats=6,
        rounds=6,
        size="8x8",
        output_format="png",
        results=results,
    )


@pytest.mark.parametrize(
    ("speed", "says"),
    [
        (Interval(value=0.97, low=0.84, high=0.99), ("0.97x", "0.84-0.99")),
        (Interval(value=1.04, low=1.01, high=2.04), ("1.04x", "1.01-2.0")),
        (Interval(value=12.34, low=None, high=None), ("12.3x", "")),
    ],
)
def test_a_speed_up_near_one_is_not_rounded_away(speed: Interval, says: tuple[str, str]) -> None:
    compared = comparison(speed)
    assert cells(compared, compared.results[1])[5:7] == says
    assert f"<td>{says[0]}</td><td>{says[1]}</td>" in html(compared)
