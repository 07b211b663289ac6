"""schemathesis against a real server: what /openapi.json promises, it keeps, whatever is sent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.e2e.conftest import ROOT, Server

BOUND = ("--max-examples", "5", "--seed", "1", "--phases", "examples,coverage,fuzzing")


def test_nothing_is_found_on_all_checks(server: Server, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(ROOT / "schemathesis.toml"), "run"]
    result = subprocess.run(
        [*command, f"{server.url}/openapi.json", "--checks", "all", *BOUND],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
