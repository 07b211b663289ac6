"""The training benchmark runs, and its ratios are those of its rates."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_quick_mode_compares_both_loops_with_the_plain_script(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "training_speed.py"), "--quick", "--out", str(tmp_path / "out.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["loop"] for row in rows] == ["diffusers script", "teacher", "distill, k = 4"]
    plain, teacher, distilled = (row["images_per_s"] for row in rows)
    assert rows[1]["ratio"] == pytest.approx(teacher / plain)
    assert rows[2]["ratio_per_evaluation"] == pytest.approx(distilled * 7 / (plain * 3))
    assert result.stdout.count("\n|") >= 4
