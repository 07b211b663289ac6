"""schemathesis against a real server: what /openapi.json promises, it keeps, whatever is sent."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.e2e.conftest import ROOT, serving

BOUND = ("--max-examples", "3", "--seed", "1", "--phases", "examples,coverage,fuzzing")


def test_nothing_is_found_on_all_checks(tiny_zoo: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(ROOT / "schemathesis.toml"), "run"]
    options = ("--zoo", str(tiny_zoo), "--default-model", "tiny/student-004", "--max-n", "2", "--threads", "1")
    experiments = json.dumps({"steps": {"arms": {"tiny/student-004": 1, "tiny/student-008": 1}}})
    with serving(tmp_path / "log", *options, SFDDM_MAX_JOB_IMAGES="4", SFDDM_EXPERIMENTS=experiments) as server:
        result = subprocess.run(
            [*command, f"{server.url}/openapi.json", "--checks", "all", *BOUND],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert result.returncode == 0, result.stdout
