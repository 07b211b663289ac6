"""tests.no_skip as a plugin of another pytest: in one process, and in the workers of pytest-xdist."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SKIPS = """
import pytest

def test_passes():
    pass

@pytest.mark.skip(reason="no such program")
def test_marked():
    pass

def test_calls():
    pytest.skip("no such data")

@pytest.mark.xfail(reason="known")
def test_expected_failure():
    assert False
"""


@pytest.fixture(params=[0, 2], ids=["one-process", "two-workers"])
def workers(request: pytest.FixtureRequest) -> int:
    count: int = request.param
    return count


def run(folder: Path, variable: str, workers: int) -> subprocess.CompletedProcess[str]:
    (folder / "test_skips.py").write_text(SKIPS)
    (folder / "test_module.py").write_text('import pytest\npytest.importorskip("no_such_module")\n')
    options = ["-p", "tests.no_skip", "-p", "no:cacheprovider", "--continue-on-collection-errors", "--rootdir", folder]
    options += ["-p", "xdist.plugin", "-n", str(workers)]
    outer = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, folder],
        env=outer | {"SFDDM_TEST_NO_SKIP": variable, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("variable", ["", "0"])
def test_skips_are_skips_elsewhere(tmp_path: Path, variable: str, workers: int) -> None:
    result = run(tmp_path, variable, workers)
    assert result.returncode == 0, result.stdout
    assert "1 passed, 3 skipped, 1 xfailed" in result.stdout


def test_skips_fail_where_nothing_may_be_skipped(tmp_path: Path, workers: int) -> None:
    result = run(tmp_path, "1", workers)
    assert result.returncode != 0
    assert "1 failed, 1 passed, 1 xfailed, 2 errors" in result.stdout
    assert "no such program (SFDDM_TEST_NO_SKIP is set" in result.stdout
    assert "no_such_module" in result.stdout
