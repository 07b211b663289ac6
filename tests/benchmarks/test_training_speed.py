"""The training benchmark runs, and its ratios agree with its rates."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.training_speed import summary

ROOT = Path(__file__).parents[2]


def test_quick_mode_compares_both_loops_with_the_plain_script(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "training_speed.py"), "--quick", "--out", str(tmp_path / "out.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    assert [row["loop"] for row in report["rows"]] == ["diffusers script", "teacher", "distill, k = 4"]
    plain, teacher, distilled = report["rates"].values()
    assert report["rows"][1]["ratio"]["median"] == pytest.approx(teacher[0] / plain[0])
    assert report["rows"][2]["ratio_per_evaluation"]["median"] == pytest.approx(distilled[0] * 7 / (plain[0] * 3))
    assert result.stdout.count("\n|") == 4


def test_ratios_are_taken_within_a_round() -> None:
    """Check that a round in which the machine is twice as slow changes rates, not ratios."""
    rows = summary({"plain": [10.0, 20.0], "ours": [11.0, 22.0]}, {"plain": 3, "ours": 6})
    assert rows[1]["images_per_s"] == {"median": 16.5, "low": 11.0, "high": 22.0}
    assert rows[1]["ratio"] == pytest.approx({"median": 1.1, "low": 1.1, "high": 1.1})
    assert rows[1]["ratio_per_evaluation"]["median"] == pytest.approx(2.2)
