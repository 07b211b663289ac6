"""schemathesis against a real server: every answer is one that /openapi.json promises, whatever is sent."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, Server, serving

COMMAND = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(ROOT / "schemathesis.toml"), "run"]


@pytest.fixture(scope="module")
def bounded(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a server with limits so small that schemathesis reaches them."""
    options = ("--zoo", str(tiny_zoo), "--default-model", "tiny/student-004", "--max-n", "2", "--threads", "1")
    experiments = json.dumps({"steps": {"arms": {"tiny/student-004": 1, "tiny/student-008": 1}}})
    log = tmp_path_factory.mktemp("schema") / "log"
    with serving(log, *options, SFDDM_MAX_JOB_IMAGES="4", SFDDM_EXPERIMENTS=experiments) as server:
        yield server


@pytest.mark.parametrize(
    "bound",
    [
        ("--max-examples", "3", "--phases", "examples,coverage,fuzzing"),
        # Follows links, from the id in one answer to the next request: a job is posted, watched, cancelled, downloaded.
        # The first DELETE cancels an unfinished job, which can then still be read; the second one deletes it.
        (
            "--max-examples",
            "20",
            "--phases",
            "stateful",
            "--include-path-regex",
            "^/v1/jobs",
            "--exclude-checks",
            "use_after_free",
        ),
        ("--max-examples", "10", "--phases", "stateful", "--exclude-path-regex", "^/v1/jobs"),
    ],
    ids=["stateless", "jobs", "links"],
)
def test_nothing_is_found_on_all_checks(bounded: Server, tmp_path: Path, bound: tuple[str, ...]) -> None:
    result = subprocess.run(
        [*COMMAND, f"{bounded.url}/openapi.json", "--checks", "all", "--seed", "1", *bound],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    if "stateful" in bound:
        assert "API Links:    0 covered" not in result.stdout
        assert "API Links:" in result.stdout
