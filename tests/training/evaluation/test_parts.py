"""Pooling of a model's parts, with made-up results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.evaluation.test_results import FACTS, result
from training.errors import TrainingError
from training.evaluation.distances import mean_interval
from training.evaluation.parts import check_one_model, pooled
from training.evaluation.record import read_run, write_run
from training.evaluation.result import Measurements, Report, Result, TableFacts
from training.evaluation.results import merged, write_results
from training.evaluation.verdicts import difference


def part(kid: float, first: int, images: int, model: str = "student", scatter: int = 0, **metrics: float) -> Result:
    """Return a result of one part. `scatter` seeds the random scatter of its estimates."""
    subsets = kid + 0.002 * np.random.default_rng(scatter).standard_normal(10)
    mean, low, high = mean_interval(subsets)
    made = {"kid": mean, "kid_low": low, "kid_high": high, **metrics}
    return replace(result(model, 4, kid), metrics=made, kid_subsets=subsets.tolist(), first_index=first, images=images)


def test_parts_are_one_row_whichever_report_is_read_first(tmp_path: Path) -> None:
    first = replace(part(0.010, 0, 200, class_agreement=0.9, fd=100.0, recall=0.5, neighbourhood=200.0), psnr=[30.0] * 20)
    results = [first, part(0.016, 200, 100, scatter=1, class_agreement=0.6, fd=90.0), part(0.5, 200, 100, "DDIM")]
    for name, one in zip("abc", results, strict=True):
        write_run(tmp_path / f"{name}.json", "tiny", Report([one], FACTS), Measurements(first_index=one.first_index), "command")
    for order in ("abc", "cba"):
        found = {r.method: r for r in merged([read_run(tmp_path / f"{name}.json") for name in order])}
        assert (found["DDIM"].images, found["DDIM"].first_index) == (100, 200)  # not changed: it has no first part
        made = found["student"]
        assert (made.images, made.first_index, made.parts, made.psnr) == (300, 0, [200, 100], first.psnr)
        assert made.metrics["class_agreement"] == pytest.approx(0.8)
        assert not {"fd", "recall", "neighbourhood"} & made.metrics.keys()
        estimates = (2 * np.asarray(first.kid_subsets) + np.asarray(results[1].kid_subsets)) / 3
        assert made.kid_subsets == pytest.approx(estimates)
        assert [made.metrics[name] for name in ("kid", "kid_low", "kid_high")] == pytest.approx(mean_interval(estimates))


def test_rows_of_the_same_parts_are_paired_and_no_others() -> None:
    ours, theirs = ([part(kid, 0, 100, scatter=1), part(kid, 100, 100, scatter=2)] for kid in (0.01, 0.02))
    a, b = pooled(ours[0], ours[1:]), pooled(theirs[0], theirs[1:])
    assert difference(b, a) == pytest.approx((0.01, 0.01, 0.01))  # the same scatter in both cancels
    for other in (part(0.01, 0, 200, scatter=1), part(0.01, 200, 200, scatter=1)):
        halves = [(r.metrics["kid_high"] - r.metrics["kid_low"]) / 2 for r in (b, other)]
        mean, _, high = difference(b, other)
        assert high - mean == pytest.approx(np.hypot(*halves))


def test_of_parts_that_overlap_the_longer_one_counts() -> None:
    parts = [part(0.03, 200, 100), part(0.01, 100, 50), part(0.02, 100, 100)]
    for order in (parts, parts[::-1]):
        assert pooled(part(0.01, 0, 100), order).parts == [100, 100, 100]
    whole = part(0.01, 0, 400)
    assert pooled(whole, parts) is whole


def test_missing_images_are_named() -> None:
    with pytest.raises(TrainingError, match=r"images 100 to 149 of tiny/.* measure them with --first-index 100"):
        pooled(part(0.01, 0, 100), [part(0.01, 150, 100)])


def known(**facts: Any) -> TableFacts:
    return TableFacts.model_validate(facts)


@pytest.mark.parametrize(
    "change",
    [{"facts": known(weights="b")}, {"plan": "dpmpp-004"}, {"facts": known(parameters=7, weights="a")}],
)
def test_another_model_of_the_same_name_is_refused(change: dict[str, Any]) -> None:
    one = replace(part(0.01, 0, 100), facts=known(kind="student", weights="a", parameters=5))
    check_one_model([one, replace(one, facts=known(kind="student"))])  # an older report, which knows less
    with pytest.raises(TrainingError, match="several models by the name"):
        check_one_model([one, replace(one, **change)])


def test_parts_of_an_ablation_are_one_row_too(tmp_path: Path) -> None:
    for number, results in enumerate(([part(0.01, 0, 100), part(0.02, 0, 100, "DDIM")], [part(0.03, 100, 100)])):
        plan = Measurements(first_index=results[0].first_index)
        write_run(tmp_path / f"runs/{number}.json", "tiny", Report(results, FACTS), plan, "command", "parts")
    write_results(tmp_path / "runs", tmp_path / "results.md", "report")
    text = (tmp_path / "results.md").read_text().split("### Ablation: parts")[1].split("###")[0]
    (line,) = [line for line in text.splitlines() if line.startswith("| tiny/student-004")]
    assert "| 200 |" in line
    assert "images from seed 0, number 100 and on" in text
