"""tests.shared: a folder is made once, however many workers ask for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ASKS = """
import os
from tests.shared import made_once

def test_asks(tmp_path_factory):
    def make(folder):
        (folder / f"by-{os.getpid()}").touch()
        with open(os.environ["MADE"], "a") as made:
            made.write("once\\n")

    folder = made_once(tmp_path_factory, "expensive", make)
    assert len(list(folder.iterdir())) == 1
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_it_is_made_once(tmp_path: Path, workers: int) -> None:
    for name in ("test_one.py", "test_two.py"):
        (tmp_path / name).write_text(ASKS)
    changes = {"MADE": str(tmp_path / "made"), "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    outer = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    options = ["-p", "xdist.plugin", "-n", str(workers), "--dist", "loadfile", "-p", "no:cacheprovider", "--rootdir", tmp_path]
    command = [sys.executable, "-m", "pytest", *options, "--import-mode=importlib", tmp_path]
    result = subprocess.run(command, env=outer | changes, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    assert "2 passed" in result.stdout
    assert (tmp_path / "made").read_text() == "once\n"
